//! A discovery whose endpoints measure their own load.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::time::Instant;
use tower::discover::{Change, Discover};

use crate::endpoint::{CompleteOnResponse, Endpoint, MeasuredEndpoint, load::LoadTracker};

/// A discovery whose endpoints measure their own load, for tower's own balancer. Made by
/// [`Discover::measured`](super::Discover::measured).
#[derive(Clone, Debug)]
pub struct MeasuredDiscover<D, L, T = CompleteOnResponse> {
    discover: D,
    tracker: L,
    completion: T,
}

impl<D, L: LoadTracker> MeasuredDiscover<D, L> {
    /// Gives each endpoint of a discovery a new tracker with the settings of `tracker`.
    pub fn new(discover: D, tracker: L) -> Self {
        Self {
            discover,
            tracker,
            completion: CompleteOnResponse::default(),
        }
    }
}

impl<D, L, T> MeasuredDiscover<D, L, T> {
    /// Sets when a request is complete: with its response ([`CompleteOnResponse`], the default), or with
    /// the body of the response (`CompleteOnBody`, which also counts 5xx as failures).
    #[must_use]
    pub fn complete<T2: Clone>(self, completion: T2) -> MeasuredDiscover<D, L, T2> {
        MeasuredDiscover {
            discover: self.discover,
            tracker: self.tracker,
            completion,
        }
    }
}

impl<D, S, L, T> Stream for MeasuredDiscover<D, L, T>
where
    D: Discover<Service = Endpoint<S>> + Unpin,
    L: LoadTracker,
    T: Clone,
{
    type Item = Result<Change<D::Key, MeasuredEndpoint<S, L, T>>, D::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.discover).poll_discover(cx);
        polled.map_ok(|change| match change {
            Change::Insert(key, endpoint) => {
                let tracker = this.tracker.fresh(Instant::now());
                let completion = this.completion.clone();
                Change::Insert(key, endpoint.measured(tracker).complete(completion))
            }
            Change::Remove(key) => Change::Remove(key),
        })
    }
}

// No field is structurally pinned.
impl<D: Unpin, L, T> Unpin for MeasuredDiscover<D, L, T> {}
