//! Waiting for a change.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

use super::*;

#[tokio::test]
async fn a_waiting_request_is_answered_when_its_service_changes() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    let first = front.get("/registry/services/web").await.ok();
    let (index, epoch) = position(&first);
    let target = format!("/registry/services/web?index={index}&epoch={epoch}&wait=60s");
    let (reply, ()) = tokio::join!(front.get(&target), async {
        let waits = || async { front.memory.watchers("web") == 1 };
        support::eventually(LONG, "the request waits", waits).await;
        // Another service is none of its business.
        let other = Instance::new("other", "o", "127.0.0.1:1".parse().unwrap());
        front.memory.register(other).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(front.memory.watchers("web"), 1);
        front.memory.register(instance("b")).unwrap();
    });
    assert_eq!(listed(&reply), ["a", "b"]);
    let (new, same) = position(&reply);
    assert!(new > index, "the index grows");
    assert_eq!(same, epoch);
}

#[tokio::test]
async fn an_index_that_is_older_or_not_of_this_start_is_answered_at_once() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    let (index, epoch) = position(&front.get("/registry/services/web").await.ok());
    for position in [
        String::new(),
        "index=0".to_owned(),
        format!("index={}", index - 1),
        format!("index={}", index + 1_000_000),
        format!("index={}", u64::MAX),
        format!("index={index}&epoch={}", epoch ^ 1),
    ] {
        let target = format!("/registry/services/web?wait=600s&{position}");
        let reply = timeout(SECOND * 20, front.get(&target));
        let reply = reply.await.unwrap_or_else(|_| panic!("{position} waited"));
        assert_eq!(listed(&reply), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_are_bounded() {
    let memory = Memory::new();
    let lasting = registry::Announcement::new(instance("a")).health(registry::Health::Unchecked);
    memory.register(lasting).unwrap();
    let index = memory.index();
    for (wait, least) in [
        ("", SECOND * 300),
        ("&wait=0s", Duration::ZERO),
        ("&wait=500ms", SECOND / 2),
        ("&wait=1.5s", SECOND * 3 / 2),
        ("&wait=2m", SECOND * 120),
        ("&wait=24h", SECOND * 600),
    ] {
        let target = format!("http://localhost/registry/services/web?index={index}{wait}");
        let request = Request::get(target).body(Full::<Bytes>::default()).unwrap();
        let start = Instant::now();
        let reply = RestServer::new(memory.clone())
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(reply.status(), 200);
        let after = start.elapsed();
        let most = least + least / 16 + SECOND / 50;
        assert!((least..=most).contains(&after), "{wait:?} took {after:?}");
    }
}

#[tokio::test]
async fn tags_select_what_a_request_lists() {
    let front = Front::start().await;
    front.memory.register(instance("a").tag("v1")).unwrap();
    front
        .memory
        .register(instance("b").tag("v1").tag("v 2&"))
        .unwrap();
    let all = front.get("/registry/services/web?tag=v1").await.ok();
    assert_eq!(listed(&all), ["a", "b"]);
    let one = front
        .get("/registry/services/web?tag=v1&tag=v%202%26")
        .await;
    assert_eq!(listed(&one.ok()), ["b"]);
}

#[tokio::test]
async fn a_client_that_hangs_up_is_noticed() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    let target = format!("/registry/services/web?index={}", front.memory.index());
    let waiting = timeout(LONG, front.get(&target));
    tokio::select! {
        _ = waiting => panic!("nothing changed"),
        () = support::eventually(LONG, "it waits", || async {
            front.memory.watchers("web") == 1
        }) => {}
    }
    support::eventually(LONG, "its end is noticed", || async {
        front.memory.watchers("web") == 0
    })
    .await;
}

#[tokio::test]
async fn faults_reach_the_front_too() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    front.memory.fail_next(1);
    assert_eq!(front.get("/registry/services/web").await.status, 503);
    front.get("/registry/services/web").await.ok();

    let target = format!("/registry/services/web?index={}", front.memory.index());
    let (reply, ()) = tokio::join!(front.get(&target), async {
        let waits = || async { front.memory.watchers("web") == 1 };
        support::eventually(LONG, "the request waits", waits).await;
        front.memory.drop_watchers();
    });
    assert_eq!(reply.status, 503);

    front.memory.pause();
    let frozen = timeout(SECOND / 5, front.get("/registry/health")).await;
    assert!(frozen.is_err(), "a paused registry answers nothing");
    front.memory.resume();
    front.get("/registry/health").await.ok();
}

#[tokio::test]
async fn a_connection_goes_on_after_a_request_that_waited() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    let mut stream = tokio::net::TcpStream::connect(front.addr).await.unwrap();
    for round in 0..3 {
        let index = front.memory.index();
        // The second request is sent before the first is answered.
        let requests = format!(
            "GET /registry/services/web?tag=&tag=%20&index={index}&wait=60s HTTP/1.1\r\n\
             Host: localhost\r\n\r\nGET /registry/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        stream.write_all(requests.as_bytes()).await.unwrap();
        let waits = || async { front.memory.watchers("web") == 1 };
        support::eventually(LONG, "the request waits", waits).await;
        front
            .memory
            .register(instance("a").weight(round + 2))
            .unwrap();
        let mut text = String::new();
        while !text.contains("\"passing\",\"services\"") {
            let mut buffer = [0; 4_096];
            let read = timeout(LONG, stream.read(&mut buffer)).await.unwrap();
            let read = read.unwrap();
            assert!(read > 0, "the connection stays open: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        assert_eq!(text.matches("HTTP/1.1 200 ").count(), 2, "{text}");
        assert!(text.contains("\"serviceName\":\"web\""), "{text}");
    }
}

#[tokio::test]
async fn a_wait_without_a_change_ends_on_time() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    let target = format!(
        "/registry/services/web?index={}&wait=300ms",
        front.memory.index()
    );
    let start = std::time::Instant::now();
    let reply = timeout(LONG, front.get(&target)).await.unwrap().ok();
    assert!(start.elapsed() >= SECOND * 3 / 10);
    assert_eq!(listed(&reply), ["a"]);
    assert_eq!(position(&reply).0, front.memory.index());
}
