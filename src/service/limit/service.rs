//! The limit service.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tower::Service;

use super::{call::LimitCall, handle::LimitHandle, shared::LimitShared};
use crate::{
    classify::{Answers, Classify},
    permits::Permit,
    service::Judged,
};

/// Admits as many concurrent calls as latency and overload allow; made by an
/// [`AdaptiveLimitLayer`](super::AdaptiveLimitLayer).
///
/// Clones, and other services made by the same layer, share one limit. Errors are those of the
/// inner service: calls wait, and none is refused.
pub struct AdaptiveLimit<S, C = Answers> {
    inner: S,
    classify: C,
    shared: Arc<LimitShared>,
    turn: Turn,
}

/// The position of this service in the queue for a permit.
enum Turn {
    None,
    Waiting(Pin<Box<dyn Future<Output = Permit> + Send + Sync>>),
    Taken(Permit),
}

impl<S, C> AdaptiveLimit<S, C> {
    pub(super) fn new(inner: S, classify: C, shared: Arc<LimitShared>) -> Self {
        Self {
            inner,
            classify,
            shared,
            turn: Turn::None,
        }
    }

    /// A handle to the limit.
    pub fn handle(&self) -> LimitHandle {
        LimitHandle::new(Arc::clone(&self.shared))
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    fn poll_permit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.turn, Turn::None) {
            self.turn = match self.shared.permits.try_acquire() {
                Some(permit) => Turn::Taken(permit),
                None => Turn::Waiting(Box::pin(Arc::clone(&self.shared.permits).acquire())),
            };
        }
        if let Turn::Waiting(waiting) = &mut self.turn {
            let permit = ready!(waiting.as_mut().poll(cx));
            self.turn = Turn::Taken(permit);
        }
        Poll::Ready(())
    }
}

impl<S, C, Request> Service<Request> for AdaptiveLimit<S, C>
where
    S: Service<Request>,
    C: Classify<S::Response, S::Error>,
{
    type Response = C::Observed<LimitCall>;
    type Error = S::Error;
    type Future = Judged<S::Future, C, LimitCall, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.poll_permit(cx));
        self.inner.poll_ready(cx)
    }

    /// # Panics
    /// When called before it was ready.
    fn call(&mut self, request: Request) -> Self::Future {
        let Turn::Taken(permit) = mem::replace(&mut self.turn, Turn::None) else {
            panic!("called before it was ready");
        };
        let call = LimitCall::new(Arc::clone(&self.shared), permit);
        Judged::admitted(self.inner.call(request), self.classify.clone(), call)
    }
}

/// The clone has no permit and acquires its own.
impl<S: Clone, C: Clone> Clone for AdaptiveLimit<S, C> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.classify.clone(),
            Arc::clone(&self.shared),
        )
    }
}

impl_debug!([S, C] AdaptiveLimit<S, C>: |this| shared = this.shared);
