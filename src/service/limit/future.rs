//! The future of a call through an adaptive limit.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use super::Call;
use crate::classify::{Classify, Verdict};

/// A call in flight. Dropping it cancels the call, and its permit comes back.
#[pin_project]
pub struct ResponseFuture<F, C> {
    #[pin]
    future: F,
    classify: C,
    /// Taken when the inner future is done.
    call: Option<Call>,
}

impl<F, C> ResponseFuture<F, C> {
    pub(super) fn new(future: F, classify: C, call: Call) -> Self {
        Self {
            future,
            classify,
            call: Some(call),
        }
    }
}

impl<F, C, T, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
{
    type Output = Result<C::Observed<Call>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        // Held here, so that a classifier which panics drops it.
        let mut call = this.call.take().expect("not polled after it was done");
        let verdict = this.classify.judge(result.as_ref());
        Poll::Ready(match result {
            Ok(response) => {
                call.answered(verdict);
                Ok(this.classify.observe(response, verdict, call))
            }
            Err(error) => {
                call.answered(verdict.or(Some(Verdict::FAILURE)));
                Err(error)
            }
        })
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
