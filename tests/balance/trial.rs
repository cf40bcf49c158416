//! Endpoints on trial: whom the one request of a probe comes from.

use std::task::Poll;

use tokio::{
    sync::broadcast::Receiver,
    time::{Duration, Instant, sleep},
};
use tower::Service;
use tower_roster::{
    attempt::Tried,
    balance::{BalanceEvent, BalanceLayer, policy::Random},
    endpoint::eject::Ejection,
};

use crate::kit::{Answer, Control, Ready, Rig, poll, settle};

fn rig() -> Rig<Random> {
    let ejection = Ejection::new()
        .consecutive_failures(3)
        .failure_ratio(None)
        .slow_factor(None);
    let layer = BalanceLayer::builder().policy(Random::new()).seed(1);
    Rig::with(layer.ejection(ejection))
}

/// Waits until this has happened to `a`.
async fn until(said: &mut Receiver<BalanceEvent>, what: impl Fn(&BalanceEvent) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        while let Ok(event) = said.try_recv() {
            if what(&event) {
                return;
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not happen within a minute");
}

/// Has `a` fail until it is ejected, and waits until it is on trial.
async fn put_on_trial(rig: &Rig<Random>, a: &Control, said: &mut Receiver<BalanceEvent>) {
    a.answer(Answer::Fails);
    rig.call_until_ejected("a").await;
    until(said, |event| matches!(event, BalanceEvent::Probing { .. })).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_no_probe_where_it_has_been_before() {
    let rig = rig();
    let [a, b] = rig.list(["a", "b"]).await;
    let mut said = rig.handle.subscribe().await.unwrap();
    let mut tried = Tried::new();
    let call = |tried: &mut Tried| {
        let mut balance = rig.balance.clone();
        tried.enter(|| balance.call(0))
    };
    while call(&mut tried).await.unwrap() != "a" {
        tried = Tried::new();
    }
    assert_eq!(tried.count(), 1);

    put_on_trial(&rig, &a, &mut said).await;
    a.answer(Answer::Name);
    for _ in 0..200 {
        let mut again = tried;
        assert_eq!(call(&mut again).await.unwrap(), "b");
    }
    // The permit is still there, for whoever has not been there.
    b.answer(Answer::Fails);
    assert_eq!(rig.call().await.unwrap(), "a");
    until(&mut said, |event| {
        matches!(event, BalanceEvent::Restored { .. })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_back_from_one_on_trial_leave_its_permit_alone() {
    let rig = rig();
    let [a, b] = rig.list(["a", "b"]).await;
    let mut said = rig.handle.subscribe().await.unwrap();
    // Requests wait for the one or the other.
    a.ready(Ready::Waits);
    b.ready(Ready::Waits);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut request = Box::pin(rig.balance.clone().call(0));
        assert!(poll(&mut request).await.is_pending());
        waiting.push(request);
    }
    let at_a = rig.info("a").await.in_flight;
    assert!((20..80).contains(&at_a), "{at_a}");

    a.ready(Ready::Yes);
    b.ready(Ready::Yes);
    put_on_trial(&rig, &a, &mut said).await;
    a.ready(Ready::Fails);
    for mut request in waiting {
        let Poll::Ready(answer) = poll(&mut request).await else {
            panic!("both say whether they are ready");
        };
        assert_eq!(answer.unwrap(), "b");
    }

    // It is well again, and the next request shows it.
    a.ready(Ready::Yes);
    a.answer(Answer::Name);
    assert_eq!(rig.call().await.unwrap(), "a");
    settle().await;
    assert_eq!(rig.info("a").await.cause, None);
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_for_one_that_is_busy_and_the_others_do_not() {
    let rig = rig();
    let [a, b] = rig.list(["a", "b"]).await;
    let mut said = rig.handle.subscribe().await.unwrap();
    put_on_trial(&rig, &a, &mut said).await;
    a.answer(Answer::Name);
    a.ready(Ready::Waits);
    let calls = b.calls();
    let probe = rig.start().await;
    for _ in 0..10 {
        assert_eq!(rig.call().await.unwrap(), "b");
    }
    assert_eq!(rig.info("a").await.in_flight, 1);
    assert!(said.is_empty(), "nothing is known of it yet");
    a.ready(Ready::Yes);
    assert_eq!(probe.await.unwrap().unwrap(), "a");
    until(&mut said, |event| {
        matches!(event, BalanceEvent::Restored { .. })
    })
    .await;
    assert_eq!(b.calls(), calls + 10);
}
