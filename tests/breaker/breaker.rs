//! When it opens, what it refuses, and the handle.

use std::{panic::AssertUnwindSafe, sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::FutureExt;
use tokio::time;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::{
    classify::{self, Verdict},
    service::breaker::{
        Breaker, BreakerCause, BreakerError, BreakerSettings, BreakerState, Refused,
    },
};

use super::kit::{Do, MS, Obedient, SECOND};

/// 100 calls, half of which may fail; no jitter.
fn settings() -> BreakerSettings {
    BreakerSettings::new()
        .count_window(100)
        .min_calls(10)
        .jitter(0.0)
}

fn breaker(settings: BreakerSettings) -> Breaker<Obedient> {
    settings.build().unwrap().layer(Obedient::default())
}

async fn call(service: &mut Breaker<Obedient>, what: Do) -> Result<&'static str, BoxError> {
    service.ready().await?.call(what).await
}

fn refused(result: Result<&'static str, BoxError>) -> Option<Refused> {
    let error = result.err()?;
    BreakerError::find(&*error).map(BreakerError::refused)
}

#[tokio::test(start_paused = true)]
async fn opens_at_its_share_of_failures_and_not_before() {
    let mut service = breaker(settings());
    let handle = service.handle();
    for _ in 0..5 {
        call(&mut service, Do::Succeed).await.unwrap();
    }
    for _ in 0..4 {
        call(&mut service, Do::Fail).await.unwrap_err();
        assert_eq!(handle.state(), BreakerState::Closed);
    }
    call(&mut service, Do::Fail).await.unwrap_err();
    assert_eq!(handle.state(), BreakerState::Open, "5 of 10 failed");
    let open = Refused::Open { remaining: SECOND };
    assert_eq!(refused(call(&mut service, Do::Succeed).await), Some(open));
    time::advance(900 * MS).await;
    let open = Refused::Open {
        remaining: 100 * MS,
    };
    assert_eq!(refused(call(&mut service, Do::Succeed).await), Some(open));
    assert_eq!(handle.remaining(), Some(100 * MS));
    assert_eq!(handle.refused(), 2);
    assert_eq!(
        service.get_ref().called.load(SeqCst),
        10,
        "none got through"
    );
}

