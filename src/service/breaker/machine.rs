//! The state machine: which state may follow which. Pure: the time comes in, and transitions go out.
//!
//! Each transition begins another *generation*. A call belongs to the generation that admitted it, so an
//! answer that comes after the state has changed is known to be late, and changes nothing.

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
pub(super) struct Rules {
    /// How long the breaker stays open the first time in a row, and at most.
    pub(super) open_time: (Duration, Duration),
    pub(super) jitter: f64,
    pub(super) probes: u32,
    pub(super) probe_deadline: Duration,
}

#[derive(Debug)]
pub(super) struct Machine {
    rules: Rules,
    rng: SmallRng,
    phase: Phase,
    generation: u64,
    /// How often it opened in a row.
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

/// How a probe ended.
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

/// How far the probing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probing {
    in_flight: u32,
    /// How many of those in flight have the beginning of an answer.
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
    pub(super) fn new(rules: Rules, rng: SmallRng, now: Instant) -> Self {
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

    /// Hands out what has changed since this was called last, in order.
    pub(super) fn take_transitions(&mut self) -> Vec<BreakerTransition> {
        mem::take(&mut self.transitions)
    }

    /// How long it is open from `now` on.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Whether a call now would be refused, without admitting one.
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

    /// Why a call that was refused was.
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

    /// Ends a probing in which nothing happened for a deadline.
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
        // Every answer under way has begun, as those of streams do: they count as successes.
        let successes = probing.successes + probing.begun;
        if successes >= self.rules.probes {
            return self.close(now);
        }
        // Another generation, so that the ends of those streams count for nothing.
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
        // Each cap of time spent closed makes up for one opening.
        let closed = now.saturating_duration_since(self.closed_at);
        let forgiven = closed.as_nanos() / self.rules.open_time.1.as_nanos().max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.streak = self.streak.saturating_sub(forgiven);
        self.open(now, cause, now);
    }

    /// A probe has the beginning of an answer, whose end decides.
    pub(super) fn begin(&mut self, call: Admission) {
        if let Some(probing) = self.probing(call) {
            probing.begun += 1;
        }
    }

    /// A probe is over. `begun` if [`begin`](Self::begin) was called for it.
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

    /// A probe that was a success failed after all, while probing goes on.
    pub(super) fn relapsed(&mut self, call: Admission, now: Instant) {
        if self.probing(call).is_some() {
            self.open(now, BreakerCause::ProbeFailed, now);
        }
    }

    /// Goes to a state by hand.
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

    /// The probing that a call belongs to, if it goes on.
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

    /// Opens, as of `from`, for a time that doubles with each opening in a row up to the cap.
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
