//! The state machine: what may follow what. Pure: time comes in, and changes of state go out.
//!
//! Each change begins another *generation*. A call belongs to the generation that admitted it, so an
//! answer that comes after the state has changed is known to be late, and changes nothing.

use std::time::Duration;

use super::state::State;
use crate::{backoff, rng::small_rng};

/// What the machine needs of the settings; checked by the builder. Times are milliseconds, where they are
/// numbers.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// How long the breaker stays open the first time in a row, and at most.
    pub(super) open_time: (Duration, Duration),
    /// The share by which an open time may be shorter or longer.
    pub(super) jitter: f64,
    /// Probes at a time, and successes that close the breaker.
    pub(super) probes: u32,
    pub(super) probe_deadline: u64,
    pub(super) seed: u64,
}

/// The times that come in are milliseconds since the breaker was made.
#[derive(Debug)]
pub(super) struct Machine {
    rules: Rules,
    phase: Phase,
    generation: u64,
    /// How often it opened in a row.
    streak: u32,
    closed_at: u64,
}

/// One admitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) generation: u64,
    pub(super) probe: bool,
}

/// Why a call is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// For this many milliseconds more.
    Open(u64),
    /// Every permit for a probe is taken.
    Probing,
    Forced,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Good,
    Bad,
    Cancelled,
}

/// Why the state changed, as far as the machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Tripped,
    TimeOver,
    ProbeBad,
    ProbeLate,
    ProbesGood,
    Forced,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) generation: u64,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) why: Why,
    /// How long it stays open, from now.
    pub(super) open_for: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen(Probing),
    ForcedOpen,
    ForcedClosed,
}

/// How far the probing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Probing {
    in_flight: u32,
    /// Of those in flight, how many have the beginning of an answer.
    begun: u32,
    successes: u32,
    /// When the last probe was admitted or succeeded.
    since: u64,
}

impl Machine {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            phase: Phase::Closed,
            generation: 0,
            streak: 0,
            closed_at: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
            Phase::ForcedOpen => State::ForcedOpen,
            Phase::ForcedClosed => State::ForcedClosed,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// How long it is open from `now` on.
    pub(super) fn remaining(&self, now: u64) -> Option<u64> {
        match self.phase {
            Phase::Open { until } => Some(until.saturating_sub(now)),
            _ => None,
        }
    }

    /// Whether a call now would be refused, without admitting one.
    pub(super) fn refuses(&self, now: u64) -> bool {
        match self.phase {
            Phase::Closed | Phase::ForcedClosed => false,
            Phase::Open { until } => now < until,
            Phase::HalfOpen(probing) => {
                probing.in_flight >= self.rules.probes && !self.is_overdue(probing, now)
            }
            Phase::ForcedOpen => true,
        }
    }

    /// Admits a call, or refuses it.
    pub(super) fn admit(&mut self, now: u64, moves: &mut Vec<Moved>) -> Result<Pass, Refusal> {
        self.expire(now, moves);
        match self.phase {
            Phase::ForcedOpen => return Err(Refusal::Forced),
            Phase::Open { until } if now < until => return Err(Refusal::Open(until - now)),
            Phase::Open { .. } => {
                let probing = Probing::default();
                self.go(Phase::HalfOpen(probing), Why::TimeOver, moves);
            }
            _ => {}
        }
        let probe = match &mut self.phase {
            Phase::HalfOpen(probing) => {
                if probing.in_flight >= self.rules.probes {
                    return Err(Refusal::Probing);
                }
                probing.in_flight += 1;
                probing.since = now;
                true
            }
            _ => false,
        };
        Ok(Pass {
            generation: self.generation,
            probe,
        })
    }

    /// Ends a probing in which nothing happened for a deadline.
    pub(super) fn expire(&mut self, now: u64, moves: &mut Vec<Moved>) {
        let Phase::HalfOpen(probing) = self.phase else {
            return;
        };
        if !self.is_overdue(probing, now) {
            return;
        }
        if probing.begun < probing.in_flight {
            let deadline = probing.since.saturating_add(self.rules.probe_deadline);
            return self.open(deadline, now, Why::ProbeLate, moves);
        }
        // All of them are being answered, as streams are. So far they are good.
        let successes = probing.successes + probing.begun;
        if successes >= self.rules.probes {
            return self.close(now, moves);
        }
        // Another generation, as the ends of those streams are of no interest any more.
        self.generation += 1;
        self.phase = Phase::HalfOpen(Probing {
            successes,
            since: now,
            ..Probing::default()
        });
    }

