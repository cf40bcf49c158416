//! The state machine: one atomic word, and what may follow what. Pure: time comes in.
//!
//! Everything that decides about admission is in one word, so that each step is one exchange of it
//! and there is no moment between two steps: permits cannot be given out twice, and an answer that
//! belongs to an earlier state finds another generation in the word and changes nothing.
//!
//! ```text
//! 63                                       24 23             3 2    0
//! ┌──────────────────────────────────────────┬────────────────┬──────┐
//! │ Open: until (ms)                         │ generation     │ kind │
//! │ HalfOpen: since (ms), successes, begun,  │                │      │
//! │           in flight                      │                │      │
//! └──────────────────────────────────────────┴────────────────┴──────┘
//! ```

use std::time::Duration;

use super::State;
use crate::{
    backoff,
    rng::small_rng,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// What the machine needs of the settings; checked by the builder.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// How long the breaker stays open the first time in a row, and at most.
    pub(super) open_time: (Duration, Duration),
    /// The share by which an open time may be shorter or longer.
    pub(super) jitter: f64,
    /// Probes at a time, and successes that close the breaker. 1 to [`MAX_PROBES`].
    pub(super) probes: u32,
    /// Milliseconds; at most [`MAX_DEADLINE`].
    pub(super) probe_deadline: u64,
    pub(super) seed: u64,
}

pub(super) const MAX_PROBES: u32 = 63;
/// With it, an age of up to 70 minutes fits the bits that hold it.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(3600);

/// On cache lines of its own: every call reads the word, and what is beside it in memory, counts of
/// calls and of owners, is written by every call.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Machine {
    rules: Rules,
    /// Acquire and release with every exchange, for the window that is emptied before a breaker
    /// closes.
    word: AtomicU64,
    /// How often it opened in a row. It and the next are hints for the open time, written by who
    /// changed the word; relaxed, as a late one only makes that time a little shorter or longer.
    streak: AtomicU32,
    closed_at: AtomicU64,
}

/// One admitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) generation: u32,
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
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) generation: u32,
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
    HalfOpen(Trial),
    ForcedOpen,
    ForcedClosed,
}

/// How far the probing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trial {
    in_flight: u32,
    /// Of those in flight, how many have the beginning of an answer.
    begun: u32,
    successes: u32,
    /// When the last probe was admitted or succeeded, in milliseconds modulo 2²².
    since: u64,
}

const CLOSED: u64 = 0;
const GENERATIONS: u32 = 1 << 21;
const AGES: u64 = 1 << 22;
/// 34 years of milliseconds.
const UNTIL_MAX: u64 = (1 << 40) - 1;

impl Phase {
    fn state(self) -> State {
        match self {
            Self::Closed => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen(_) => State::HalfOpen,
            Self::ForcedOpen => State::ForcedOpen,
            Self::ForcedClosed => State::ForcedClosed,
        }
    }
}

impl Trial {
    fn admit(self, now: u64) -> Self {
        Self {
            in_flight: self.in_flight + 1,
            since: now % AGES,
            ..self
        }
    }

    fn age(self, now: u64) -> u64 {
        (now % AGES).wrapping_sub(self.since) % AGES
    }
}

fn pack(generation: u32, phase: Phase) -> u64 {
    let (kind, data) = match phase {
        Phase::Closed => (CLOSED, 0),
        Phase::Open { until } => (1, until.min(UNTIL_MAX)),
        Phase::HalfOpen(trial) => {
            let counts = trial.in_flight | trial.begun << 6 | trial.successes << 12;
            (2, u64::from(counts) | trial.since << 18)
        }
        Phase::ForcedOpen => (3, 0),
        Phase::ForcedClosed => (4, 0),
    };
    data << 24 | u64::from(generation) << 3 | kind
}

