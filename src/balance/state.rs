//! What is known of one endpoint while it is used: shared by snapshots, requests and the driver.

use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, Release},
};

use tokio::time::Instant;

use crate::{attempt::EndpointId, endpoint::load::LoadTracker, instance::Key};

/// Withheld by the breaker or by hand.
const EJECTED: u32 = 1;

/// The state of one endpoint, kept by its key through every update.
///
/// What each pick reads comes first, so that a pick touches one cache line of it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct EndpointState<L> {
    /// Relaxed throughout: a statistic that publishes no other memory.
    in_flight: AtomicUsize,
    flags: AtomicU32,
    pub(crate) tracker: L,
    /// Requests that went here. Relaxed, as above.
    started: AtomicU64,
    failed: AtomicU64,
    pub(crate) id: EndpointId,
    pub(crate) key: Key,
}

impl<L: LoadTracker> EndpointState<L> {
    pub(crate) fn new(key: Key, tracker: L) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            flags: AtomicU32::new(0),
            tracker,
            started: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            id: EndpointId::next(),
            key,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn started(&self) -> u64 {
        self.started.load(Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// A request goes here.
    pub(crate) fn begin(&self, now: Instant) {
        self.in_flight.fetch_add(1, Relaxed);
        self.started.fetch_add(1, Relaxed);
        self.tracker.start(now);
    }

    /// A request that went here is complete.
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn note_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

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
