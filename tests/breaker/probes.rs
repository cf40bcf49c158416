//! Half-open: permits, deadlines, and the way back.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use tokio::time;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::service::breaker::{
    Breaker, BreakerCause, BreakerError, BreakerSettings, BreakerState, Refused,
};

use super::kit::{Do, MS, Obedient, SECOND};

fn settings() -> BreakerSettings {
    BreakerSettings::new()
        .count_window(4)
        .probes(1)
        .probe_deadline(5 * SECOND)
        .jitter(0.0)
}

async fn call(service: &mut Breaker<Obedient>, what: Do) -> Result<&'static str, BoxError> {
    service.ready().await?.call(what).await
}

fn refused(result: Result<&'static str, BoxError>) -> Option<Refused> {
    let error = result.err()?;
    BreakerError::find(&*error).map(BreakerError::refused)
}

/// An open breaker.
async fn open(settings: BreakerSettings) -> Breaker<Obedient> {
    let mut service = settings.build().unwrap().layer(Obedient::default());
    trip(&mut service).await;
    service
}

async fn trip(service: &mut Breaker<Obedient>) {
    for _ in 0..4 {
        call(service, Do::Fail).await.unwrap_err();
    }
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn probes_close_it_when_enough_succeed() {
    let mut service = open(settings().probes(3)).await;
    let handle = service.handle();
    time::advance(999 * MS).await;
    assert!(refused(call(&mut service, Do::Succeed).await).is_some());
    time::advance(MS).await;
    assert_eq!(handle.state(), BreakerState::Open, "until a call comes");
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(handle.state(), BreakerState::HalfOpen);
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(handle.state(), BreakerState::HalfOpen);
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(handle.state(), BreakerState::Closed);
    assert_eq!(handle.counts().total, 0, "probes are not counted");
}

#[tokio::test(start_paused = true)]
async fn no_more_probes_than_permits() {
    let mut service = open(settings().probes(2)).await;
    time::advance(SECOND).await;
    let mut probes: Vec<_> = (0..2)
        .map(|_| task::spawn(service.clone().oneshot(Do::SucceedAfter(SECOND))))
        .collect();
    probes.iter_mut().for_each(|probe| {
        assert_pending!(probe.poll());
    });
    let result = call(&mut service, Do::Succeed).await;
    assert_eq!(refused(result), Some(Refused::Probing));
    assert_eq!(service.handle().state(), BreakerState::HalfOpen);
    time::advance(SECOND).await;
    for mut probe in probes {
        assert!(assert_ready!(probe.poll()).is_ok());
    }
    assert_eq!(service.handle().state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn one_failed_probe_opens_it_for_twice_as_long() {
    let mut service = open(settings().open_time(SECOND, 10 * SECOND)).await;
    let handle = service.handle();
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert_eq!(handle.remaining(), Some(seconds * SECOND));
        time::advance(seconds * SECOND).await;
        call(&mut service, Do::Fail).await.unwrap_err();
        assert_eq!(handle.state(), BreakerState::Open);
        assert_eq!(handle.subscribe().borrow().cause, BreakerCause::ProbeFailed);
    }
}

#[tokio::test(start_paused = true)]
async fn health_takes_the_doublings_back() {
    let mut service = open(settings().open_time(SECOND, 10 * SECOND)).await;
    let handle = service.handle();
    time::advance(SECOND).await;
    call(&mut service, Do::Fail).await.unwrap_err();
    time::advance(2 * SECOND).await;
    call(&mut service, Do::Fail).await.unwrap_err();
    time::advance(4 * SECOND).await;
    call(&mut service, Do::Succeed).await.unwrap();
    // Opened three times in a row; 25 s closed make up for two.
    time::advance(25 * SECOND).await;
    trip(&mut service).await;
    assert_eq!(handle.remaining(), Some(2 * SECOND));
    time::advance(2 * SECOND).await;
    call(&mut service, Do::Succeed).await.unwrap();
    time::advance(1_000 * SECOND).await;
    trip(&mut service).await;
    assert_eq!(handle.remaining(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_gives_its_permit_back() {
    let mut service = open(settings()).await;
    time::advance(SECOND).await;
    // Before its first poll, while it waits, and with its task.
    drop(service.ready().await.unwrap().call(Do::Hang));
    let call_hangs = service.ready().await.unwrap().call(Do::Hang);
    assert!(time::timeout(SECOND, call_hangs).await.is_err());
    let probe = tokio::spawn(service.clone().oneshot(Do::Hang));
    tokio::task::yield_now().await;
    let result = call(&mut service, Do::Succeed).await;
    assert_eq!(refused(result), Some(Refused::Probing));
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    assert_eq!(service.handle().state(), BreakerState::HalfOpen);
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(service.handle().state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn readiness_takes_no_permit() {
    let mut service = open(settings()).await;
    time::advance(SECOND).await;
    let mut idle: Vec<_> = (0..10).map(|_| service.clone()).collect();
    for service in &mut idle {
        service.ready().await.unwrap();
    }
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(service.handle().state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_an_answer_fails_at_its_deadline() {
    let mut service = open(settings()).await;
    let handle = service.handle();
    time::advance(SECOND).await;
    let mut probe = task::spawn(service.clone().oneshot(Do::SucceedAfter(8 * SECOND)));
    assert_pending!(probe.poll());
    time::advance(4_999 * MS).await;
    let result = call(&mut service, Do::Succeed).await;
    assert_eq!(refused(result), Some(Refused::Probing));
    // It opened for 2 s at its deadline, whenever that is noticed.
    time::advance(501 * MS).await;
    let open = Refused::Open {
        remaining: 1_500 * MS,
    };
    assert_eq!(refused(call(&mut service, Do::Succeed).await), Some(open));
    assert_eq!(
        handle.subscribe().borrow().cause,
        BreakerCause::ProbeTimedOut
    );
    // The answer comes while the next probe is under way, and is none to it.
    time::advance(1_500 * MS).await;
    let mut next = task::spawn(service.clone().oneshot(Do::SucceedAfter(2 * SECOND)));
    assert_pending!(next.poll());
    time::advance(SECOND).await;
    assert!(assert_ready!(probe.poll()).is_ok(), "the caller gets it");
    assert_eq!(handle.state(), BreakerState::HalfOpen);
    let result = call(&mut service, Do::Succeed).await;
    assert_eq!(refused(result), Some(Refused::Probing), "no permit for it");
    time::advance(SECOND).await;
    assert!(assert_ready!(next.poll()).is_ok());
    assert_eq!(handle.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_late_probe_fails_even_if_no_other_call_comes() {
    let mut service = open(settings()).await;
    time::advance(SECOND).await;
    call(&mut service, Do::SucceedAfter(5 * SECOND))
        .await
        .unwrap();
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_probe_does_not_hold_it_half_open() {
    let mut service = open(settings()).await;
    time::advance(SECOND).await;
    let _probe = {
        let mut probe = task::spawn(service.clone().oneshot(Do::Hang));
        assert_pending!(probe.poll());
        probe
    };
    assert_eq!(service.handle().state(), BreakerState::HalfOpen);
    // Nothing happens for an hour; then one call finds deadline and open time over.
    time::advance(Duration::from_secs(3_600)).await;
    call(&mut service, Do::Succeed).await.unwrap();
    assert_eq!(service.handle().state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_fails_where_slow_calls_count() {
    let mut service = open(settings().slow_calls(SECOND, 0.5)).await;
    time::advance(SECOND).await;
    call(&mut service, Do::SucceedAfter(SECOND)).await.unwrap();
    assert_eq!(service.handle().state(), BreakerState::Open);
}

#[test]
fn sixty_four_callers_get_no_more_than_the_permits() {
    for round in 0..50 {
        let layer = BreakerSettings::new()
            .count_window(1)
            .open_time(MS, MS)
            .jitter(0.0)
            .probes(3)
            .probe_deadline(Duration::from_secs(60))
            .build()
            .unwrap();
        let handle = layer.handle();
        let flying = AtomicUsize::new(0);
        let admitted = AtomicUsize::new(0);
        let start = Barrier::new(64);
        let mut first = layer.layer(Obedient::default());
        let mut ready = task::spawn(());
        let _ = assert_ready!(ready.enter(|cx, _| first.poll_ready(cx)));
        assert!(assert_ready!(task::spawn(first.call(Do::Fail)).poll()).is_err());
        assert_eq!(handle.state(), BreakerState::Open);
        while handle.remaining() != Some(Duration::ZERO) {
            thread::yield_now();
        }
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let mut service = layer.layer(Obedient::default());
                    start.wait();
                    for _ in 0..20 {
                        let mut ready = task::spawn(());
                        let _ = assert_ready!(ready.enter(|cx, _| service.poll_ready(cx)));
                        let mut call = task::spawn(service.call(Do::Hang));
                        if call.poll().is_pending() {
                            admitted.fetch_add(1, SeqCst);
                            let now = flying.fetch_add(1, SeqCst) + 1;
                            assert!(now <= 3, "{now} at a time in round {round}");
                            thread::yield_now();
                            flying.fetch_sub(1, SeqCst);
                            // Cancelled: the permit comes back.
                        }
                    }
                });
            }
        });
        assert!(admitted.load(SeqCst) >= 3, "{admitted:?}");
        assert_eq!(handle.state(), BreakerState::HalfOpen);
        assert_eq!(
            handle.refused() as usize + admitted.load(SeqCst),
            64 * 20,
            "each call was admitted or refused"
        );
    }
}
