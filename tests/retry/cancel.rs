//! A caller may give up at any time; nothing is kept or taken then.

use std::time::Duration;

use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt};
use tower_roster::{
    Backoff,
    service::retry::{BudgetSettings, RetryLayer, RetrySettings},
};

use crate::kit::*;

/// Where a request is after so many milliseconds: it fails after 10, waits for 20, waits for the
/// service until 50, and runs again until 60.
async fn cancelled_after(ms: u32, expected_calls: usize, expected_withdrawn: u64) {
    let budget = BudgetSettings::new().reserve(100).build().unwrap();
    let layer = RetrySettings::new()
        .delay(Backoff::fixed(20 * MS))
        .try_timeout(SEC)
        .deadline(SEC)
        .build()
        .unwrap()
        .classify(by_status())
        .shared_budget(budget.clone());
    let server = Server::new([says(503).after(10 * MS), says(200).after(10 * MS)]);
    let mut retry = layer.layer(server.clone());
    retry.ready().await.unwrap();
    let mut call = task::spawn(retry.call(7));
    server.ready_in(Some(50 * MS));
    for _ in 0..ms {
        assert_pending!(call.poll(), "at {ms} ms");
        tokio::time::advance(MS).await;
    }
    assert_pending!(call.poll(), "at {ms} ms");
    assert_eq!(server.calls(), expected_calls, "at {ms} ms");
    drop(call);
    assert_eq!(server.in_flight(), 0, "at {ms} ms");
    assert_eq!(
        server.clones(),
        2,
        "the service of the call is gone at {ms} ms"
    );
    assert_eq!(budget.withdrawn(), expected_withdrawn, "at {ms} ms");
    let available = budget.available(Instant::now());
    assert_eq!(available, 100 - expected_withdrawn, "at {ms} ms");
    // What is left works.
    server.ready_in(Some(Duration::ZERO));
    assert_eq!(
        retry.ready().await.unwrap().call(8).await.unwrap().status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn during_the_first_attempt() {
    cancelled_after(0, 1, 0).await;
    cancelled_after(5, 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn during_the_backoff() {
    cancelled_after(15, 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_service_is_not_ready() {
    cancelled_after(40, 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn during_the_second_attempt() {
    // It was sent, so it was paid for.
    cancelled_after(55, 2, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_dropped_is_given_back() {
    let server = Server::new([]);
    let mut retry = RetryLayer::default().layer(server.clone());
    ServiceExt::<u32>::ready(&mut retry).await.unwrap();
    drop(retry);
    assert_eq!(server.clones(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_is_cancelled_too() {
    let server = Server::new([]);
    let mut retry = RetryLayer::default().layer(server.clone());
    drop(retry.ready().await.unwrap().call(7));
    assert_eq!((server.calls(), server.in_flight()), (1, 0));
}
