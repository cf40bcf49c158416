//! What is kept of an endpoint through updates, and what is let go.

use std::time::Duration;

use tokio::time::Instant;
use tower::ServiceExt;
use tower_roster::{
    balance::{BalanceBuilder, BalanceEvent, EndpointState, policy::RoundRobin},
    endpoint::eject::Ejection,
    instance::Weight,
};

use crate::kit::{Answer, Control, Rig, events, key, layer, settle};

const GRACE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(30);

fn layer_with(grace: Duration, drain: Duration) -> BalanceBuilder<RoundRobin> {
    layer().grace(grace).drain(drain)
}

#[tokio::test(start_paused = true)]
async fn a_replaced_service_keeps_counters_ejection_weight_and_requests_in_flight() {
    let rig = Rig::new();
    let [old, _] = rig.list(["a", "b"]).await;
    old.answer(Answer::Holds);
    let request = rig.start().await;
    let request = if old.open() == 1 {
        request
    } else {
        rig.start().await
    };
    assert_eq!(old.open(), 1);
    rig.handle
        .set_weight(&key("a"), Weight::from(3))
        .await
        .unwrap();
    let before = rig.info("a").await;

    let new = Control::new("new");
    rig.feed.put("a", new.service());
    settle().await;
    let after = rig.info("a").await;
    assert_eq!((after.requests, after.in_flight), (before.requests, 1));
    assert_eq!(after.weight.get(), 3);
    assert!(after.age >= before.age);
    let names = [rig.call().await.unwrap(), rig.call().await.unwrap()];
    assert!(names.contains(&"new".into()), "{names:?}");

    old.release(1);
    assert_eq!(request.await.unwrap().unwrap(), "a");
    settle().await;
    assert!(!old.lives(), "the old service goes with its last request");
    assert_eq!(rig.info("a").await.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_with_a_new_service_stays_ejected() {
    let rig = Rig::new();
    rig.list(["a", "b"]).await;
    rig.handle.eject(&key("a")).await.unwrap();
    rig.list(["a"]).await;
    assert_eq!(rig.info("a").await.state, EndpointState::Ejected);
    assert_eq!(rig.spread(4, ["a", "b"]).await, [0, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_finishes_its_requests_and_its_service_goes_with_the_last() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    let [a] = rig.list(["a"]).await;
    a.answer(Answer::Holds);
    let requests = [rig.start().await, rig.start().await];
    rig.feed.remove("a");
    settle().await;
    assert_eq!(events(&mut said), ["+a", "-a 2"]);
    assert!(rig.handle.endpoints().await.unwrap().is_empty());

    a.release(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(events(&mut said).is_empty(), "one is still in flight");
    assert!(a.lives());
    a.release(1);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), "a");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(events(&mut said), ["drained a 0"]);
    assert!(!a.lives());
}

#[tokio::test(start_paused = true)]
async fn a_drain_has_an_end() {
    let rig = Rig::with(layer_with(GRACE, DRAIN));
    let mut said = rig.handle.subscribe().await.unwrap();
    let [a] = rig.list(["a"]).await;
    a.answer(Answer::Holds);
    let request = rig.start().await;
    rig.feed.remove("a");
    tokio::time::sleep(DRAIN - Duration::from_secs(1)).await;
    assert_eq!(events(&mut said), ["+a", "-a 1"]);
    assert!(a.lives());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(events(&mut said), ["drained a 1"]);
    assert!(!a.lives(), "the balancer has let it go");
    // What the request itself holds is its own, and nobody ends it.
    assert!(!request.is_finished());
    a.release(1);
    assert_eq!(request.await.unwrap().unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn those_who_drain_are_looked_at_every_100_ms_however_often_the_driver_wakes() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    let [a, b] = rig.list(["a", "b"]).await;
    a.answer(Answer::Holds);
    b.answer(Answer::Holds);
    let requests = [rig.start().await, rig.start().await];
    let left = Instant::now();
    rig.feed.remove("a");
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Has no look of its own.
    rig.feed.remove("b");
    settle().await;
    assert_eq!(events(&mut said), ["+a", "+b", "-a 1", "-b 1"]);
    a.release(1);
    b.release(1);
    for request in requests {
        request.await.unwrap().unwrap();
    }
    while left.elapsed() < Duration::from_millis(95) {
        rig.handle.endpoints().await.unwrap();
        settle().await;
    }
    assert!(
        events(&mut said).is_empty(),
        "of a hundred thousand, each look takes long"
    );
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut told = events(&mut said);
    told.sort();
    assert_eq!(told, ["drained a 0", "drained b 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_seen_though_the_handle_is_asked_all_the_time() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    let [a] = rig.list(["a"]).await;
    a.answer(Answer::Holds);
    let request = rig.start().await;
    rig.feed.remove("a");
    settle().await;
    a.release(1);
    request.await.unwrap().unwrap();
    for _ in 0..20 {
        rig.handle.endpoints().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(events(&mut said), ["+a", "-a 1", "drained a 0"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_removed_endpoint_is_released_at_once_whatever_clones_exist() {
    let rig = Rig::new();
    let [a, b] = rig.list(["a", "b"]).await;
    let clones = vec![rig.balance.clone(); 100];
    for clone in &clones[..50] {
        clone.clone().oneshot(0).await.unwrap();
    }
    rig.feed.remove("a");
    settle().await;
    assert!(!a.lives(), "a connection of a removed endpoint must close");
    assert!(b.lives());
    drop(clones);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_to_an_endpoint_whose_removal_was_told() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    let controls = rig.list(["a", "b", "c"]).await;
    events(&mut said);
    // The task that is told runs as soon as it is told.
    let caller = {
        let balance = rig.balance.clone();
        tokio::spawn(async move {
            said.recv().await.unwrap();
            for _ in 0..6 {
                assert_ne!(balance.clone().oneshot(0).await.unwrap(), "a");
            }
        })
    };
    rig.feed.remove("a");
    caller.await.unwrap();
    assert_eq!(controls[0].calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_in_time_has_its_state() {
    let rig = Rig::new();
    let [a, _] = rig.list(["a", "b"]).await;
    a.answer(Answer::Fails);
    let failures = async || {
        for _ in 0..6 {
            let _ = rig.call().await;
        }
    };
    failures().await;
    rig.handle.eject(&key("a")).await.unwrap();
    rig.handle
        .set_weight(&key("a"), Weight::from(7))
        .await
        .unwrap();
    rig.feed.remove("a");
    settle().await;
    tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
    rig.list(["a"]).await;
    let info = rig.info("a").await;
    assert_eq!(
        (info.requests, info.failures),
        (3, 3),
        "what it did is known"
    );
    assert_eq!(
        info.state,
        EndpointState::Ejected,
        "so is what was done to it"
    );
    assert_eq!(info.weight.get(), 7);
    assert!(info.age < Duration::from_secs(1), "it is listed anew");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_too_late_is_a_stranger() {
    for (grace, away) in [
        (GRACE, GRACE + Duration::from_secs(1)),
        (Duration::ZERO, Duration::ZERO),
    ] {
        let rig = Rig::with(layer_with(grace, DRAIN));
        rig.list(["a", "b"]).await;
        rig.spread(6, ["a", "b"]).await;
        rig.feed.remove("a");
        settle().await;
        tokio::time::sleep(away).await;
        rig.list(["a"]).await;
        assert_eq!(rig.info("a").await.requests, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_flaps_and_fails_is_tried_ever_more_rarely() {
    let minute = Duration::from_secs(60);
    let ejection = Ejection::new().consecutive_failures(1).slow_factor(None);
    let ejection = ejection.time(Duration::from_secs(1), minute);
    let rig = Rig::with(layer_with(GRACE, DRAIN).ejection(ejection));
    let [a, ..] = rig.list(["a", "b", "c"]).await;
    a.answer(Answer::Fails);
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < minute {
        let mut said = rig.handle.subscribe().await.unwrap();
        rig.feed.remove("a");
        settle().await;
        rig.feed.put("a", a.service());
        settle().await;
        while let Ok(event) = said.try_recv() {
            if let BalanceEvent::Ejected { key, time, .. } = event {
                assert_eq!(key.id(), "a");
                times.push(time.unwrap());
            }
        }
        for _ in 0..6 {
            let _ = rig.call().await;
        }
        tokio::time::sleep(Duration::from_millis(98)).await;
    }
    // After 1, 2, 4, 8 and 16 s, each longer or shorter by a fifth.
    assert!((5..=7).contains(&a.calls()), "tried {} times", a.calls());
    let longest = times.iter().max().unwrap();
    assert!(longest.as_secs() > 20, "{longest:?}");
    // Each is what is left of the one before.
    let left = times.windows(2).filter(|pair| {
        let gone = pair[0].saturating_sub(pair[1]);
        (99..=101).contains(&gone.as_millis())
    });
    assert!(left.count() > 500, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_while_it_drains_counts_its_old_requests() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    let [old] = rig.list(["a"]).await;
    old.answer(Answer::Holds);
    let request = rig.start().await;
    rig.feed.remove("a");
    settle().await;
    let [new] = rig.list(["a"]).await;
    assert_eq!(rig.info("a").await.in_flight, 1);
    assert_eq!(rig.call().await.unwrap(), "a");
    assert_eq!(new.calls(), 1);
    old.release(1);
    request.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.info("a").await.in_flight, 0);
    assert!(!old.lives());
    assert_eq!(events(&mut said), ["+a", "-a 1", "+a"]);
}

#[tokio::test(start_paused = true)]
async fn removed_and_listed_in_one_breath_is_a_replacement_in_effect() {
    let rig = Rig::new();
    let [old, _] = rig.list(["a", "b"]).await;
    rig.spread(6, ["a", "b"]).await;
    rig.feed.remove("a");
    let new = rig.feed.insert("a");
    settle().await;
    assert_eq!(rig.info("a").await.requests, 3);
    assert!(!old.lives() && new.lives());
    // And the other way round nothing stays.
    rig.feed.insert("c");
    rig.feed.remove("c");
    settle().await;
    assert_eq!(rig.handle.endpoints().await.unwrap().len(), 2);
    assert_eq!(rig.spread(6, ["a", "b"]).await, [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn removing_what_is_not_listed_is_nothing() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    rig.feed.remove("a");
    rig.feed.insert("a");
    rig.feed.remove("b");
    settle().await;
    rig.feed.remove("b");
    settle().await;
    assert_eq!(events(&mut said), ["+a"]);
    assert_eq!(rig.call().await.unwrap(), "a");
}
