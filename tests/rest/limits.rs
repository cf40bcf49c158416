//! What clients can make the registry hold and do is bounded, and others are served meanwhile.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tower_roster::registry::{Announcement, Health, memory::MemoryLimits};

use super::*;

fn lasting(instance: Instance) -> Announcement {
    Announcement::new(instance).health(Health::Unchecked)
}

async fn served(settings: RestServerSettings) -> Front {
    let addr = "127.0.0.1:0".parse().unwrap();
    Front::with(Memory::new(), addr, settings).await
}

async fn limited(limits: MemoryLimits) -> Front {
    let memory = Memory::builder().limits(limits).build().unwrap();
    Front::over(memory, "127.0.0.1:0".parse().unwrap()).await
}

fn registration(id: &str, fields: serde_json::Value) -> String {
    let mut body = json!({"serviceId": id, "serviceName": "web", "host": "127.0.0.1", "port": 80});
    let fields = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body.to_string()
}

#[tokio::test]
async fn more_tags_than_allowed_are_refused_and_repeated_ones_count_once() {
    let front = Front::start().await;
    let tags = |n: usize| (0..n).map(|n| format!("t{n}")).collect::<Vec<_>>();
    let query = |n: usize| {
        let tags: String = tags(n).iter().map(|tag| format!("tag={tag}&")).collect();
        format!("/registry/services/web?{tags}")
    };
    let repeated = [tags(64), tags(64)].concat();
    let body = registration("a", json!({"tags": repeated}));
    let held = front.put(&body).await.ok().json();
    assert_eq!(held["tags"], json!(tags(64)), "in their order");
    let reply = front
        .put(&registration("b", json!({"tags": tags(65)})))
        .await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("tags"), "{}", reply.text());

    assert_eq!(listed(&front.get(&query(64)).await.ok()), ["a"]);
    let twice = query(64) + query(64).split('?').nth(1).unwrap();
    assert_eq!(listed(&front.get(&twice).await.ok()), ["a"]);
    assert_eq!(front.get(&query(65)).await.status, 400);
    let none = front.get(&(query(63) + "tag=other")).await.ok();
    assert!(listed(&none).is_empty());
}

/// 1,000 instances with many tags, and queries with as many tags as there may be: each of them compared
/// with each of the others was work of minutes, under the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_with_many_tags_delay_no_heartbeat() {
    let front = Front::start().await;
    for id in 0..1_000 {
        let mut instance = instance(&format!("i{id}"));
        instance.tags = (0..64).map(|tag| format!("{:0>200}", tag)).collect();
        front.memory.register(lasting(instance)).unwrap();
    }
    // Few: what fits into the head of a request.
    let tags: String = (0..48).map(|tag| format!("tag={:0>200}&", tag)).collect();
    let queries = (0..20).map(|n| {
        let target = format!("/registry/services/web?{tags}tag={n}");
        let addr = front.addr;
        tokio::spawn(async move {
            support::http1::send(addr, "GET", &target, &[], b"", LONG)
                .await
                .unwrap()
                .ok()
        })
    });
    let queries: Vec<_> = queries.collect();
    let start = Instant::now();
    let beat = r#"{"serviceId": "i1"}"#;
    for _ in 0..20 {
        front.send("POST", "/registry/heartbeat", beat).await.ok();
    }
    let took = start.elapsed();
    assert!(took < SECOND * 5, "20 heartbeats took {took:?}");
    for query in queries {
        assert!(listed(&query.await.unwrap()).is_empty());
    }
}

#[tokio::test]
async fn a_full_registry_refuses_new_instances_and_serves_the_others() {
    let front = limited(MemoryLimits::new().instances(2)).await;
    for id in ["a", "b", "a"] {
        front.put(&registration(id, json!({}))).await.ok();
    }
    let reply = front.put(&registration("c", json!({}))).await;
    assert_eq!(reply.status, 507);
    assert!(reply.text().contains("2 instances"), "{}", reply.text());
    front
        .put(&registration("b", json!({"weight": 2})))
        .await
        .ok();
    front.send("DELETE", "/registry/a", "").await.ok();
    front.put(&registration("c", json!({}))).await.ok();

    let front = limited(MemoryLimits::new().bytes(64 << 10)).await;
    let large = json!({"metadata": {"k": "x".repeat(40_000)}});
    front.put(&registration("a", large.clone())).await.ok();
    assert_eq!(
        front.put(&registration("b", large.clone())).await.status,
        507
    );
    front.put(&registration("a", large.clone())).await.ok();
    front
        .put(&registration("a", json!({"weight": 2})))
        .await
        .ok();
    front.put(&registration("b", large)).await.ok();
}