#[tokio::test(start_paused = true)]
async fn needs_its_minimum_of_calls() {
    let mut service = breaker(settings());
    for _ in 0..9 {
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(service.handle().state(), BreakerState::Closed);
    call(&mut service, Do::Fail).await.unwrap_err();
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_calls_slides_after_ten_thousand_successes() {
    let mut service = breaker(settings());
    for _ in 0..10_000 {
        call(&mut service, Do::Succeed).await.unwrap();
    }
    for failures in 1..=50 {
        assert_eq!(service.handle().state(), BreakerState::Closed, "{failures}");
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_time_slides_after_ten_thousand_successes() {
    let mut service = breaker(BreakerSettings::new().jitter(0.0));
    for _ in 0..10_000 {
        call(&mut service, Do::Succeed).await.unwrap();
    }
    time::advance(10 * SECOND).await;
    for failures in 1..=20 {
        assert_eq!(service.handle().state(), BreakerState::Closed, "{failures}");
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn old_failures_leave_a_window_of_time() {
    let mut service = breaker(BreakerSettings::new());
    for _ in 0..100 {
        call(&mut service, Do::Fail).await.unwrap_err();
        time::advance(SECOND).await;
    }
    // Never more than ten in ten seconds.
    assert_eq!(service.handle().state(), BreakerState::Closed);
    assert!(service.handle().counts().total <= 10);
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_too() {
    let mut service = breaker(settings().slow_calls(SECOND, 0.5));
    for _ in 0..5 {
        call(&mut service, Do::SucceedAfter(999 * MS))
            .await
            .unwrap();
    }
    for _ in 0..5 {
        assert_eq!(service.handle().state(), BreakerState::Closed);
        call(&mut service, Do::SucceedAfter(SECOND)).await.unwrap();
    }
    assert_eq!(service.handle().state(), BreakerState::Open);
    let changes = service.handle().subscribe();
    let BreakerCause::SlowCalls(counts) = changes.borrow().cause else {
        panic!("for another reason: {changes:?}");
    };
    assert_eq!((counts.total, counts.failed, counts.slow), (10, 0, 5));
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_count_for_nothing() {
    let mut service = breaker(settings());
    for _ in 0..100 {
        let future = service.ready().await.unwrap().call(Do::Hang);
        assert!(time::timeout(SECOND, future).await.is_err());
        drop(service.ready().await.unwrap().call(Do::Fail));
    }
    assert_eq!(service.handle().counts().total, 0);
    assert_eq!(service.handle().state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn overload_counts_as_failure() {
    let overloaded = |result: Result<&&'static str, &BoxError>| match result {
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::OVERLOADED,
    };
    let layer = settings().build().unwrap();
    let layer = layer.classify(classify::from_fn(overloaded));
    let mut service = layer.layer(Obedient::default());
    for _ in 0..10 {
        service
            .ready()
            .await
            .unwrap()
            .call(Do::Fail)
            .await
            .unwrap_err();
    }
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn answers_from_before_do_not_count_after() {
    let mut service = breaker(settings().probes(1));
    let handle = service.handle();
    // In flight while it opens, and answered when it is closed again.
    let late: Vec<_> = (0..20)
        .map(|_| {
            let future = service.clone().oneshot(Do::FailAfter(30 * SECOND));
            tokio::spawn(future)
        })
        .collect();
    tokio::task::yield_now().await;
    for _ in 0..10 {
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(handle.state(), BreakerState::Open);
    time::advance(SECOND).await;
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(handle.state(), BreakerState::Closed);
    assert_eq!(handle.counts().total, 0, "begins anew");
    for late in late {
        late.await.unwrap().unwrap_err();
    }
    assert_eq!(handle.counts().total, 0);
    assert_eq!(handle.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn is_ready_while_open_without_asking() {
    let inner = Obedient {
        never_ready: true,
        ..Obedient::default()
    };
    let layer = settings().build().unwrap();
    let mut service = layer.layer(inner);
    let mut ready = task::spawn(());
    assert_pending!(ready.enter(|cx, _| service.poll_ready(cx)));
    layer.handle().force_open();
    assert_ready_ok!(ready.enter(|cx, _| service.poll_ready(cx)));
    assert_eq!(service.get_ref().asked.load(SeqCst), 1);
    // Closed meanwhile, it still may not call a service that it did not ask.
    layer.handle().reset();
    let error = service.call(Do::Succeed).await.unwrap_err();
    assert!(BreakerError::find(&*error).is_some_and(BreakerError::is_open));
    assert_eq!(service.get_ref().called.load(SeqCst), 0);
    assert_pending!(ready.enter(|cx, _| service.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_cannot_be_ready_says_so() {
    let inner = Obedient {
        broken: true,
        ..Obedient::default()
    };
    let mut service = settings().build().unwrap().layer(inner);
    let mut ready = task::spawn(());
    for _ in 0..100 {
        let error = assert_ready_err!(ready.enter(|cx, _| service.poll_ready(cx)));
        assert_eq!(error.to_string(), "not ready, and never will be");
    }
    assert_eq!(service.handle().counts().total, 0);
    assert_eq!(service.handle().state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn clones_are_one_breaker() {
    let layer = settings().build().unwrap();
    let (mut one, mut other) = (
        layer.layer(Obedient::default()),
        layer.clone().layer(Obedient::default()),
    );
    for _ in 0..5 {
        call(&mut one, Do::Fail).await.unwrap_err();
        call(&mut one.clone(), Do::Fail).await.unwrap_err();
    }
    assert!(refused(call(&mut other, Do::Succeed).await).is_some());
    assert!(refused(call(&mut one.clone(), Do::Succeed).await).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_handle_forces_and_resets() {
    let mut service = breaker(settings());
    let handle = service.handle();
    handle.force_open();
    assert_eq!(handle.state(), BreakerState::ForcedOpen);
    time::advance(1_000 * SECOND).await;
    let result = call(&mut service, Do::Succeed).await;
    assert_eq!(refused(result), Some(Refused::Forced));
    handle.force_closed();
    for _ in 0..100 {
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(handle.state(), BreakerState::ForcedClosed);
    assert_eq!(handle.counts().failed, 100, "it still counts");
    handle.reset();
    assert_eq!(
        (handle.state(), handle.counts().total),
        (BreakerState::Closed, 0)
    );
    for _ in 0..10 {
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(handle.state(), BreakerState::Open, "as if it were new");
    assert_eq!(handle.remaining(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_sees_the_last_change_and_its_cause() {
    let mut service = breaker(settings().probes(1));
    let mut changes = service.handle().subscribe();
    assert_eq!(changes.borrow_and_update().cause, BreakerCause::Created);
    for _ in 0..10 {
        call(&mut service, Do::Fail).await.unwrap_err();
    }
    let change = *changes.borrow_and_update();
    assert_eq!(
        (change.from, change.to),
        (BreakerState::Closed, BreakerState::Open)
    );
    assert!(matches!(change.cause, BreakerCause::Failures(counts) if counts.failed == 10));
    assert_eq!(change.open_for, Some(SECOND));
    time::advance(SECOND).await;
    // Two changes at once: the last one is seen.
    call(&mut service, Do::Succeed).await.unwrap();
    changes.changed().await.unwrap();
    let change = *changes.borrow_and_update();
    assert_eq!(
        (change.from, change.to),
        (BreakerState::HalfOpen, BreakerState::Closed)
    );
    assert_eq!(change.cause, BreakerCause::ProbesSucceeded);
    service.handle().force_open();
    assert!(changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_costs_its_own_call() {
    let judge = |result: Result<&&'static str, &BoxError>| match result {
        Ok(_) => Verdict::SUCCESS,
        Err(_) => panic!("a classifier that panics"),
    };
    let layer = settings().probes(1).build().unwrap();
    let layer = layer.classify(classify::from_fn(judge));
    let mut service = layer.layer(Obedient::default());
    let handle = service.handle();
    for _ in 0..20 {
        let call = service.ready().await.unwrap().call(Do::Fail);
        assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    }
    assert_eq!(
        (handle.state(), handle.counts().total),
        (BreakerState::Closed, 0)
    );
    let answer = service.ready().await.unwrap().call(Do::Succeed).await;
    assert_eq!(answer.unwrap(), "done");
    assert_eq!(handle.counts().total, 1);
}

#[test]
fn a_call_that_is_refused_is_ready_at_once() {
    let layer = settings().build().unwrap();
    layer.handle().force_open();
    let mut service = layer.layer(Obedient::default());
    let mut ready = task::spawn(());
    assert_ready_ok!(ready.enter(|cx, _| service.poll_ready(cx)));
    let mut future = task::spawn(service.call(Do::Hang));
    let error = assert_ready!(future.poll()).unwrap_err();
    assert_eq!(error.to_string(), "circuit breaker was forced open");
}

#[test]
fn errors_are_found_below_others_and_say_who() {
    #[derive(Debug)]
    struct Wrapped(BoxError);
    impl std::fmt::Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("wrapped")
        }
    }
    impl std::error::Error for Wrapped {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&*self.0)
        }
    }
    let layer = settings().name("users").build().unwrap();
    layer.handle().force_open();
    let mut service = layer.layer(Obedient::default());
    let mut ready = task::spawn(());
    assert_ready_ok!(ready.enter(|cx, _| service.poll_ready(cx)));
    let error = assert_ready!(task::spawn(service.call(Do::Hang)).poll()).unwrap_err();
    let wrapped = Wrapped(Box::new(Wrapped(error)));
    let found = BreakerError::find(&wrapped).unwrap();
    assert!(found.is_open() && !found.is_probing() && found.retry_after().is_none());
    assert_eq!(
        found.to_string(),
        "circuit breaker \"users\" was forced open"
    );
    assert!(BreakerError::find(&Wrapped("other".into())).is_none());
}

#[test]
fn refuses_settings_out_of_range() {
    let field = |settings: BreakerSettings| settings.build().unwrap_err().field().to_owned();
    let b = BreakerSettings::new;
    let week = Duration::from_secs(7 * 86_400);
    for ratio in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(
            field(b().failure_ratio(ratio)),
            "breaker.failure_ratio",
            "{ratio}"
        );
        assert_eq!(
            field(b().slow_calls(SECOND, ratio)),
            "breaker.slow_calls",
            "{ratio}"
        );
    }
    for jitter in [-0.1, 1.1, f64::NAN] {
        assert_eq!(field(b().jitter(jitter)), "breaker.jitter", "{jitter}");
    }
    for window in [Duration::ZERO, MS, week, Duration::MAX] {
        assert_eq!(
            field(b().time_window(window)),
            "breaker.time_window",
            "{window:?}"
        );
    }
    for calls in [0, 100_001, usize::MAX] {
        assert_eq!(
            field(b().count_window(calls)),
            "breaker.count_window",
            "{calls}"
        );
    }
    for (base, cap) in [
        (Duration::ZERO, SECOND),
        (2 * SECOND, SECOND),
        (SECOND, Duration::MAX),
    ] {
        assert_eq!(field(b().open_time(base, cap)), "breaker.open_time");
    }
    for deadline in [Duration::ZERO, week] {
        assert_eq!(
            field(b().probe_deadline(deadline)),
            "breaker.probe_deadline"
        );
    }
    for slow in [Duration::ZERO, week] {
        assert_eq!(
            field(b().slow_calls(slow, 0.5)),
            "breaker.slow_calls",
            "{slow:?}"
        );
    }
    assert_eq!(field(b().min_calls(0)), "breaker.min_calls");
    assert_eq!(
        field(b().count_window(10).min_calls(11)),
        "breaker.min_calls"
    );
    assert_eq!(field(b().probes(0)), "breaker.probes");
    assert_eq!(field(b().probes(64)), "breaker.probes");
    // At the ends of their ranges.
    b().count_window(5).build().unwrap();
    b().failure_ratio(1.0)
        .jitter(1.0)
        .probes(63)
        .build()
        .unwrap();
    let year = 365 * Duration::from_secs(86_400);
    b().open_time(MS, year).jitter(0.0).build().unwrap();
}
