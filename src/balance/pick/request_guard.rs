//! The guard of a request in flight.

use std::time::Duration;

use tokio::time::Instant;

use super::state::{LiveEndpoint, SharedState};
use crate::{
    attempt::is_given_up,
    classify::{Observer, Outcome, Verdict},
    endpoint::{eject::Pass, load::LoadTracker},
};

/// The place of a request in flight. Dropping it completes the request; without a verdict the request
/// counts as cancelled.
///
/// It is two words, so that it is passed in registers. A larger struct that is copied right after it was
/// written has to wait until its parts reach the cache.
pub struct RequestGuard<L: LoadTracker> {
    /// This reference counts as the request while it is held.
    state: SharedState<L>,
    phase: Packed,
}

/// The phase of a request, with the time that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuardPhase {
    /// Waits for the head of the response. The request is not timed.
    Untimed,
    /// Waits for the head of the response. The time is the start, since the epoch.
    Waiting(Ticks),
    /// The head has arrived; the end of the response decides the outcome. The time is the latency.
    Answered(Ticks),
    /// The request was recorded as a success. The time is the latency.
    Succeeded(Ticks),
    /// Complete, and not a success that a later failure could revise.
    Done,
}

/// A time in units of 32 ns, modulo 4.9 hours: a longer request counts as a shorter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks(u64);

impl Ticks {
    const BITS: u32 = 64 - 3 - Pass::BITS;
    const MASK: u64 = (1 << Self::BITS) - 1;

    #[inline]
    fn of(time: Duration) -> Self {
        Self((time.as_nanos() as u64) >> 5 & Self::MASK)
    }

    #[inline]
    fn since(self, earlier: Self) -> Self {
        Self(self.0.wrapping_sub(earlier.0) & Self::MASK)
    }

    #[inline]
    fn time(self) -> Duration {
        Duration::from_nanos(self.0 << 5)
    }
}

/// A phase and a packed [`Pass`] in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    #[inline]
    fn new(phase: GuardPhase, pass: u32) -> Self {
        let (tag, ticks) = match phase {
            GuardPhase::Untimed => (0, Ticks(0)),
            GuardPhase::Waiting(since) => (1, since),
            GuardPhase::Answered(rtt) => (2, rtt),
            GuardPhase::Succeeded(rtt) => (3, rtt),
            GuardPhase::Done => (4, Ticks(0)),
        };
        Self(ticks.0 << (3 + Pass::BITS) | u64::from(pass) << 3 | tag)
    }

    #[inline]
    fn is_untimed(self) -> bool {
        self.0 & 7 == 0
    }

    #[inline]
    fn phase(self) -> GuardPhase {
        let ticks = Ticks(self.0 >> (3 + Pass::BITS));
        match self.0 & 7 {
            0 => GuardPhase::Untimed,
            1 => GuardPhase::Waiting(ticks),
            2 => GuardPhase::Answered(ticks),
            3 => GuardPhase::Succeeded(ticks),
            _ => GuardPhase::Done,
        }
    }

    #[inline]
    fn pass(self) -> u32 {
        (self.0 >> 3) as u32 & Pass::NONE
    }
}

impl<L: LoadTracker> RequestGuard<L> {
    /// For a request that passed the endpoint's gate with `pass`.
    #[inline]
    pub(crate) fn new(state: SharedState<L>, began: Option<Instant>, pass: u32) -> Self {
        let phase = match began {
            None => GuardPhase::Untimed,
            Some(now) => {
                state.tracker().start(now);
                let since = now.saturating_duration_since(state.common().epoch);
                GuardPhase::Waiting(Ticks::of(since))
            }
        };
        Self {
            state,
            phase: Packed::new(phase, pass),
        }
    }

    /// Whether the request is the probe of its endpoint.
    pub(crate) fn is_probe(&self) -> bool {
        Pass::is_packed_probe(self.phase.pass())
    }

    #[inline]
    pub(crate) fn state(&self) -> &LiveEndpoint<L> {
        &self.state
    }

    /// Records the latency when the head of the response arrives and its end decides the outcome.
    #[inline]
    pub(crate) fn answered(&mut self) {
        if let GuardPhase::Waiting(since) = self.phase.phase() {
            let now = Ticks::of(self.state.common().epoch.elapsed());
            self.set(GuardPhase::Answered(now.since(since)));
        }
    }