    fn is_overdue(&self, probing: Probing, now: u64) -> bool {
        probing.in_flight > 0 && now.saturating_sub(probing.since) >= self.rules.probe_deadline
    }

    /// The share of bad calls is too high: opens, unless `pass` is of another generation.
    pub(super) fn trip(&mut self, pass: Pass, now: u64, moves: &mut Vec<Moved>) {
        if self.phase != Phase::Closed || self.generation != pass.generation {
            return;
        }
        // Each open time spent closed makes up for one opening.
        let healthy = now.saturating_sub(self.closed_at);
        let forgiven = healthy / (self.rules.open_time.1.as_millis() as u64).max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.streak = self.streak.saturating_sub(forgiven);
        self.open(now, now, Why::Tripped, moves);
    }

    /// A probe has the beginning of an answer, whose end will tell what it is worth.
    pub(super) fn begin(&mut self, pass: Pass) {
        if let Some(probing) = self.probing(pass) {
            probing.begun += 1;
        }
    }

    /// A probe is over. `begun` if [`begin`](Self::begin) was called for it.
    pub(super) fn probed(
        &mut self,
        pass: Pass,
        result: Probed,
        begun: bool,
        now: u64,
        moves: &mut Vec<Moved>,
    ) {
        let needed = self.rules.probes;
        let Some(probing) = self.probing(pass) else {
            return;
        };
        probing.in_flight = probing.in_flight.saturating_sub(1);
        probing.begun = probing.begun.saturating_sub(u32::from(begun));
        match result {
            Probed::Cancelled => {}
            Probed::Bad => self.open(now, now, Why::ProbeBad, moves),
            Probed::Good => {
                probing.successes += 1;
                probing.since = now;
                if probing.successes >= needed {
                    self.close(now, moves);
                }
            }
        }
    }

    /// A probe that was a success is none after all, while probing goes on.
    pub(super) fn relapsed(&mut self, pass: Pass, now: u64, moves: &mut Vec<Moved>) {
        if self.probing(pass).is_some() {
            self.open(now, now, Why::ProbeBad, moves);
        }
    }

    /// Goes to a state without asking.
    pub(super) fn force(&mut self, to: State, now: u64, moves: &mut Vec<Moved>) {
        self.streak = 0;
        self.closed_at = now;
        let phase = match to {
            State::ForcedOpen => Phase::ForcedOpen,
            State::ForcedClosed => Phase::ForcedClosed,
            _ => Phase::Closed,
        };
        self.go(phase, Why::Forced, moves);
    }

    /// The probing that a call belongs to, if it goes on.
    fn probing(&mut self, pass: Pass) -> Option<&mut Probing> {
        match &mut self.phase {
            Phase::HalfOpen(probing) if self.generation == pass.generation => Some(probing),
            _ => None,
        }
    }

    fn close(&mut self, now: u64, moves: &mut Vec<Moved>) {
        self.closed_at = now;
        self.go(Phase::Closed, Why::ProbesGood, moves);
    }

    /// Opens, as of `from`, for a time that doubles with each opening in a row up to the cap.
    fn open(&mut self, from: u64, now: u64, why: Why, moves: &mut Vec<Moved>) {
        let (base, cap) = self.rules.open_time;
        let bound = base.saturating_mul(1 << self.streak.min(30)).min(cap);
        // Jitter of its own for each opening, so that no generator has to be kept.
        let seed = self.rules.seed.wrapping_add(self.generation + 1);
        let time = backoff::jittered(bound, self.rules.jitter, &mut small_rng(Some(seed)));
        let millis = u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let until = from.saturating_add(millis);
        self.streak = self.streak.saturating_add(1);
        self.go(Phase::Open { until }, why, moves);
        if let Some(moved) = moves.last_mut() {
            moved.open_for = Some(Duration::from_millis(until.saturating_sub(now)));
        }
    }

    fn go(&mut self, phase: Phase, why: Why, moves: &mut Vec<Moved>) {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        moves.push(Moved {
            generation: self.generation,
            from,
            to: self.state(),
            why,
            open_for: None,
        });
    }
}
