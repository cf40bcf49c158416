//! The future of a request through an endpoint.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;

use super::load::{Handle, LoadTracker};
use crate::classify::{self, Classify, Observer};

/// A request in flight. Dropping it cancels the request and releases its place.
#[pin_project]
pub struct ResponseFuture<F, L: LoadTracker, C> {
    #[pin]
    future: F,
    classify: C,
    /// Taken when the inner future completes.
    handle: Option<Handle<L>>,
}

impl<F, L: LoadTracker, C> ResponseFuture<F, L, C> {
    pub(super) fn new(future: F, classify: C, handle: Handle<L>) -> Self {
        Self {
            future,
            classify,
            handle: Some(handle),
        }
    }
}

impl<F, L, C, Response, E> Future for ResponseFuture<F, L, C>
where
    F: Future<Output = Result<Response, E>>,
    L: LoadTracker,
    C: Classify<Response, E>,
{
    type Output = Result<C::Observed<Handle<L>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        classify::forget();
        let result = ready!(this.future.poll(cx));
        let mut handle = this.handle.take().expect("not polled after it was done");
        let verdict = this.classify.judge(result.as_ref());
        Poll::Ready(match result {
            Ok(response) => {
                handle.answered(Instant::now());
                if let Some(verdict) = verdict {
                    handle.conclude(verdict);
                }
                Ok(this.classify.observe(response, verdict, handle))
            }
            Err(error) => {
                handle.conclude(classify::on_error(verdict, classify::noted()));
                Err(error)
            }
        })
    }
}

impl_debug!([F, L: LoadTracker, C] ResponseFuture<F, L, C>: |this| handle = this.handle);