/// Opens a connection with a request that waits for a change.
async fn waiting(front: &Front) -> TcpStream {
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let index = front.memory.index();
    let target = format!("/registry/services/web?index={index}&wait=600s");
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads to the end.
async fn read(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    let _ = timeout(LONG, read).await.expect("the connection ends");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_heartbeat_is_served_while_others_hold_every_connection() {
    let front = served(RestServerSettings::new().connections(8)).await;
    front.memory.register(lasting(instance("a"))).unwrap();
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(waiting(&front).await);
    }
    support::eventually(LONG, "they wait", || async {
        front.memory.watchers("web") == 6
    })
    .await;
    let beat = r#"{"serviceId": "a"}"#;
    front.send("POST", "/registry/heartbeat", beat).await.ok();
    let text = read(&mut held[0]).await;
    assert!(
        text.starts_with("HTTP/1.1 503 "),
        "the first one made room: {text}"
    );
    assert!(text.contains("retry-after: 1\r\n"), "{text}");
    support::eventually(LONG, "five wait", || async {
        front.memory.watchers("web") == 5
    })
    .await;

    // Nor do connections without a request keep it out.
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(front.addr).await.unwrap());
    }
    front.send("POST", "/registry/heartbeat", beat).await.ok();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let front = served(RestServerSettings::new().write_within(SECOND / 4)).await;
    // More than the buffers of a connection take.
    for id in 0..400 {
        let instance = instance(&format!("i{id}")).meta("k", "x".repeat(50_000));
        front.memory.register(lasting(instance)).unwrap();
    }
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(front.addr).await.unwrap();
        let request = "GET /registry/services/web HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let started = Instant::now();
    tokio::time::sleep(SECOND).await;
    for mut stream in streams {
        let mut read = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match timeout(LONG, stream.read(&mut buffer))
                .await
                .expect("an end")
            {
                Ok(0) | Err(_) => break,
                Ok(n) => read += n,
            }
        }
        assert!(read < 20_000_000, "it got only what was buffered: {read}");
    }
    assert!(started.elapsed() < SECOND * 10);
}

