//! The state machine: the states and their transitions. Pure: the time is an argument, and
//! transitions are returned.
//!
//! Each transition starts a new *generation*. A call belongs to the generation that admitted it. So
//! a response that comes after a transition is known to be late, and changes nothing.

use std::{mem, time::Duration};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{
    error::Refused,
    state::{BreakerCause, BreakerState, BreakerTransition},
};
use crate::backoff::{after, doubled, jittered};

/// The settings of the machine; see [`BreakerSettings`](super::BreakerSettings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BreakerRules {
    /// How long the breaker stays open the first time in a row, and at most.
    pub(super) open_time: (Duration, Duration),
    pub(super) jitter: f64,
    pub(super) probes: u32,
    pub(super) probe_deadline: Duration,
}

#[derive(Debug)]
pub(super) struct Machine {
    rules: BreakerRules,
    rng: SmallRng,
    phase: Phase,
    generation: u64,
    /// How many times in a row it opened.
    streak: u32,
    closed_at: Instant,
    /// Transitions that were not taken yet.
    transitions: Vec<BreakerTransition>,
}

/// One admitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) generation: u64,
    pub(super) probe: bool,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Good,
    Bad,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen(Probing),
    ForcedOpen,
    ForcedClosed,
}

/// The state of the half-open phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probing {
    in_flight: u32,
    /// How many of the probes in flight have a response whose end is not reached yet.
    begun: u32,
    successes: u32,
    /// When the last probe was admitted or succeeded.
    since: Instant,
}

impl Probing {
    fn new(successes: u32, since: Instant) -> Self {
        Self {
            in_flight: 0,
            begun: 0,
            successes,
            since,
        }
    }
}

impl Machine {
    pub(super) fn new(rules: BreakerRules, rng: SmallRng, now: Instant) -> Self {
        Self {
            rules,
            rng,
            phase: Phase::Closed,
            generation: 0,
            streak: 0,
            closed_at: now,
            transitions: Vec::new(),
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen(_) => BreakerState::HalfOpen,
            Phase::ForcedOpen => BreakerState::ForcedOpen,
            Phase::ForcedClosed => BreakerState::ForcedClosed,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the transitions since the last call of this method, in order.
    pub(super) fn take_transitions(&mut self) -> Vec<BreakerTransition> {
        mem::take(&mut self.transitions)
    }

    /// The rest of the open time at `now`.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Whether a call would be refused now. Admits none.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed | Phase::ForcedClosed => false,
            Phase::Open { until } => now < until,
            Phase::HalfOpen(probing) => {
                probing.in_flight >= self.rules.probes && !self.is_overdue(probing, now)
            }
            Phase::ForcedOpen => true,
        }
    }

    /// Why a call was refused.
    pub(super) fn refusal(&self, now: Instant) -> Refused {
        match self.phase {
            Phase::ForcedOpen => Refused::Forced,
            Phase::HalfOpen(_) => Refused::Probing,
            _ => Refused::Open {
                remaining: self.remaining(now).unwrap_or_default(),
            },
        }
    }

