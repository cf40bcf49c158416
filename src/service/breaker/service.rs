//! The breaker service.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use tower::Service;

use super::{BreakerCall, BreakerHandle, shared::BreakerShared};
use crate::{
    classify::{Answers, Classify},
    error::BoxError,
    service::Judged,
};

/// Refuses calls while the inner service mostly fails; made by a
/// [`BreakerLayer`](super::BreakerLayer).
///
/// Clones, and other services made by the same layer, share one breaker.
#[derive(Debug)]
pub struct Breaker<S, C = Answers> {
    inner: S,
    classify: C,
    shared: Arc<BreakerShared>,
    /// Whether the last `poll_ready` did not poll the inner service.
    skipped: bool,
}

impl<S, C> Breaker<S, C> {
    pub(super) fn new(inner: S, classify: C, shared: Arc<BreakerShared>) -> Self {
        Self {
            inner,
            classify,
            shared,
            skipped: false,
        }
    }

    /// A handle to the breaker.
    pub fn handle(&self) -> BreakerHandle {
        BreakerHandle::new(Arc::clone(&self.shared))
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, C, Request> Service<Request> for Breaker<S, C>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error>,
{
    type Response = C::Observed<BreakerCall>;
    type Error = BoxError;
    type Future = Judged<S::Future, C, BreakerCall>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.skipped = self.shared.refuses();
        if !self.skipped {
            ready!(self.inner.poll_ready(cx)).map_err(Into::into)?;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The inner service was not polled, so it must not be called, even if calls are admitted by
        // now.
        if self.skipped {
            return Judged::refused(self.shared.refuse_early());
        }
        match self.shared.admit() {
            Ok(admission) => {
                let call = BreakerCall::new(Arc::clone(&self.shared), admission);
                Judged::admitted(self.inner.call(request), self.classify.clone(), call)
            }
            Err(error) => Judged::refused(error),
        }
    }
}

impl<S: Clone, C: Clone> Clone for Breaker<S, C> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.classify.clone(),
            Arc::clone(&self.shared),
        )
    }
}
