//! What is known of one endpoint while it is used: shared by snapshots, requests and the driver.

use std::{
    any::Any,
    ops::Deref,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
};

use tokio::time::Instant;

use crate::{attempt::EndpointId, endpoint::load::LoadTracker, instance::Key};

/// Withheld by the breaker or by hand.
const EJECTED: u32 = 1;

/// The state of one endpoint, kept by its key through every update.
///
/// What each pick reads comes first, so that a pick touches one cache line of it, which is also where
/// the `Arc` counts.
#[repr(C)]
pub(crate) struct EndpointState<L> {
    /// References that are not requests; see [`Held`].
    held: AtomicU32,
    flags: AtomicU32,
    pub(crate) tracker: L,
    /// Relaxed: a statistic, as all numbers here; none publishes other memory.
    failed: AtomicU64,
    /// What requests count their time from.
    pub(crate) epoch: Instant,
    pub(crate) id: EndpointId,
    pub(crate) key: Key,
    /// The balancer's core, for a request that must go to another endpoint. Weak, as the core holds the
    /// state; and without its type, which is the service's affair.
    pub(crate) core: Weak<dyn Any + Send + Sync>,
}

impl<L: LoadTracker> EndpointState<L> {
    pub(crate) fn new(key: Key, tracker: L, core: Weak<dyn Any + Send + Sync>) -> Held<L> {
        Held(Arc::new(Self {
            held: AtomicU32::new(1),
            flags: AtomicU32::new(0),
            tracker,
            failed: AtomicU64::new(0),
            epoch: Instant::now(),
            id: EndpointId::next(),
            key,
            core,
        }))
    }
}

impl<L> EndpointState<L> {
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    pub(crate) fn note_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn is_ejected(&self) -> bool {
        self.flags.load(Relaxed) & EJECTED != 0
    }

    /// Returns whether it was not.
    pub(crate) fn eject(&self) -> bool {
        self.flags.fetch_or(EJECTED, Release) & EJECTED == 0
    }

    pub(crate) fn restore(&self) {
        self.flags.fetch_and(!EJECTED, Release);
    }
}

/// A reference to a state that is no request.
///
/// Each request holds an `Arc` of the state of its endpoint anyhow, so the `Arc`'s own counter counts
/// requests, when the other references are known: a request costs two atomic operations this way, and
/// four with a counter of its own. Whoever is no request holds one of these, which counts itself.
/// While one is cloned or dropped, the count is one too high for a moment.
#[derive(Debug)]
pub(crate) struct Held<L>(Arc<EndpointState<L>>);

impl<L> Held<L> {
    /// The requests that are not complete.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        let others = self.0.held.load(Relaxed) as usize;
        Arc::strong_count(&self.0).saturating_sub(others)
    }

    /// A request goes here.
    #[inline]
    pub(crate) fn begin(&self) -> Arc<EndpointState<L>> {
        Arc::clone(&self.0)
    }
}

impl<L> Clone for Held<L> {
    fn clone(&self) -> Self {
        let state = Arc::clone(&self.0);
        state.held.fetch_add(1, Relaxed);
        Self(state)
    }
}

impl<L> Drop for Held<L> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

impl<L> Deref for Held<L> {
    type Target = EndpointState<L>;

    fn deref(&self) -> &EndpointState<L> {
        &self.0
    }
}

impl<L: std::fmt::Debug> std::fmt::Debug for EndpointState<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointState")
            .field("key", &self.key)
            .field("tracker", &self.tracker)
            .field("ejected", &self.is_ejected())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::load::InFlight;

    #[test]
    fn only_requests_count_as_in_flight() {
        let core: Weak<()> = Weak::new();
        let state = EndpointState::new(Key::new("a", ""), InFlight::new(), core);
        let others: Vec<_> = (0..5).map(|_| state.clone()).collect();
        assert_eq!(state.in_flight(), 0);
        let requests = [state.begin(), others[3].begin()];
        assert_eq!(state.in_flight(), 2);
        drop(others);
        assert_eq!(state.in_flight(), 2);
        drop(requests);
        assert_eq!(state.in_flight(), 0);
    }
}