    /// Admits a call, or refuses it.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Admission, Refused> {
        self.expire(now);
        if self.refuses(now) {
            return Err(self.refusal(now));
        }
        if let Phase::Open { .. } = self.phase {
            let probing = Phase::HalfOpen(Probing::new(0, now));
            self.go(probing, BreakerCause::OpenTimeOver, now);
        }
        let probe = match &mut self.phase {
            Phase::HalfOpen(probing) => {
                probing.in_flight += 1;
                probing.since = now;
                true
            }
            _ => false,
        };
        Ok(Admission {
            generation: self.generation,
            probe,
        })
    }

    /// Ends a half-open phase in which nothing happened for one probe deadline.
    pub(super) fn expire(&mut self, now: Instant) {
        let Phase::HalfOpen(probing) = self.phase else {
            return;
        };
        if !self.is_overdue(probing, now) {
            return;
        }
        if probing.begun < probing.in_flight {
            let deadline = after(probing.since, self.rules.probe_deadline);
            return self.open(deadline, BreakerCause::ProbeTimedOut, now);
        }
        // Every response in flight has begun, as those of streams do: these probes count as
        // successes.
        let successes = probing.successes + probing.begun;
        if successes >= self.rules.probes {
            return self.close(now);
        }
        // A new generation, so that the ends of those streams are not counted.
        self.generation += 1;
        self.phase = Phase::HalfOpen(Probing::new(successes, now));
    }

    fn is_overdue(&self, probing: Probing, now: Instant) -> bool {
        let waited = now.saturating_duration_since(probing.since);
        probing.in_flight > 0 && waited >= self.rules.probe_deadline
    }

    /// The share of bad calls is too high: opens, unless the call is of another generation.
    pub(super) fn trip(&mut self, call: Admission, cause: BreakerCause, now: Instant) {
        if self.phase != Phase::Closed || self.generation != call.generation {
            return;
        }
        // Each `cap` of time spent closed cancels one opening.
        let closed = now.saturating_duration_since(self.closed_at);
        let forgiven = closed.as_nanos() / self.rules.open_time.1.as_nanos().max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.streak = self.streak.saturating_sub(forgiven);
        self.open(now, cause, now);
    }

    /// A probe got the head of its response; the end decides.
    pub(super) fn begin(&mut self, call: Admission) {
        if let Some(probing) = self.probing(call) {
            probing.begun += 1;
        }
    }

    /// A probe ended. `begun` states whether [`begin`](Self::begin) was called for it.
    pub(super) fn probed(&mut self, call: Admission, result: Probed, begun: bool, now: Instant) {
        let needed = self.rules.probes;
        let Some(probing) = self.probing(call) else {
            return;
        };
        probing.in_flight = probing.in_flight.saturating_sub(1);
        probing.begun = probing.begun.saturating_sub(u32::from(begun));
        match result {
            Probed::Cancelled => {}
            Probed::Bad => self.open(now, BreakerCause::ProbeFailed, now),
            Probed::Good => {
                probing.successes += 1;
                probing.since = now;
                if probing.successes >= needed {
                    self.close(now);
                }
            }
        }
    }

    /// A probe that counted as a success failed later, in the same half-open phase.
    pub(super) fn relapsed(&mut self, call: Admission, now: Instant) {
        if self.probing(call).is_some() {
            self.open(now, BreakerCause::ProbeFailed, now);
        }
    }

    /// Sets a state by hand.
    pub(super) fn force(&mut self, to: BreakerState, now: Instant) {
        self.streak = 0;
        self.closed_at = now;
        let (phase, cause) = match to {
            BreakerState::ForcedOpen => (Phase::ForcedOpen, BreakerCause::Forced),
            BreakerState::ForcedClosed => (Phase::ForcedClosed, BreakerCause::Forced),
            _ => (Phase::Closed, BreakerCause::Reset),
        };
        self.go(phase, cause, now);
    }

    /// The half-open phase of a call, if it has not ended.
    fn probing(&mut self, call: Admission) -> Option<&mut Probing> {
        match &mut self.phase {
            Phase::HalfOpen(probing) if self.generation == call.generation => Some(probing),
            _ => None,
        }
    }

    fn close(&mut self, now: Instant) {
        self.closed_at = now;
        self.go(Phase::Closed, BreakerCause::ProbesSucceeded, now);
    }

    /// Opens, starting at `from`, for a time that doubles with each opening in a row up to the cap.
    fn open(&mut self, from: Instant, cause: BreakerCause, now: Instant) {
        let (base, cap) = self.rules.open_time;
        let bound = doubled(base, cap, self.streak);
        let time = jittered(bound, self.rules.jitter, &mut self.rng);
        self.streak = self.streak.saturating_add(1);
        let until = after(from, time);
        self.go(Phase::Open { until }, cause, now);
    }

    fn go(&mut self, phase: Phase, cause: BreakerCause, at: Instant) {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        self.transitions.push(BreakerTransition {
            from,
            to: self.state(),
            cause,
            at,
            open_for: self.remaining(at),
            generation: self.generation,
        });
    }
}
