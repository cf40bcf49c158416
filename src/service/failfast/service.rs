//! The failfast service.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::Service;

use super::{error::FailFastError, shared::FailFastShared};
use crate::{backoff, classify::Answers, error::BoxError, service::Judged, task::Timer};

/// Fails calls at once after the inner service was not ready for a while; made by a
/// [`FailFastLayer`](super::FailFastLayer).
#[derive(Debug)]
pub struct FailFast<S> {
    inner: S,
    shared: Arc<FailFastShared>,
    /// When this clone first found the inner service not ready; `None` while it is ready.
    since: Option<Instant>,
    /// Reused for each wait.
    timer: Timer,
    /// Whether the last `poll_ready` was ready only to fail the call.
    failing: bool,
}

impl<S> FailFast<S> {
    pub(super) fn new(inner: S, shared: Arc<FailFastShared>) -> Self {
        Self {
            inner,
            shared,
            since: None,
            timer: Timer::default(),
            failing: false,
        }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Ends the failing state for all clones.
    fn recover(&mut self) {
        self.since = None;
        self.failing = false;
        // Loads first, because every call would otherwise write to this shared memory.
        if self.shared.failing.load(Relaxed) && self.shared.failing.swap(false, Relaxed) {
            tracing::info!(
                name = &*self.shared.name,
                "ready again, no longer failing fast"
            );
        }
    }

    /// Whether the wait is over, for this clone or for another.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shared.failing.load(Relaxed) {
            return true;
        }
        let (now, wait) = (Instant::now(), self.shared.wait);
        // A task that still waits polls soon after the end of its wait. A task that polls much
        // later stopped waiting in between, and starts a new wait.
        let kept = self.since.filter(|since| {
            let waited = now.saturating_duration_since(*since);
            waited < wait.saturating_mul(2)
        });
        let since = *self.since.insert(kept.unwrap_or(now));
        let end = backoff::after(since, wait);
        if self.timer.poll(Some(end), cx).is_pending() {
            return false;
        }
        if !self.shared.failing.swap(true, Relaxed) {
            let name = &*self.shared.name;
            tracing::warn!(name, waited = ?now.saturating_duration_since(since), "not ready, failing fast");
        }
        true
    }
}

impl<S, Request> Service<Request> for FailFast<S>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Judged<S::Future, Answers, ()>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.inner.poll_ready(cx) {
            Poll::Ready(result) => {
                // An error also ends the wait, and is returned at once.
                self.recover();
                Poll::Ready(result.map_err(Into::into))
            }
            Poll::Pending => {
                self.failing = self.is_over(cx);
                if self.failing {
                    // The next wait of this clone starts after the failing state has ended.
                    self.since = None;
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                }
            }
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if self.failing {
            let FailFastShared { name, wait, .. } = &*self.shared;
            return Judged::refused(FailFastError::new(Arc::clone(name), *wait));
        }
        Judged::admitted(self.inner.call(request), Answers::default(), ())
    }
}

/// The clone waits separately, as its inner service does.
impl<S: Clone> Clone for FailFast<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}
