//! A request on an endpoint.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::state::EndpointState;
use crate::{
    classify::{Observer, Outcome, Verdict},
    endpoint::load::LoadTracker,
};

/// The place of a request in flight. Dropping it completes the request: as cancelled when no verdict
/// was given.
pub struct RequestGuard<L: LoadTracker> {
    /// Counts as the request, as long as it is held.
    state: Arc<EndpointState<L>>,
    /// `None` when nobody looks at the time of this request.
    began: Option<Instant>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// The head of the answer came this long after the start; the end will tell what it is worth.
    Answered(Duration),
    Recorded(Outcome),
}

impl<L: LoadTracker> RequestGuard<L> {
    pub(super) fn new(state: Arc<EndpointState<L>>, began: Option<Instant>) -> Self {
        if let Some(now) = began {
            state.tracker.start(now);
        }
        Self {
            state,
            began,
            phase: Phase::Waiting,
        }
    }

    pub(super) fn state(&self) -> &EndpointState<L> {
        &self.state
    }

    /// The head of the answer is here: fixes the latency.
    pub(super) fn answered(&mut self) {
        if let (Phase::Waiting, Some(began)) = (self.phase, self.began) {
            self.phase = Phase::Answered(Instant::now().saturating_duration_since(began));
        }
    }

    fn record(&mut self, outcome: Outcome) {
        let before = std::mem::replace(&mut self.phase, Phase::Recorded(outcome));
        let failed = matches!(outcome, Outcome::Failure | Outcome::Overloaded);
        if failed {
            self.state.note_failure();
        }
        match (before, self.began) {
            (Phase::Waiting | Phase::Answered(_), Some(began)) => {
                let now = Instant::now();
                let rtt = match before {
                    Phase::Answered(rtt) => rtt,
                    _ => now.saturating_duration_since(began),
                };
                self.state.tracker.record(outcome, rtt, now);
            }
            // An answer that began well and broke off, or a failure nobody took the time of.
            (_, _) if failed && L::TIMED => self.state.tracker.penalize(Instant::now()),
            (_, _) => {}
        }
    }
}

impl<L: LoadTracker> Observer for RequestGuard<L> {
    fn conclude(&mut self, verdict: Verdict) {
        match self.phase {
            Phase::Waiting | Phase::Answered(_) => self.record(verdict.outcome),
            // Only for the worse.
            Phase::Recorded(Outcome::Success) if verdict.outcome != Outcome::Success => {
                self.record(verdict.outcome);
            }
            Phase::Recorded(_) => {}
        }
    }
}

impl<L: LoadTracker> Drop for RequestGuard<L> {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Waiting | Phase::Answered(_)) {
            self.record(Outcome::Cancelled);
        }
    }
}

impl<L: LoadTracker> fmt::Debug for RequestGuard<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestGuard")
            .field("endpoint", &self.state.key)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