#[tokio::test]
async fn listings_beyond_what_may_be_sent_at_once_are_told_to_come_again() {
    let front = served(RestServerSettings::new().bodies(64 << 10)).await;
    for service in ["one", "two"] {
        for id in 0..400 {
            let address = "127.0.0.1:80".parse().unwrap();
            let instance = Instance::new(service, format!("{service}-{id}"), address);
            let instance = instance.meta("k", "x".repeat(50_000));
            front.memory.register(lasting(instance)).unwrap();
        }
    }
    let mut unread = TcpStream::connect(front.addr).await.unwrap();
    let request = "GET /registry/services/one HTTP/1.1\r\nHost: localhost\r\n\r\n";
    unread.write_all(request.as_bytes()).await.unwrap();
    unread.readable().await.unwrap();
    let reply = front.get("/registry/services/two").await;
    assert_eq!(reply.status, 503, "the first listing is not read yet");
    assert_eq!(reply.headers["retry-after"], "1");
    drop(unread);
    support::eventually(LONG, "there is room again", || async {
        front.get("/registry/services/two").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_check_reaches_only_the_address_that_registers_it() {
    let check = |host: &str| {
        let check = json!({"healthCheck": {"path": "/"}, "host": host});
        registration("a", check)
    };
    let front = Front::start().await;
    for own in ["127.0.0.1", "::1", "127.0.0.9", "::ffff:127.0.0.1"] {
        front.put(&check(own)).await.ok();
    }
    let never = ["169.254.169.254", "fe80::1", "::ffff:169.254.1.1"];
    for other in ["10.0.0.5", "192.0.2.1", "fd00::1"].iter().chain(&never) {
        let reply = front.put(&check(other)).await;
        assert_eq!(reply.status, 400, "{other}");
        assert!(reply.text().contains("healthCheck"), "{}", reply.text());
    }
    // Nobody is there, with a check or without.
    assert_eq!(front.put(&check("224.0.0.1")).await.status, 400);
    // Without a check, it may be anywhere.
    let plain = registration("b", json!({"host": "10.0.0.5"}));
    front.put(&plain).await.ok();

    let networks = MemoryLimits::new().check_network("0.0.0.0/0".parse().unwrap());
    let front = limited(networks).await;
    front.put(&check("10.0.0.5")).await.ok();
    for never in never {
        assert_eq!(front.put(&check(never)).await.status, 400, "{never}");
    }
}

#[tokio::test]
async fn a_client_cannot_say_who_registers() {
    let front = Front::start().await;
    let check = json!({"path": "/", "registrant": "10.0.0.5"});
    let body = registration("a", json!({"healthCheck": check, "host": "10.0.0.5"}));
    assert_eq!(front.put(&body).await.status, 400);
}

#[tokio::test]
async fn checks_in_a_hurry_and_checks_that_hang_are_refused() {
    let front = Front::start().await;
    for (check, field) in [
        (json!({"interval": 999}), "healthCheck.interval"),
        (json!({"timeout": 60_001}), "healthCheck.timeout"),
        (
            json!({"timeout": 31_536_000_000_u64}),
            "healthCheck.timeout",
        ),
    ] {
        let reply = front
            .put(&registration("a", json!({"healthCheck": check})))
            .await;
        assert_eq!(reply.status, 400);
        assert!(reply.text().contains(field), "{}", reply.text());
    }
    let check = json!({"healthCheck": {"interval": 1_000, "timeout": 60_000}});
    front.put(&registration("a", check)).await.ok();
}

#[tokio::test]
async fn an_answer_says_whether_the_state_file_has_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("registry.json");
    let memory = Memory::builder().persist(&path).build().unwrap();
    let front = Front::over(memory, "127.0.0.1:0".parse().unwrap()).await;
    let held = front.put(&registration("a", json!({}))).await.ok().json();
    assert_eq!(held["saved"], true);
    assert_eq!(held["id"], "a");
    std::fs::rename(&folder, directory.path().join("elsewhere")).unwrap();
    let held = front.put(&registration("b", json!({}))).await.ok().json();
    assert_eq!(held["saved"], false);
    let held = front.send("DELETE", "/registry/a", "").await.ok().json();
    assert_eq!(held["saved"], false);
    std::fs::rename(directory.path().join("elsewhere"), &folder).unwrap();
    let held = front.send("DELETE", "/registry/b", "").await.ok().json();
    assert_eq!(held["saved"], true);
    // Without a file there is nothing to say.
    let front = Front::start().await;
    let held = front.put(&registration("a", json!({}))).await.ok().json();
    assert_eq!(held.get("saved"), None);
}

#[tokio::test]
async fn a_registration_waits_for_a_slow_save_for_a_bounded_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let limits = MemoryLimits::new().save_pause(SECOND * 60);
    let memory = Memory::builder().persist(path).limits(limits);
    let front = Front::over(memory.build().unwrap(), "127.0.0.1:0".parse().unwrap()).await;
    let held = front.put(&registration("a", json!({}))).await.ok().json();
    assert_eq!(held["saved"], true);
    let start = Instant::now();
    let held = front.put(&registration("b", json!({}))).await.ok().json();
    assert_eq!(held["saved"], false, "the next save is in a minute");
    assert!(start.elapsed() < SECOND * 10, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_save_from_before_a_wipe_is_none_of_what_came_after() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let limits = MemoryLimits::new().save_pause(SECOND);
    let memory = Memory::builder().persist(folder.join("registry.json"));
    let memory = memory.limits(limits).build().unwrap();
    let front = Front::over(memory, "127.0.0.1:0".parse().unwrap()).await;
    let held = front.put(&registration("a", json!({}))).await.ok().json();
    assert_eq!(held["saved"], true);
    std::fs::rename(&folder, directory.path().join("elsewhere")).unwrap();
    front.memory.wipe();
    let held = front.put(&registration("b", json!({}))).await.ok().json();
    assert_eq!(held["saved"], false);
}
