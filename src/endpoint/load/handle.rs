//! The guard that counts one request as in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{LoadTracker, Outcome};
use crate::classify::{Observer, Verdict};

/// The state that all clones of an endpoint and all its requests share.
#[derive(Debug)]
pub(crate) struct LoadState<L> {
    /// Relaxed everywhere: it is a statistic and publishes no other memory.
    in_flight: AtomicUsize,
    pub(crate) tracker: L,
}

impl<L: LoadTracker> LoadState<L> {
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
            phase: MeasurePhase::Waiting,
        }
    }
}

/// A request in flight: dropping it ends the request.
///
/// Dropping it before the response records a cancelled request. Dropping it after the response records a
/// success, unless it was given another verdict. The response of a classifier holds the handle for as long
/// as the request counts as in flight.
#[must_use = "the request counts as complete when its handle is dropped"]
pub struct Handle<L: LoadTracker> {
    state: Arc<LoadState<L>>,
    began: Instant,
    phase: MeasurePhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MeasurePhase {
    Waiting,
    /// The response arrived after this time. Its outcome is not recorded yet.
    Answered(Duration),
    Recorded(Outcome),
}

impl<L: LoadTracker> Handle<L> {
    /// Notes the arrival of the response and fixes its latency. The outcome may still be recorded.
    pub(crate) fn answered(&mut self, now: Instant) {
        if self.phase == MeasurePhase::Waiting {
            self.phase = MeasurePhase::Answered(now.saturating_duration_since(self.began));
        }
    }

    /// Records a failure. It may follow a success, when the rest of the response never arrives.
    fn fail(&mut self) {
        let now = Instant::now();
        if self.phase == MeasurePhase::Recorded(Outcome::Success) {
            self.phase = MeasurePhase::Recorded(Outcome::Failure);
            self.state.tracker.penalize(now);
        } else {
            self.record(Outcome::Failure, now);
        }
    }

    fn record(&mut self, outcome: Outcome, now: Instant) {
        let rtt = match self.phase {
            MeasurePhase::Recorded(_) => return,
            MeasurePhase::Answered(rtt) => rtt,
            MeasurePhase::Waiting => now.saturating_duration_since(self.began),
        };
        self.phase = MeasurePhase::Recorded(outcome);
        self.state.tracker.record(outcome, rtt, now);
    }
}

impl<L: LoadTracker> Observer for Handle<L> {
    /// A refusal for overload counts as a failure, so that a server that refuses fast does not look like a
    /// fast server.
    fn conclude(&mut self, verdict: Verdict) {
        match verdict.outcome {
            Outcome::Failure | Outcome::Overloaded => self.fail(),
            outcome => self.record(outcome, Instant::now()),
        }
    }
}

impl<L: LoadTracker> Drop for Handle<L> {
    fn drop(&mut self) {
        // Decremented first, so that the count stays right when the tracker panics.
        self.state.in_flight.fetch_sub(1, Relaxed);
        match self.phase {
            MeasurePhase::Waiting => self.record(Outcome::Cancelled, Instant::now()),
            MeasurePhase::Answered(_) => self.record(Outcome::Success, Instant::now()),
            MeasurePhase::Recorded(_) => {}
        }
    }
}

impl_debug!([L: LoadTracker] Handle<L>: |this| began = this.began, phase = this.phase);
