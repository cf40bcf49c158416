//! Failfast.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::service::failfast::{FailFast, FailFastError, FailFastLayer, FailFastSettings};

const SECOND: Duration = Duration::from_secs(1);

/// Ready when it is told to; wakes whoever asked last, as most services do.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<Mutex<Inner>>, Arc<AtomicUsize>);

#[derive(Debug, Default)]
struct Inner {
    ready: bool,
    broken: bool,
    waker: Option<Waker>,
}

impl Gate {
    fn set(&self, ready: bool) {
        let mut inner = self.0.lock().unwrap();
        inner.ready = ready;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    fn asked(&self) -> usize {
        self.1.load(SeqCst)
    }
}

impl Service<()> for Gate {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.1.fetch_add(1, SeqCst);
        let mut inner = self.0.lock().unwrap();
        if inner.broken {
            return Poll::Ready(Err("broken".into()));
        }
        if inner.ready {
            return Poll::Ready(Ok(()));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, (): ()) -> Self::Future {
        assert!(self.0.lock().unwrap().ready, "called while not ready");
        std::future::ready(Ok(()))
    }
}

fn layer() -> FailFastLayer {
    let settings = FailFastSettings::new().wait(3 * SECOND).name("users");
    settings.build().unwrap()
}

fn service() -> (Gate, FailFast<Gate>) {
    let gate = Gate::default();
    (gate.clone(), layer().layer(gate))
}

#[tokio::test(start_paused = true)]
async fn waits_then_fails_at_once_until_ready_again() {
    let (gate, mut service) = service();
    let began = time::Instant::now();
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    assert_eq!(began.elapsed(), 3 * SECOND);
    let found = FailFastError::find(&*error).unwrap();
    assert_eq!(found.waited(), 3 * SECOND);
    assert_eq!(error.to_string(), "service \"users\" was not ready for 3s");
    for _ in 0..10 {
        assert!(service.ready().await.unwrap().call(()).await.is_err());
    }
    assert_eq!(began.elapsed(), 3 * SECOND, "no more waiting");
    gate.set(true);
    service.ready().await.unwrap().call(()).await.unwrap();
    // The next time it waits again.
    gate.set(false);
    assert!(service.ready().await.unwrap().call(()).await.is_err());
    assert_eq!(began.elapsed(), 6 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn is_woken_by_the_inner_service_within_the_wait() {
    let (gate, mut service) = service();
    let mut ready = task::spawn(service.ready());
    assert_pending!(ready.poll());
    time::advance(2 * SECOND).await;
    assert!(!ready.is_woken(), "nothing happened");
    gate.set(true);
    assert!(ready.is_woken());
    assert_ready_ok!(ready.poll());
    drop(ready);
    service.call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn does_not_spin() {
    let (gate, mut service) = service();
    let _ = service.ready().await;
    assert!(gate.asked() <= 3, "{} times in one wait", gate.asked());
    // A task that waits for the service to be ready is not woken while it fails.
    let before = gate.asked();
    time::sleep(1_000 * SECOND).await;
    assert_eq!(gate.asked(), before);
}

#[tokio::test(start_paused = true)]
async fn clones_fail_and_recover_together() {
    let layer = layer();
    let gate = Gate::default();
    let mut one = layer.layer(gate.clone());
    let mut other = one.clone();
    assert!(one.ready().await.unwrap().call(()).await.is_err());
    assert!(layer.is_failing());
    let began = time::Instant::now();
    assert!(other.clone().oneshot(()).await.is_err());
    assert!(other.ready().await.unwrap().call(()).await.is_err());
    assert_eq!(began.elapsed(), Duration::ZERO, "one has waited for all");
    gate.set(true);
    other.ready().await.unwrap().call(()).await.unwrap();
    assert!(!layer.is_failing());
    gate.set(false);
    let mut ready = task::spawn(one.ready());
    assert_pending!(ready.poll());
}

#[tokio::test(start_paused = true)]
async fn readiness_that_comes_between_ready_and_call_is_not_used_unasked() {
    let (gate, mut service) = service();
    service.ready().await.unwrap();
    gate.set(true);
    // It was ready in order to fail: the inner service was not asked since.
    assert!(service.call(()).await.is_err());
    service.ready().await.unwrap().call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_given_up_is_not_held_against_the_next() {
    let (gate, mut service) = service();
    let mut ready = task::spawn(service.ready());
    assert_pending!(ready.poll());
    drop(ready);
    time::advance(3_600 * SECOND).await;
    let mut ready = task::spawn(service.ready());
    assert_pending!(ready.poll());
    time::advance(2 * SECOND).await;
    gate.set(true);
    assert_ready_ok!(ready.poll());
    drop(ready);
    service.call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_inner_service_passes() {
    let (gate, mut service) = service();
    assert!(service.ready().await.unwrap().call(()).await.is_err());
    gate.0.lock().unwrap().broken = true;
    let mut ready = task::spawn(());
    let error = assert_ready_err!(ready.enter(|cx, _| service.poll_ready(cx)));
    assert_eq!(error.to_string(), "broken");
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_may_be_dropped_and_is_ready_at_once() {
    let (_gate, mut service) = service();
    drop(service.ready().await.unwrap().call(()));
    let mut call = task::spawn(service.call(()));
    assert!(assert_ready!(call.poll()).is_err());
}

#[test]
fn refuses_a_wait_out_of_range() {
    for wait in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let error = FailFastSettings::new().wait(wait).build().unwrap_err();
        assert_eq!(error.field(), "failfast.wait", "{wait:?}");
    }
}
