//! The adaptive limit.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::time;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_roster::{
    classify::{self, Verdict},
    service::limit::{AdaptiveLimitLayer, LimitSettings},
};
use tower_test::mock;

const MS: Duration = Duration::from_millis(1);

fn fixed(calls: u32) -> AdaptiveLimitLayer {
    let settings = LimitSettings::new().initial(calls).range(calls, calls);
    settings.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn lets_no_more_through_at_a_time_and_serves_in_order() {
    let layer = fixed(2);
    let service = layer.layer(service_fn(async |time: Duration| {
        time::sleep(time).await;
        Ok::<_, BoxError>(())
    }));
    let mut calls: Vec<_> = (0..4)
        .map(|_| task::spawn(service.clone().oneshot(100 * MS)))
        .collect();
    calls.iter_mut().for_each(|call| {
        assert_pending!(call.poll());
    });
    assert_eq!(layer.handle().in_flight(), 2);
    time::advance(100 * MS).await;
    assert_ready_ok!(calls[0].poll());
    assert!(calls[2].is_woken() && !calls[3].is_woken(), "first come");
    assert_ready_ok!(calls[1].poll());
    assert!(calls[3].is_woken());
    assert_pending!(calls[2].poll());
    assert_pending!(calls[3].poll());
    time::advance(100 * MS).await;
    assert_ready_ok!(calls[2].poll());
    assert_ready_ok!(calls[3].poll());
    assert_eq!(layer.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_dropped_gives_its_permit_back() {
    let layer = fixed(1);
    let service = layer.layer(service_fn(async |()| {
        future::pending::<()>().await;
        Ok::<_, BoxError>(())
    }));
    let mut held = service.clone();
    held.ready().await.unwrap(); // reserved, never called
    let mut waiting = service.clone();
    let mut ready = task::spawn(waiting.ready());
    assert_pending!(ready.poll());
    drop(held);
    assert!(ready.is_woken());
    assert_ready_ok!(ready.poll());
    drop(ready);
    let call = waiting.call(()); // in flight, never polled
    let mut other = service.clone();
    let mut ready = task::spawn(other.ready());
    assert_pending!(ready.poll());
    drop(call);
    assert_ready_ok!(ready.poll());
    drop(ready);
    // One that waits and goes does not stay in line.
    let mut gone = task::spawn(service.clone().oneshot(()));
    assert_pending!(gone.poll());
    drop(gone);
    drop(other);
    let mut last = service.clone();
    assert_ready_ok!(task::spawn(last.ready()).poll());
    assert_eq!(layer.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn load_shed_refuses_what_gets_no_permit() {
    let layer = fixed(1);
    let service = ServiceBuilder::new()
        .load_shed()
        .layer(layer)
        .service(service_fn(async |()| {
            time::sleep(MS).await;
            Ok::<_, BoxError>(())
        }));
    let mut first = task::spawn(service.clone().oneshot(()));
    assert_pending!(first.poll());
    let error = service.clone().oneshot(()).await.unwrap_err();
    assert!(error.is::<tower::load_shed::error::Overloaded>());
    time::advance(MS).await;
    assert_ready_ok!(first.poll());
    service.oneshot(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_inner_service_and_passes_its_error_on() {
    let (inner, mut handle) = mock::pair::<(), ()>();
    let mut service = fixed(1).layer(inner);
    handle.allow(0);
    let mut ready = task::spawn(());
    assert_pending!(ready.enter(|cx, _| service.poll_ready(cx)));
    handle.allow(1);
    assert_ready_ok!(ready.enter(|cx, _| service.poll_ready(cx)));
    drop(service.call(()));
    handle.send_error("broken");
    assert_ready_err!(ready.enter(|cx, _| service.poll_ready(cx)));
}

/// A service that works on `capacity` calls at a time for 10 ms each; more wait in line. 200 callers
/// without a pause. Returns the limit after that, and the calls done in the last second.
async fn overloaded_queue(settings: LimitSettings, capacity: usize) -> (u32, u32) {
    let layer = settings.build().unwrap();
    let work = Arc::new(tokio::sync::Semaphore::new(capacity));
    let done = Arc::new(AtomicU32::new(0));
    for _ in 0..200 {
        let (work, done) = (work.clone(), done.clone());
        let service = layer.layer(service_fn(move |()| {
            let work = work.clone();
            async move {
                let _permit = work.acquire().await.unwrap();
                time::sleep(10 * MS).await;
                Ok::<_, BoxError>(())
            }
        }));
        tokio::spawn(async move {
            loop {
                service.clone().oneshot(()).await.unwrap();
                done.fetch_add(1, SeqCst);
            }
        });
    }
    time::sleep(100_000 * MS).await;
    let before = done.load(SeqCst);
    time::sleep(1_000 * MS).await;
    (layer.handle().limit(), done.load(SeqCst) - before)
}

#[tokio::test(start_paused = true)]
async fn finds_the_limit_of_a_service_that_queues() {
    let settings = LimitSettings::new().initial(5).range(1, 1_000);
    let (limit, done) = overloaded_queue(settings, 20).await;
    // 20 in 10 ms are 2 000 a second. A queue of the tolerance, and some room.
    assert!(done >= 1_900, "{done} done in a second at limit {limit}");
    assert!((18..=80).contains(&limit), "limit {limit}");
}

#[tokio::test(start_paused = true)]
async fn overload_shrinks_it_though_refusals_are_fast() {
    let judge = |result: Result<&u16, &BoxError>| match result {
        Ok(503) => Verdict::OVERLOADED,
        _ => Verdict::SUCCESS,
    };
    let layer = LimitSettings::new().initial(100).build().unwrap();
    let layer = layer.classify(classify::from_fn(judge));
    let service = layer.layer(service_fn(async |status: u16| Ok::<_, BoxError>(status)));
    for _ in 0..200 {
        time::advance(10 * MS).await;
        service.clone().oneshot(503).await.unwrap();
    }
    // Twenty periods, a tenth each.
    assert!((8..=20).contains(&layer.handle().limit()), "{layer:?}");
    // The new limit holds.
    let mut ready: Vec<_> = (0..100).map(|_| service.clone()).collect();
    let mut taken = 0;
    for service in &mut ready {
        taken += u32::from(task::spawn(service.ready()).poll().is_ready());
    }
    assert_eq!(taken, layer.handle().limit());
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_say_nothing() {
    let layer = AdaptiveLimitLayer::default();
    let service = layer.layer(service_fn(async |()| {
        future::pending::<()>().await;
        Ok::<_, BoxError>(())
    }));
    for _ in 0..1_000 {
        let mut call = task::spawn(service.clone().oneshot(()));
        assert_pending!(call.poll());
        time::advance(10 * MS).await;
    }
    assert_eq!(layer.handle().limit(), 20);
    assert_eq!(layer.handle().in_flight(), 0);
}

#[test]
#[should_panic(expected = "called before it was ready")]
fn panics_when_called_before_it_was_ready() {
    let inner = service_fn(async |()| Ok::<_, BoxError>(()));
    drop(fixed(1).layer(inner).call(()));
}

#[test]
fn a_classifier_that_panics_gives_its_permit_back() {
    let judge = |_: Result<&(), &BoxError>| panic!("a classifier that panics");
    let layer = fixed(1).classify(classify::from_fn(judge));
    for _ in 0..3 {
        let mut service = layer.layer(service_fn(async |()| Ok::<_, BoxError>(())));
        assert_ready_ok!(task::spawn(service.ready()).poll());
        let mut call = task::spawn(service.call(()));
        let polled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_ready!(call.poll())));
        assert!(polled.is_err());
    }
    assert_eq!(layer.handle().in_flight(), 0);
}

#[test]
fn refuses_settings_out_of_range() {
    let field = |settings: LimitSettings| settings.build().unwrap_err().field().to_owned();
    let b = LimitSettings::new;
    for (min, max) in [(0, 10), (30, 10), (1, 1_000_001)] {
        assert_eq!(field(b().range(min, max)), "limit.range", "{min} to {max}");
    }
    assert_eq!(field(b().initial(0)), "limit.initial");
    assert_eq!(field(b().range(1, 10)), "limit.initial");
    for tolerance in [0.9, 11.0, f64::NAN] {
        assert_eq!(
            field(b().tolerance(tolerance)),
            "limit.tolerance",
            "{tolerance}"
        );
    }
}