fn unpack(word: u64) -> (u32, Phase) {
    let data = word >> 24;
    let count = |at: u32| (data >> at) as u32 & 63;
    let phase = match word & 7 {
        CLOSED => Phase::Closed,
        1 => Phase::Open { until: data },
        2 => Phase::HalfOpen(Trial {
            in_flight: count(0),
            begun: count(6),
            successes: count(12),
            since: data >> 18,
        }),
        3 => Phase::ForcedOpen,
        _ => Phase::ForcedClosed,
    };
    (generation(word), phase)
}

fn generation(word: u64) -> u32 {
    (word >> 3) as u32 & (GENERATIONS - 1)
}

/// Without unpacking it: the way of almost every call.
fn is_closed(word: u64) -> bool {
    word & 7 == CLOSED
}

fn next(generation: u32) -> u32 {
    (generation + 1) % GENERATIONS
}

/// Whether generation `a` came after `b`: they wrap, and two that meet are never far apart.
pub(super) fn is_later(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b) % GENERATIONS;
    ahead != 0 && ahead < GENERATIONS / 2
}

impl Machine {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            word: AtomicU64::new(pack(0, Phase::Closed)),
            streak: AtomicU32::new(0),
            closed_at: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> State {
        unpack(self.word.load(Acquire)).1.state()
    }

    /// Whether a call now would be refused, without admitting one.
    #[inline]
    pub(super) fn refuses(&self, now: impl FnOnce() -> u64) -> bool {
        let word = self.word.load(Acquire);
        !is_closed(word) && self.holds_off(word, now)
    }

    #[cold]
    fn holds_off(&self, word: u64, now: impl FnOnce() -> u64) -> bool {
        match unpack(word).1 {
            Phase::Closed | Phase::ForcedClosed => false,
            Phase::Open { until } => now() < until,
            Phase::HalfOpen(trial) => {
                trial.in_flight >= self.rules.probes && trial.age(now()) < self.rules.probe_deadline
            }
            Phase::ForcedOpen => true,
        }
    }

    /// Whether a call of this generation still counts.
    #[inline]
    pub(super) fn is_current(&self, pass: Pass) -> bool {
        generation(self.word.load(Acquire)) == pass.generation
    }

    /// How long it is open from `now` on, in milliseconds.
    pub(super) fn remaining(&self, now: u64) -> Option<u64> {
        match unpack(self.word.load(Acquire)).1 {
            Phase::Open { until } => Some(until.saturating_sub(now)),
            _ => None,
        }
    }

    /// Admits a call, or refuses it.
    #[inline]
    pub(super) fn admit(
        &self,
        now: impl Fn() -> u64,
        moved: &mut impl FnMut(Moved),
    ) -> Result<Pass, Refusal> {
        let word = self.word.load(Acquire);
        if is_closed(word) {
            return Ok(Pass {
                generation: generation(word),
                probe: false,
            });
        }
        self.admit_if(word, now, moved)
    }

    #[cold]
    fn admit_if(
        &self,
        mut word: u64,
        now: impl Fn() -> u64,
        moved: &mut impl FnMut(Moved),
    ) -> Result<Pass, Refusal> {
        loop {
            let (generation, phase) = unpack(word);
            let (admitted, trial) = match phase {
                Phase::Closed | Phase::ForcedClosed => {
                    return Ok(Pass {
                        generation,
                        probe: false,
                    });
                }
                Phase::ForcedOpen => return Err(Refusal::Forced),
                Phase::Open { until } => {
                    let now = now();
                    if now < until {
                        return Err(Refusal::Open(until - now));
                    }
                    (next(generation), Trial::default().admit(now))
                }
                Phase::HalfOpen(trial) => {
                    let now = now();
                    if let Some((then, why)) = self.overdue(generation, trial, now) {
                        word = self.step(word, then, why, now, moved);
                        continue;
                    }
                    if trial.in_flight >= self.rules.probes {
                        return Err(Refusal::Probing);
                    }
                    (generation, trial.admit(now))
                }
            };
            let then = pack(admitted, Phase::HalfOpen(trial));
            match self.word.compare_exchange(word, then, AcqRel, Acquire) {
                Ok(_) => {
                    if admitted != generation {
                        moved(Moved {
                            generation: admitted,
                            from: State::Open,
                            to: State::HalfOpen,
                            why: Why::TimeOver,
                            open_for: None,
                        });
                    }
                    return Ok(Pass {
                        generation: admitted,
                        probe: true,
                    });
                }
                Err(current) => word = current,
            }
        }
    }

