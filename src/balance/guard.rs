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
///
/// Two words, so that it travels in registers: to be copied right after it was written, a struct of
/// more waits for its parts to reach the cache.
pub struct RequestGuard<L: LoadTracker> {
    /// Counts as the request, as long as it is held.
    state: Arc<EndpointState<L>>,
    phase: Packed,
}

/// Where a request is, and the time that belongs to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the head of the answer, and nobody looks at the time.
    Untimed,
    /// Waits for the head of the answer since this long after the state's epoch.
    Waiting(Duration),
    /// The head came this long after the start; the end will tell what it is worth.
    Answered(Duration),
    /// It was a success.
    Succeeded,
    /// It was not.
    Done,
}

/// A phase in one word: nanoseconds, up to 73 years, above three bits for what they mean.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    #[inline]
    fn new(phase: Phase) -> Self {
        let nanos = |time: Duration| (time.as_nanos() as u64) << 3;
        Self(match phase {
            Phase::Untimed => 0,
            Phase::Waiting(since) => nanos(since) | 1,
            Phase::Answered(rtt) => nanos(rtt) | 2,
            Phase::Succeeded => 3,
            Phase::Done => 4,
        })
    }

    #[inline]
    fn get(self) -> Phase {
        let time = Duration::from_nanos(self.0 >> 3);
        match self.0 & 7 {
            0 => Phase::Untimed,
            1 => Phase::Waiting(time),
            2 => Phase::Answered(time),
            3 => Phase::Succeeded,
            _ => Phase::Done,
        }
    }
}

impl<L: LoadTracker> RequestGuard<L> {
    #[inline]
    pub(super) fn new(state: Arc<EndpointState<L>>, began: Option<Instant>) -> Self {
        let phase = match began {
            None => Phase::Untimed,
            Some(now) => {
                state.tracker.start(now);
                Phase::Waiting(now.saturating_duration_since(state.epoch))
            }
        };
        Self {
            state,
            phase: Packed::new(phase),
        }
    }

    #[inline]
    pub(super) fn state(&self) -> &EndpointState<L> {
        &self.state
    }

    /// The head of the answer is here: fixes the latency.
    #[inline]
    pub(super) fn answered(&mut self) {
        if let Phase::Waiting(since) = self.phase.get() {
            let rtt = self.state.epoch.elapsed().saturating_sub(since);
            self.phase = Packed::new(Phase::Answered(rtt));
        }
    }

    #[inline]
    fn record(&mut self, outcome: Outcome) {
        let before = self.phase.get();
        self.phase = Packed::new(match outcome {
            Outcome::Success => Phase::Succeeded,
            _ => Phase::Done,
        });
        let state = &*self.state;
        let failed = matches!(outcome, Outcome::Failure | Outcome::Overloaded);
        if failed {
            state.note_failure();
        }
        match before {
            Phase::Waiting(since) => {
                let now = Instant::now();
                let began = state.epoch + since;
                let rtt = now.saturating_duration_since(began);
                state.tracker.record(outcome, rtt, now);
            }
            Phase::Answered(rtt) => state.tracker.record(outcome, rtt, Instant::now()),
            // A failure that nobody took the time of, or an answer that began well and broke off.
            Phase::Untimed | Phase::Succeeded if failed && L::TIMED => {
                state.tracker.penalize(Instant::now());
            }
            Phase::Untimed | Phase::Succeeded | Phase::Done => {}
        }
    }

    #[inline]
    fn is_open(&self) -> bool {
        !matches!(self.phase.get(), Phase::Succeeded | Phase::Done)
    }
}

impl<L: LoadTracker> Observer for RequestGuard<L> {
    #[inline]
    fn conclude(&mut self, verdict: Verdict) {
        let worse = self.phase.get() == Phase::Succeeded && verdict.outcome != Outcome::Success;
        if self.is_open() || worse {
            self.record(verdict.outcome);
        }
    }
}

impl<L: LoadTracker> Drop for RequestGuard<L> {
    #[inline]
    fn drop(&mut self) {
        if self.is_open() {
            self.record(Outcome::Cancelled);
        }
    }
}

impl<L: LoadTracker> fmt::Debug for RequestGuard<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestGuard")
            .field("endpoint", &self.state.key)
            .field("phase", &self.phase.get())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_survive_packing() {
        for phase in [
            Phase::Untimed,
            Phase::Waiting(Duration::from_nanos(1)),
            Phase::Answered(Duration::from_secs(2_000_000_000)),
            Phase::Waiting(Duration::ZERO),
            Phase::Succeeded,
            Phase::Done,
        ] {
            assert_eq!(Packed::new(phase).get(), phase);
        }
    }
}
