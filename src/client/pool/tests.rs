use std::{convert::Infallible, future::pending};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    super::{body::HttpBody, limits::Limits, reuse::Hint},
    *,
};

type Body = Empty<Bytes>;

const SECOND: Duration = Duration::from_secs(1);

fn pool(max_idle: usize, idle_for: impl Into<Option<Duration>>) -> Arc<Pool<Body>> {
    Arc::new(Pool::new(max_idle, idle_for.into()))
}

/// A connection to a server whose responses are too long to be read ahead, and its task.
async fn connection() -> (Connection<Body>, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1024);
    let answer = service_fn(async |_: Request<Incoming>| {
        let body = Full::new(Bytes::from_static(&[0; 1 << 20]));
        Ok::<_, Infallible>(Response::new(body))
    });
    tokio::spawn(
        server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), answer),
    );
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(ours))
        .await
        .unwrap();
    let open = tokio::spawn(async move { connection.await.unwrap() });
    sender.ready().await.unwrap();
    let life = Life::new(open.abort_handle());
    (Connection::new(sender, life, None), open)
}

async fn ask(connection: &mut Connection<Body>) -> HttpBody {
    let request = Request::new(Body::new());
    let answer = connection.sender.send_request(request).await.unwrap();
    HttpBody::wrap(answer, Some(Arc::clone(&connection.life)), Limits::new()).into_body()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

fn never() -> Connecting<Body> {
    Box::pin(pending())
}

#[tokio::test]
async fn a_connection_is_taken_again_only_when_its_answer_was_read() {
    let pool = pool(usize::MAX, None);
    let (mut sender, _open) = connection().await;
    let body = ask(&mut sender).await;
    pool.put(sender);
    assert!(pool.take(false).is_none(), "its body still comes");
    body.collect().await.unwrap();
    tokio::task::yield_now().await;
    assert!(pool.take(false).is_some());
    assert!(pool.take(false).is_none(), "there is but one");
}

#[tokio::test]
async fn who_connects_takes_what_becomes_ready_before() {
    for late in [false, true] {
        let pool = pool(usize::MAX, None);
        let (mut sender, _open) = connection().await;
        let body = ask(&mut sender).await;
        let mut waits = tokio_test::task::spawn(pool.wait(never()));
        if late {
            assert!(waits.poll().is_pending());
            pool.put(sender);
        } else {
            pool.put(sender);
            assert!(waits.poll().is_pending());
        }
        tokio::task::yield_now().await;
        assert!(waits.poll().is_pending(), "its body still comes");
        body.collect().await.unwrap();
        let (_, used) = waits.await.unwrap();
        assert!(used);
    }
}

#[tokio::test]
async fn what_was_handed_to_one_that_has_gone_goes_back() {
    let pool = pool(usize::MAX, None);
    let mut waits = tokio_test::task::spawn(pool.wait(never()));
    assert!(waits.poll().is_pending());
    pool.put(connection().await.0);
    assert!(pool.take(false).is_none(), "it was handed over");
    drop(waits);
    assert!(pool.take(false).is_some());
}

#[tokio::test]
async fn a_connection_that_was_being_made_when_another_came_is_kept() {
    let pool = pool(usize::MAX, None);
    let (made, makes) = oneshot::channel();
    let mut waits = tokio_test::task::spawn(pool.wait(Box::pin(async { Ok(makes.await?) })));
    assert!(waits.poll().is_pending());
    pool.put(connection().await.0);
    assert!(waits.await.unwrap().1);
    assert!(made.send(connection().await.0).is_ok());
    tokio::task::yield_now().await;
    assert!(pool.take(false).is_some());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_in_time() {
    let pool = pool(usize::MAX, 8 * SECOND);
    let (sender, open) = connection().await;
    pool.put(sender);
    sleep(6 * SECOND).await;
    let sender = pool.take(false).expect("it is young");
    pool.put(sender);
    sleep(6 * SECOND).await;
    assert!(!open.is_finished(), "it was used between");
    sleep(2 * SECOND + SECOND / 2).await;
    assert!(open.is_finished() && pool.take(false).is_none());
    // The idle time starts again.
    let (sender, open) = connection().await;
    pool.put(sender);
    sleep(9 * SECOND).await;
    assert!(open.is_finished());
}

#[tokio::test(start_paused = true)]
async fn one_whose_answer_still_comes_is_not_idle() {
    let pool = pool(usize::MAX, 8 * SECOND);
    let (mut sender, open) = connection().await;
    let body = ask(&mut sender).await;
    pool.put(sender);
    sleep(60 * SECOND).await;
    assert!(!open.is_finished());
    body.collect().await.unwrap();
    sleep(6 * SECOND).await;
    assert!(!open.is_finished());
    sleep(3 * SECOND).await;
    assert!(open.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_gets_ready_closes_when_nobody_reads_from_it() {
    // The second is watched by a task, because not all connections may be kept.
    for max_idle in [usize::MAX, 1] {
        let pool = pool(max_idle, 8 * SECOND);
        let (mut sender, open) = connection().await;
        let body = ask(&mut sender).await;
        // As when the request is still being uploaded.
        let rest = mem::replace(&mut sender.life, Life::new(open.abort_handle()));
        rest.leave();
        pool.put(sender);
        sleep(6 * SECOND).await;
        assert!(!open.is_finished());
        sleep(4 * SECOND).await;
        assert!(open.is_finished());
        drop(body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_lives_no_longer_than_its_peer_announced() {
    let pool = pool(usize::MAX, None);
    let hint = |secs, requests| {
        let idle = Some(Duration::from_secs(secs));
        Some(Hint { idle, requests })
    };
    let (mut sender, _open) = connection().await;
    for _ in 0..3 {
        sender.note(hint(4, None));
        pool.put(sender);
        sleep(3 * SECOND).await;
        sender = pool
            .take(false)
            .expect("each response starts the time again");
    }
    sender.note(hint(4, None));
    pool.put(sender);
    sleep(4 * SECOND).await;
    assert!(pool.take(false).is_none());

    // It can carry two more requests, whether the peer counts down or not.
    for announced in [[2, 1, 0], [2, 2, 2]] {
        let (mut sender, open) = connection().await;
        for (n, requests) in announced.into_iter().enumerate() {
            sender.note(hint(60, Some(requests)));
            pool.put(sender);
            let Some(taken) = pool.take(false) else {
                assert_eq!(n, 2, "{announced:?}");
                sender = connection().await.0;
                break;
            };
            sender = taken;
        }
        drop(sender);
        tokio::task::yield_now().await;
        assert!(open.is_finished());
    }
}

#[tokio::test]
async fn no_more_are_kept_than_asked_for() {
    for (most, idle_for) in [(1, None), (0, None), (usize::MAX, Some(Duration::ZERO))] {
        let pool = pool(most, idle_for);
        for _ in 0..3 {
            pool.put(connection().await.0);
        }
        let kept = (0..3).filter_map(|_| pool.take(false)).count();
        assert_eq!(kept, most.min(1) * usize::from(idle_for.is_none()));
    }
}

#[tokio::test]
async fn the_last_clone_closes_what_is_idle() {
    let pool = pool(usize::MAX, SECOND);
    let (sender, open) = connection().await;
    pool.put(sender);
    drop(pool);
    // It ends by itself, and is not cut off.
    open.await.unwrap();
}

#[tokio::test]
async fn who_finds_a_ready_one_starts_no_other() {
    let pool = pool(usize::MAX, None);
    pool.put(connection().await.0);
    let (starts, mut started) = oneshot::channel();
    let connecting = Box::pin(async {
        starts.send(()).unwrap();
        pending().await
    });
    assert!(pool.wait(connecting).await.unwrap().1);
    tokio::task::yield_now().await;
    assert!(started.try_recv().is_err(), "nobody asked for it");
}

#[test]
fn a_place_in_the_queue_may_be_given_up_outside_a_runtime() {
    let pool = pool(usize::MAX, SECOND);
    let runtime = runtime();
    let mut waits = tokio_test::task::spawn(pool.wait(never()));
    let (sender, open) = runtime.block_on(connection());
    assert!(waits.poll().is_pending());
    pool.put(sender);
    drop(waits);
    // It ages again as soon as another connection is put back.
    runtime.block_on(async {
        pool.put(connection().await.0);
        sleep(2 * SECOND).await;
        assert!(open.is_finished() && pool.take(false).is_none());
    });
}

#[test]
fn connections_age_on_whatever_runtime_they_are_used() {
    let pool = pool(usize::MAX, SECOND);
    for _ in 0..2 {
        runtime().block_on(async {
            let (sender, open) = connection().await;
            pool.put(sender);
            sleep(2 * SECOND).await;
            assert!(open.is_finished(), "nobody uses it");
            pool.put(connection().await.0);
        });
        assert!(pool.take(false).is_none(), "it went with its runtime");
    }
}

#[tokio::test]
async fn what_was_closed_leaves_room() {
    let pool = pool(1, None);
    let (sender, open) = connection().await;
    pool.put(sender);
    open.abort();
    assert!(open.await.is_err());
    pool.put(connection().await.0);
    assert!(pool.take(false).is_some());
}
