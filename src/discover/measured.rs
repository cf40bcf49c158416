//! A discovery whose endpoints measure their own load.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::time::Instant;
use tower::discover::{Change, Discover};

use crate::{
    classify::Answers,
    endpoint::{Endpoint, MeasuredEndpoint, load::LoadTracker},
};

/// A discovery whose endpoints measure their own load, for tower's own balancer. Made by
/// [`Discover::measured`](super::Discover::measured).
#[derive(Clone, Debug)]
pub struct MeasuredDiscover<D, L, C = Answers> {
    discover: D,
    tracker: L,
    classify: C,
}

impl<D, L: LoadTracker> MeasuredDiscover<D, L> {
    /// Gives each endpoint of a discovery a new tracker with the settings of `tracker`.
    pub fn new(discover: D, tracker: L) -> Self {
        Self {
            discover,
            tracker,
            classify: Answers,
        }
    }
}

impl<D, L, C> MeasuredDiscover<D, L, C> {
    /// Sets the classifier that judges responses, and decides when a request is complete: with its response
    /// ([`Answers`], the default, for which every response is a success), or with the body of the response
    /// (`Http` and `Grpc`).
    #[must_use]
    pub fn classify<C2: Clone>(self, classify: C2) -> MeasuredDiscover<D, L, C2> {
        MeasuredDiscover {
            discover: self.discover,
            tracker: self.tracker,
            classify,
        }
    }
}

impl<D, S, L, C> Stream for MeasuredDiscover<D, L, C>
where
    D: Discover<Service = Endpoint<S>> + Unpin,
    L: LoadTracker,
    C: Clone,
{
    type Item = Result<Change<D::Key, MeasuredEndpoint<S, L, C>>, D::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.discover).poll_discover(cx);
        polled.map_ok(|change| match change {
            Change::Insert(key, endpoint) => {
                let tracker = this.tracker.fresh(Instant::now());
                let classify = this.classify.clone();
                Change::Insert(key, endpoint.measured(tracker).classify(classify))
            }
            Change::Remove(key) => Change::Remove(key),
        })
    }
}

// No field is structurally pinned.
impl<D: Unpin, L, C> Unpin for MeasuredDiscover<D, L, C> {}
