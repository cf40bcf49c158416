//! The future of a request through an endpoint.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower::load::TrackCompletion;

use super::load::{Handle, LoadTracker};

/// A request in flight. Dropping it cancels the request and releases its place.
#[pin_project]
pub struct ResponseFuture<F, L: LoadTracker, T> {
    #[pin]
    future: F,
    completion: T,
    /// Taken when the inner future completes.
    handle: Option<Handle<L>>,
}

impl<F, L: LoadTracker, T> ResponseFuture<F, L, T> {
    pub(super) fn new(future: F, completion: T, handle: Handle<L>) -> Self {
        Self {
            future,
            completion,
            handle: Some(handle),
        }
    }
}

impl<F, L, T, Response, E> Future for ResponseFuture<F, L, T>
where
    F: Future<Output = Result<Response, E>>,
    L: LoadTracker,
    T: TrackCompletion<Handle<L>, Response>,
{
    type Output = Result<T::Output, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        let mut handle = this.handle.take().expect("not polled after it was done");
        Poll::Ready(match result {
            Ok(response) => {
                handle.answered(Instant::now());
                Ok(this.completion.track_completion(handle, response))
            }
            Err(error) => {
                handle.fail();
                Err(error)
            }
        })
    }
}

impl<F, L: LoadTracker, T> fmt::Debug for ResponseFuture<F, L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
