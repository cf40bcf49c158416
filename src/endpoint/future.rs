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

/// A request in flight. Dropping it cancels the request and gives back its place.
#[pin_project]
pub struct ResponseFuture<F, L: LoadTracker, C> {
    #[pin]
    future: F,
    completion: C,
    /// Taken when the inner future is done.
    handle: Option<Handle<L>>,
}

impl<F, L: LoadTracker, C> ResponseFuture<F, L, C> {
    pub(super) fn new(future: F, completion: C, handle: Handle<L>) -> Self {
        Self {
            future,
            completion,
            handle: Some(handle),
        }
    }
}

impl<F, L, C, T, E> Future for ResponseFuture<F, L, C>
where
    F: Future<Output = Result<T, E>>,
    L: LoadTracker,
    C: TrackCompletion<Handle<L>, T>,
{
    type Output = Result<C::Output, E>;

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

impl<F, L: LoadTracker, C> fmt::Debug for ResponseFuture<F, L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