    #[inline]
    fn set(&mut self, phase: GuardPhase) {
        self.phase = Packed::new(phase, self.phase.pass());
    }

    fn record(&mut self, outcome: Outcome) {
        let before = self.phase.phase();
        // Set first: if the user's tracker panics, the drop that follows must not call it again, because a
        // second panic would abort the process.
        self.set(GuardPhase::Done);
        let state = &*self.state;
        let rtt = match before {
            GuardPhase::Waiting(since) => {
                let now = Instant::now();
                let passed = Ticks::of(now.saturating_duration_since(state.common().epoch));
                let rtt = passed.since(since);
                state.tracker().record(outcome, rtt.time(), now);
                rtt
            }
            GuardPhase::Answered(rtt) => {
                state.tracker().record(outcome, rtt.time(), Instant::now());
                rtt
            }
            // A failed request that was not timed, or a response that broke off after its head was recorded
            // as a success.
            GuardPhase::Untimed | GuardPhase::Succeeded(_)
                if L::TIMED && !matches!(outcome, Outcome::Success | Outcome::Cancelled) =>
            {
                state.tracker().penalize(Instant::now());
                Ticks(0)
            }
            GuardPhase::Succeeded(rtt) => rtt,
            GuardPhase::Untimed | GuardPhase::Done => Ticks(0),
        };
        // An untimed request counts as fast while other requests are timed. If none is timed, latency
        // ejection is off.
        let latency = (L::TIMED || state.is_timed()).then(|| rtt.time());
        let revised = matches!(before, GuardPhase::Succeeded(_));
        state.conclude(self.phase.pass(), outcome, latency, revised);
        if outcome == Outcome::Success {
            self.set(GuardPhase::Succeeded(rtt));
        }
    }

    /// The outcome of a request that the caller dropped.
    #[cold]
    fn dropped(&self) -> Outcome {
        let waited = match self.phase.phase() {
            GuardPhase::Waiting(since) => {
                Ticks::of(self.state.common().epoch.elapsed()).since(since)
            }
            _ => Ticks(0),
        };
        if is_given_up(waited.time()) {
            Outcome::Failure
        } else {
            Outcome::Cancelled
        }
    }

    #[inline]
    fn is_open(&self) -> bool {
        !matches!(
            self.phase.phase(),
            GuardPhase::Succeeded(_) | GuardPhase::Done
        )
    }
}

impl<L: LoadTracker> Observer for RequestGuard<L> {
    #[inline]
    fn conclude(&mut self, verdict: Verdict) {
        let succeeds = verdict.outcome == Outcome::Success && self.phase.is_untimed();
        if succeeds && !self.state.is_watched() {
            return self.set(GuardPhase::Succeeded(Ticks(0)));
        }
        let succeeded = matches!(self.phase.phase(), GuardPhase::Succeeded(_));
        let worse = succeeded && matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded);
        if self.is_open() || worse {
            self.record(verdict.outcome);
        }
    }
}

impl<L: LoadTracker> Drop for RequestGuard<L> {
    #[inline]
    fn drop(&mut self) {
        if self.is_open() {
            let outcome = self.dropped();
            self.record(outcome);
        }
    }
}

impl_debug!([L: LoadTracker] RequestGuard<L>: |this|
    endpoint = this.state.key,
    phase = this.phase.phase(),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_passes_survive_packing() {
        for phase in [
            GuardPhase::Untimed,
            GuardPhase::Waiting(Ticks::of(Duration::from_nanos(64))),
            GuardPhase::Answered(Ticks(Ticks::MASK)),
            GuardPhase::Succeeded(Ticks(7)),
            GuardPhase::Waiting(Ticks(0)),
            GuardPhase::Done,
        ] {
            for pass in [0, 1, 0x1_0001, Pass::NONE] {
                let packed = Packed::new(phase, pass);
                assert_eq!((packed.phase(), packed.pass()), (phase, pass));
            }
        }
    }

    #[test]
    fn times_are_differences_across_the_end_of_the_range() {
        let began = Ticks(Ticks::MASK - 10);
        let now = Ticks(20);
        assert_eq!(now.since(began).time(), Duration::from_nanos(31 * 32));
    }
}
