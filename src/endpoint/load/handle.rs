//! The guard of one request.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{LoadTracker, Outcome};

/// What all clones of an endpoint and all its requests share.
#[derive(Debug)]
pub(crate) struct State<L> {
    /// Relaxed throughout: it is a statistic, and publishes no other memory.
    in_flight: AtomicUsize,
    pub(crate) tracker: L,
}

impl<L: LoadTracker> State<L> {
    pub(crate) fn new(tracker: L) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            tracker,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn start(self: &Arc<Self>, now: Instant) -> Handle<L> {
        self.in_flight.fetch_add(1, Relaxed);
        self.tracker.start(now);
        Handle {
            state: Arc::clone(self),
            began: now,
            phase: Phase::Waiting,
        }
    }
}

/// A request in flight: dropping it ends the request.
///
/// What the drop means depends on how far the request has come: before the answer it was cancelled;
/// after it, it succeeded, unless [`fail`](Self::fail) was called. Completions
/// ([`TrackCompletion`](tower::load::TrackCompletion)) hold it for as long as the request counts
/// as in flight.
#[must_use = "the request counts as complete when its handle is dropped"]
pub struct Handle<L: LoadTracker> {
    state: Arc<State<L>>,
    began: Instant,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// The answer came this long after the start, and nobody has judged it yet.
    Answered(Duration),
    Recorded(Outcome),
}

impl<L: LoadTracker> Handle<L> {
    /// The answer is here, and may still be judged. Fixes the latency.
    pub(crate) fn answered(&mut self, now: Instant) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Answered(now.saturating_duration_since(self.began));
        }
    }

    /// Records that the answer is good, without waiting for the rest of it.
    pub fn succeed(&mut self) {
        self.record(Outcome::Success, Instant::now());
    }

    /// Records that the request failed; also after [`succeed`](Self::succeed), when the rest of an
    /// answer never came.
    pub fn fail(&mut self) {
        let now = Instant::now();
        if self.phase == Phase::Recorded(Outcome::Success) {
            self.phase = Phase::Recorded(Outcome::Failure);
            self.state.tracker.penalize(now);
        } else {
            self.record(Outcome::Failure, now);
        }
    }

    /// Records that the request says nothing of its endpoint.
    #[cfg(feature = "http")]
    pub(crate) fn forget(&mut self) {
        self.record(Outcome::Cancelled, Instant::now());
    }

    fn record(&mut self, outcome: Outcome, now: Instant) {
        let rtt = match self.phase {
            Phase::Recorded(_) => return,
            Phase::Answered(rtt) => rtt,
            Phase::Waiting => now.saturating_duration_since(self.began),
        };
        self.phase = Phase::Recorded(outcome);
        self.state.tracker.record(outcome, rtt, now);
    }
}

impl<L: LoadTracker> Drop for Handle<L> {
    fn drop(&mut self) {
        // First, so that a tracker which panics does not leak a place in flight.
        self.state.in_flight.fetch_sub(1, Relaxed);
        match self.phase {
            Phase::Waiting => self.record(Outcome::Cancelled, Instant::now()),
            Phase::Answered(_) => self.record(Outcome::Success, Instant::now()),
            Phase::Recorded(_) => {}
        }
    }
}

impl<L: LoadTracker> fmt::Debug for Handle<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("began", &self.began)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
