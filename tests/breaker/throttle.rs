//! Adaptive throttling.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tokio::time;
use tokio_test::{assert_pending, assert_ready_err, task};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::service::throttle::{Throttle, ThrottleError, ThrottleLayer, ThrottleSettings};

use super::kit::{AtTheEnd, Do, MS, Obedient, SECOND};

fn throttle() -> Throttle<Obedient> {
    let layer = ThrottleSettings::new().seed(1).build().unwrap();
    layer.layer(Obedient::default())
}

async fn call(service: &mut Throttle<Obedient>, what: Do) -> Result<&'static str, BoxError> {
    service.ready().await?.call(what).await
}

fn is_throttled(result: &Result<&'static str, BoxError>) -> bool {
    let error = result.as_ref().err();
    error.is_some_and(|error| ThrottleError::find(&**error).is_some())
}

#[tokio::test(start_paused = true)]
async fn a_service_that_answers_is_not_throttled() {
    let mut service = throttle();
    // Up to half of the calls may fail.
    for _ in 0..1_000 {
        call(&mut service, Do::Succeed).await.unwrap();
        assert!(!is_throttled(&call(&mut service, Do::Fail).await));
    }
    assert_eq!(service.handle().refused(), 0);
}

#[tokio::test(start_paused = true)]
async fn sends_about_k_times_what_is_accepted() {
    // Accepts 100 a second of 1 000; the rest fail.
    let mut service = throttle();
    let (mut sent, mut accepted) = (0, 0);
    for millis in 0..60_000 {
        time::advance(MS).await;
        let before = service.get_ref().called.load(SeqCst);
        let what = if millis % 10 == 0 {
            Do::Succeed
        } else {
            Do::Fail
        };
        let result = call(&mut service, what).await;
        if millis >= 30_000 {
            sent += service.get_ref().called.load(SeqCst) - before;
            accepted += usize::from(result.is_ok());
        }
    }
    // One of ten is accepted whatever is sent, so the share shrinks until one call in many is let
    // through: the load on the service is a small part of the offered one.
    assert!(sent < 3_000, "{sent} of 30 000 sent");
    assert!(accepted <= sent);
    assert!(sent >= 30, "one a second at least: {sent}");
}

#[tokio::test(start_paused = true)]
async fn a_service_with_capacity_for_some_keeps_them_busy() {
    // 1 000 calls a second, of which the service can take 200.
    let mut service = throttle();
    let (mut in_second, mut sent, mut good) = (0, 0, 0);
    for millis in 0..60_000_u32 {
        if millis % 1_000 == 0 {
            in_second = 0;
        }
        time::advance(MS).await;
        let what = if in_second < 200 {
            Do::Succeed
        } else {
            Do::Fail
        };
        let before = service.get_ref().called.load(SeqCst);
        let result = call(&mut service, what).await;
        let called = service.get_ref().called.load(SeqCst) - before;
        in_second += called;
        if millis >= 30_000 {
            sent += called;
            good += usize::from(result.is_ok());
        }
    }
    // K = 2: about twice the capacity is sent, and all of the capacity is used.
    assert!((9_000..=15_000).contains(&sent), "{sent} sent in 30 s");
    assert!(good >= 5_700, "{good} of 6 000 possible");
}

#[tokio::test(start_paused = true)]
async fn one_call_a_second_finds_the_recovery() {
    let mut service = throttle();
    for _ in 0..2_000 {
        time::advance(5 * MS).await;
        let _ = call(&mut service, Do::Fail).await;
    }
    assert!(service.handle().probability() > 0.95);
    let called = service.get_ref().called.load(SeqCst);
    for _ in 0..2_000 {
        time::advance(5 * MS).await;
        let _ = call(&mut service, Do::Fail).await;
    }
    let probed = service.get_ref().called.load(SeqCst) - called;
    assert!((10..=40).contains(&probed), "{probed} in 10 s");
    // 200 calls a second that are all accepted: normal within 20 s.
    for _ in 0..4_000 {
        time::advance(5 * MS).await;
        let _ = call(&mut service, Do::Succeed).await;
    }
    assert_eq!(service.handle().probability(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn first_answers_that_take_long_throttle_nothing() {
    let mut service = throttle();
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let mut call = task::spawn(service.clone().oneshot(Do::SucceedAfter(10 * SECOND)));
            assert_pending!(call.poll());
            call
        })
        .collect();
    assert_eq!(service.handle().refused(), 0);
    drop(calls);
    call(&mut service, Do::Succeed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_longer_than_the_window_count() {
    // Each call fails after 20 s, four windows.
    let service = throttle();
    for _ in 0..500 {
        tokio::spawn(service.clone().oneshot(Do::FailAfter(20 * SECOND)));
        time::sleep(100 * MS).await;
    }
    assert!(service.handle().probability() > 0.5);
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_are_as_if_never_made() {
    let service = throttle();
    for _ in 0..1_000 {
        let mut call = task::spawn(service.clone().oneshot(Do::Hang));
        assert_pending!(call.poll());
    }
    assert_eq!(service.handle().probability(), 0.0);
    // Twenty that fail are all that count.
    for _ in 0..20 {
        service.clone().oneshot(Do::Fail).await.unwrap_err();
    }
    assert!(service.handle().probability() > 0.9);
}

#[tokio::test(start_paused = true)]
async fn clones_share_their_counts_and_a_dropped_stream_is_cancelled() {
    let layer = ThrottleLayer::default().classify(AtTheEnd);
    let service = layer.layer(Obedient::default());
    for _ in 0..100 {
        drop(service.clone().oneshot(Do::Succeed).await.unwrap());
    }
    assert_eq!(layer.handle().probability(), 0.0);
    for _ in 0..50 {
        let _ = service.clone().oneshot(Do::Fail).await;
    }
    assert!(layer.handle().probability() > 0.0);
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_cannot_be_ready_says_so() {
    let inner = Obedient {
        broken: true,
        ..Obedient::default()
    };
    let mut service = ThrottleLayer::default().layer(inner);
    let mut ready = task::spawn(());
    assert_ready_err!(ready.enter(|cx, _| service.poll_ready(cx)));
}

#[test]
fn refuses_settings_out_of_range() {
    let field = |settings: ThrottleSettings| settings.build().unwrap_err().field().to_owned();
    let b = ThrottleSettings::new;
    for k in [0.9, 0.0, -1.0, 101.0, f64::NAN, f64::INFINITY] {
        assert_eq!(field(b().k(k)), "throttle.k", "{k}");
    }
    for window in [Duration::ZERO, 99 * MS, Duration::MAX] {
        assert_eq!(field(b().window(window)), "throttle.window", "{window:?}");
    }
    assert_eq!(field(b().min_calls(0)), "throttle.min_calls");
}