    /// Ends a probing whose deadline is over. Only looks, unless it is.
    pub(super) fn expire(&self, now: u64, moved: &mut impl FnMut(Moved)) {
        let word = self.word.load(Acquire);
        if let (generation, Phase::HalfOpen(trial)) = unpack(word) {
            if let Some((then, why)) = self.overdue(generation, trial, now) {
                self.step(word, then, why, now, moved);
            }
        }
    }

    /// The share of bad calls is too high: opens, unless `pass` is of another time.
    pub(super) fn trip(&self, pass: Pass, now: u64, moved: &mut impl FnMut(Moved)) {
        let word = pack(pass.generation, Phase::Closed);
        if self.word.load(Acquire) != word {
            return;
        }
        // Each open time spent closed makes up for one opening.
        let healthy = now.saturating_sub(self.closed_at.load(Relaxed));
        let forgiven = healthy / (self.rules.open_time.1.as_millis() as u64).max(1);
        let streak = u64::from(self.streak.load(Relaxed)).saturating_sub(forgiven) as u32;
        self.open(word, pass.generation, streak, Why::Tripped, now, 0, moved);
    }

    /// A probe has the beginning of an answer, whose end will tell what it is worth.
    pub(super) fn begin(&self, pass: Pass) {
        self.update(pass, |trial| Trial {
            begun: trial.begun + 1,
            ..trial
        });
    }

