//! Why there is no endpoint, after a wait that ends.

use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceExt};
use tower_roster::{balance::NoEndpoint, classify};

use crate::kit::{Rig, Word, key, layer, settle};

pub(crate) fn reason(error: &tower_roster::balance::BalanceError) -> NoEndpoint {
    error.no_endpoint_reason().expect("a reason").clone()
}

const WAIT: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn waits_for_a_first_word_and_then_says_that_none_came() {
    let rig = Rig::new();
    for _ in 0..2 {
        // A failure is not for ever: each poll_ready waits anew.
        let began = Instant::now();
        let error = rig.call().await.unwrap_err();
        assert!(error.is_no_endpoint());
        assert_eq!(reason(&error), NoEndpoint::NeverResolved);
        assert_eq!(error.key(), None);
        let waited = began.elapsed();
        assert!(
            waited >= WAIT && waited < WAIT + Duration::from_millis(10),
            "{waited:?}"
        );
    }
    rig.list(["a"]).await;
    assert_eq!(rig.call().await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn one_clone_fails_and_is_ready_later() {
    let rig = Rig::new();
    let mut balance = rig.balance.clone();
    balance.ready().await.unwrap_err();
    rig.list(["a"]).await;
    assert_eq!(balance.ready().await.unwrap().call(0).await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_goes_on_as_soon_as_there_is_an_endpoint() {
    let rig = Rig::new();
    let began = Instant::now();
    let waiting: Vec<_> = (0..3)
        .map(|_| tokio::spawn(rig.balance.clone().oneshot(0)))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.feed.insert("a");
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap(), "a");
    }
    assert!(began.elapsed() < Duration::from_millis(1_010));
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_not_an_unknown_one() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    rig.feed.remove("a");
    settle().await;
    assert_eq!(reason(&rig.call().await.unwrap_err()), NoEndpoint::Empty);
    rig.list(["b"]).await;
    assert_eq!(rig.call().await.unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_set_that_empties_between_ready_and_call_fails_the_call_at_once() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    let mut balance = rig.balance.clone();
    balance.ready().await.unwrap();
    rig.feed.remove("a");
    settle().await;
    let began = Instant::now();
    let error = balance.call(0).await.unwrap_err();
    assert_eq!(reason(&error), NoEndpoint::Empty);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn all_ejected_is_told_with_their_number() {
    let rig = Rig::new();
    rig.list(["a", "b"]).await;
    for id in ["a", "b"] {
        assert!(rig.handle.eject(&key(id)).await.unwrap());
    }
    let error = rig.call().await.unwrap_err();
    assert_eq!(reason(&error), NoEndpoint::AllEjected(2));
    rig.handle.restore(&key("b")).await.unwrap();
    assert_eq!(rig.call().await.unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn an_ended_discovery_that_listed_nothing_leaves_an_empty_set() {
    let rig = Rig::new();
    rig.feed.say(Word::End);
    settle().await;
    let began = Instant::now();
    assert_eq!(reason(&rig.call().await.unwrap_err()), NoEndpoint::Empty);
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing can follow");
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_first_word_is_told() {
    let rig = Rig::new();
    rig.feed.say(Word::Error("no route to the registry"));
    settle().await;
    let error = rig.call().await.unwrap_err();
    match reason(&error) {
        NoEndpoint::Unreachable { since, error } => {
            assert!(since >= WAIT && since < 2 * WAIT, "{since:?}");
            assert_eq!(error, "no route to the registry");
        }
        other => panic!("unreachable must be told, not {other:?}"),
    }
    rig.list(["a"]).await;
    // Discovery is asked again after a delay.
    assert_eq!(rig.call().await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn no_wait_fails_at_once_and_the_longest_does_not_overflow() {
    let rig = Rig::with(layer().wait(Duration::ZERO));
    let began = Instant::now();
    rig.call().await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO);
    rig.list(["a"]).await;
    assert_eq!(rig.call().await.unwrap(), "a");

    let rig = Rig::with(
        layer()
            .wait(Duration::MAX)
            .grace(Duration::MAX)
            .drain(Duration::MAX),
    );
    let request = rig.start().await;
    let [a] = rig.list(["a"]).await;
    assert_eq!(request.await.unwrap().unwrap(), "a");
    rig.feed.remove("a");
    settle().await;
    assert!(!a.lives());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_endpoint_comes_back() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    let mut balance = rig.balance.clone();
    balance.ready().await.unwrap();
    rig.feed.remove("a");
    rig.handle
        .wait_for(|status| status.usable == 0)
        .await
        .unwrap();
    let error = balance.call(7).await.unwrap_err();
    assert!(error.is_no_endpoint() && classify::is_unsent(&error));
    assert_eq!(classify::reclaim::<u32>(&error), Some(7));
}
