//! The throttle service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::Service;

use super::{call::ThrottleCall, handle::ThrottleHandle, shared::ThrottleShared};
use crate::{
    classify::{Answers, Classify},
    error::BoxError,
    service::Judged,
};

/// Refuses the calls that exceed a multiple of the accepted calls; made by a
/// [`ThrottleLayer`](super::ThrottleLayer).
///
/// Clones, and other services made by the same layer, share one throttle. Calls are refused in
/// `call`; the inner service then stays ready for the next call.
#[derive(Clone, Debug)]
pub struct Throttle<S, C = Answers> {
    inner: S,
    classify: C,
    shared: Arc<ThrottleShared>,
}

impl<S, C> Throttle<S, C> {
    pub(super) fn new(inner: S, classify: C, shared: Arc<ThrottleShared>) -> Self {
        Self {
            inner,
            classify,
            shared,
        }
    }

    /// A handle to the throttle.
    pub fn handle(&self) -> ThrottleHandle {
        ThrottleHandle::new(Arc::clone(&self.shared))
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, C, Request> Service<Request> for Throttle<S, C>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error>,
{
    type Response = C::Observed<ThrottleCall>;
    type Error = BoxError;
    type Future = Judged<S::Future, C, ThrottleCall>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let now = Instant::now();
        match self.shared.admit(now) {
            Ok(()) => {
                let call = ThrottleCall::new(Arc::clone(&self.shared), now);
                Judged::admitted(self.inner.call(request), self.classify.clone(), call)
            }
            Err(error) => Judged::refused(error),
        }
    }
}