    /// A probe is over. `begun` if [`begin`](Self::begin) was told of it.
    pub(super) fn probed(
        &self,
        pass: Pass,
        result: Probed,
        begun: bool,
        now: u64,
        moved: &mut impl FnMut(Moved),
    ) {
        let mut word = self.word.load(Acquire);
        while let (generation, Phase::HalfOpen(trial)) = unpack(word) {
            if generation != pass.generation {
                return;
            }
            let left = Trial {
                in_flight: trial.in_flight.saturating_sub(1),
                begun: trial.begun.saturating_sub(u32::from(begun)),
                ..trial
            };
            let (then, why) = match result {
                Probed::Cancelled => (pack(generation, Phase::HalfOpen(left)), None),
                Probed::Good if left.successes + 1 < self.rules.probes => {
                    let left = Trial {
                        successes: left.successes + 1,
                        since: now % AGES,
                        ..left
                    };
                    (pack(generation, Phase::HalfOpen(left)), None)
                }
                Probed::Good => (pack(next(generation), Phase::Closed), Some(Why::ProbesGood)),
                Probed::Bad => (0, Some(Why::ProbeBad)),
            };
            if let Some(why) = why {
                word = self.step(word, then, why, now, moved);
                continue;
            }
            match self.word.compare_exchange(word, then, AcqRel, Acquire) {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// A probe that was a success is none after all; while probing goes on.
    pub(super) fn relapsed(&self, pass: Pass, now: u64, moved: &mut impl FnMut(Moved)) {
        let mut word = self.word.load(Acquire);
        while let (generation, Phase::HalfOpen(_)) = unpack(word) {
            if generation != pass.generation {
                return;
            }
            word = self.step(word, 0, Why::ProbeBad, now, moved);
        }
    }

    /// Goes to a state without asking; returns what it was, and the new generation.
    pub(super) fn force(&self, to: State, now: u64) -> (State, u32) {
        let phase = match to {
            State::ForcedOpen => Phase::ForcedOpen,
            State::ForcedClosed => Phase::ForcedClosed,
            _ => Phase::Closed,
        };
        let mut word = self.word.load(Acquire);
        loop {
            let (generation, from) = unpack(word);
            let then = pack(next(generation), phase);
            match self.word.compare_exchange(word, then, AcqRel, Acquire) {
                Ok(_) => {
                    self.streak.store(0, Relaxed);
                    self.closed_at.store(now, Relaxed);
                    return (from.state(), next(generation));
                }
                Err(current) => word = current,
            }
        }
    }

    /// What becomes of a probing in which nothing happened for a deadline.
    fn overdue(&self, generation: u32, trial: Trial, now: u64) -> Option<(u64, Why)> {
        if trial.in_flight == 0 || trial.age(now) < self.rules.probe_deadline {
            return None;
        }
        if trial.begun < trial.in_flight {
            return Some((0, Why::ProbeLate));
        }
        // All of them are being answered, as streams are. So far they are good.
        let successes = trial.successes + trial.begun;
        let phase = if successes >= self.rules.probes {
            Phase::Closed
        } else {
            Phase::HalfOpen(Trial {
                successes,
                since: now % AGES,
                ..Trial::default()
            })
        };
        Some((pack(next(generation), phase), Why::ProbesGood))
    }

    /// Leaves the half-open `word`; `then` unless it opens. Returns the word after it.
    fn step(&self, word: u64, then: u64, why: Why, now: u64, moved: &mut impl FnMut(Moved)) -> u64 {
        let (generation, phase) = unpack(word);
        if why != Why::ProbesGood {
            let overdue = match phase {
                Phase::HalfOpen(trial) if why == Why::ProbeLate => {
                    trial.age(now).saturating_sub(self.rules.probe_deadline)
                }
                _ => 0,
            };
            let streak = self.streak.load(Relaxed);
            return self.open(word, generation, streak, why, now, overdue, moved);
        }
        match self.word.compare_exchange(word, then, AcqRel, Acquire) {
            Ok(_) => {
                let (generation, phase) = unpack(then);
                if phase == Phase::Closed {
                    self.closed_at.store(now, Relaxed);
                    moved(Moved {
                        generation,
                        from: State::HalfOpen,
                        to: State::Closed,
                        why,
                        open_for: None,
                    });
                }
                then
            }
            Err(current) => current,
        }
    }

    /// Opens for the time after `streak` openings in a row, which began `overdue` ago. Returns the
    /// word after it.
    #[expect(clippy::too_many_arguments, reason = "one private step, two callers")]
    fn open(
        &self,
        word: u64,
        generation: u32,
        streak: u32,
        why: Why,
        now: u64,
        overdue: u64,
        moved: &mut impl FnMut(Moved),
    ) -> u64 {
        let time = self.open_time(streak, next(generation));
        let millis = u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let until = now.saturating_add(millis).saturating_sub(overdue);
        let then = pack(next(generation), Phase::Open { until });
        match self.word.compare_exchange(word, then, AcqRel, Acquire) {
            Ok(_) => {
                self.streak.store(streak.saturating_add(1), Relaxed);
                moved(Moved {
                    generation: next(generation),
                    from: unpack(word).1.state(),
                    to: State::Open,
                    why,
                    open_for: Some(Duration::from_millis(until.saturating_sub(now))),
                });
                then
            }
            Err(current) => current,
        }
    }

    /// Changes what is known of the probing that `pass` belongs to.
    fn update(&self, pass: Pass, change: impl Fn(Trial) -> Trial) {
        let mut word = self.word.load(Acquire);
        while let (generation, Phase::HalfOpen(trial)) = unpack(word) {
            if generation != pass.generation {
                return;
            }
            let then = pack(generation, Phase::HalfOpen(change(trial)));
            match self.word.compare_exchange(word, then, AcqRel, Acquire) {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// Doubles with each opening in a row, up to the cap. Jitter of its own for each generation, so
    /// that no generator has to be shared.
    fn open_time(&self, streak: u32, generation: u32) -> Duration {
        let (base, cap) = self.rules.open_time;
        let bound = base.saturating_mul(1 << streak.min(30)).min(cap);
        let seed = self.rules.seed.wrapping_add(u64::from(generation));
        backoff::jittered(bound, self.rules.jitter, &mut small_rng(Some(seed)))
    }
}
