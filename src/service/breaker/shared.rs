//! What all clones of a breaker share: the machine, the window, and whom to tell.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    error::{BreakerError, Refused},
    machine::{Machine, Moved, Pass, Probed, Refusal, Rules, Why},
    state::{Cause, State, Transition},
};
use crate::window::{CountWindow, Counts, TimeWindow};

/// On cache lines of its own: every call reads the word, and what is beside it in memory, counts of
/// calls and of owners, is written by every call.
#[repr(align(128))]
struct Word(AtomicU64);

impl Word {
    fn of(machine: &Machine) -> u64 {
        let closed = matches!(machine.state(), State::Closed | State::ForcedClosed);
        machine.generation() << 1 | u64::from(closed)
    }
}

pub(super) struct Shared {
    /// The generation of the machine, and whether it lets all calls through: what nearly every call needs
    /// of it, without its lock. Written with the lock held. Release and acquire: a call that finds the
    /// breaker closed again also finds the window that was emptied before.
    word: Word,
    machine: Mutex<Machine>,
    window: Window,
    limits: Limits,
    base: Instant,
    name: Arc<str>,
    latest: watch::Sender<Transition>,
    /// Relaxed: a statistic.
    refused: AtomicU64,
}

#[derive(Debug)]
pub(super) enum Window {
    Time(TimeWindow),
    Calls(CountWindow),
}

/// When the counts are too bad.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) min_calls: u64,
    pub(super) failure_ratio: f64,
    /// From how many microseconds on a call is slow; `u64::MAX` for none.
    pub(super) slow_from: u64,
    pub(super) slow_ratio: f64,
    /// In microseconds.
    pub(super) probe_deadline: u64,
}

impl Limits {
    fn judge(&self, counts: Counts) -> Option<Cause> {
        let reaches = |part: u64, ratio: f64| part as f64 >= ratio * counts.total as f64;
        if counts.total < self.min_calls {
            None
        } else if reaches(counts.failed, self.failure_ratio) {
            Some(Cause::Failures(counts.into()))
        } else if counts.slow > 0 && reaches(counts.slow, self.slow_ratio) {
            Some(Cause::SlowCalls(counts.into()))
        } else {
            None
        }
    }
}

impl Shared {
    pub(super) fn new(
        name: Arc<str>,
        rules: Rules,
        limits: Limits,
        window: Window,
        base: Instant,
    ) -> Self {
        let created = Transition {
            from: State::Closed,
            to: State::Closed,
            cause: Cause::Created,
            at: base,
            open_for: None,
            generation: 0,
        };
        let machine = Machine::new(rules);
        Self {
            word: Word(AtomicU64::new(Word::of(&machine))),
            machine: Mutex::new(machine),
            window,
            limits,
            base,
            name,
            latest: watch::Sender::new(created),
            refused: AtomicU64::new(0),
        }
    }

    /// Looks at the machine, or changes it, and tells of what changed.
    #[cold]
    fn with<T>(&self, act: impl FnOnce(&mut Machine, u64, &mut Vec<Moved>) -> T) -> T {
        self.with_cause(None, act)
    }

    /// The same, with what was counted if that is why it opens.
    fn with_cause<T>(
        &self,
        counted: Option<Cause>,
        act: impl FnOnce(&mut Machine, u64, &mut Vec<Moved>) -> T,
    ) -> T {
        let mut moves = Vec::new();
        let now = Instant::now();
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut machine, self.millis(now), &mut moves);
        // Before any probe can close it, so that the time closed begins with an empty window; and
        // not when it opens, where those that were counting in that moment would count for the next
        // time closed.
        if moves
            .iter()
            .any(|moved| moved.to == State::HalfOpen || moved.why == Why::Forced)
        {
            self.clear(now);
        }
        self.word.0.store(Word::of(&machine), Release);
        // Whoever is told may look at the breaker.
        drop(machine);
        moves
            .iter()
            .for_each(|moved| self.tell(moved, counted, now));
        done
    }

    /// Whether a call now would be refused.
    #[inline]
    pub(super) fn refuses(&self) -> bool {
        self.word.0.load(Acquire) & 1 == 0 && self.with(|machine, now, _| machine.refuses(now))
    }

    #[inline]
    pub(super) fn admit(&self) -> Result<Pass, BreakerError> {
        let word = self.word.0.load(Acquire);
        if word & 1 == 1 {
            return Ok(Pass {
                generation: word >> 1,
                probe: false,
            });
        }
        self.with(|machine, now, moves| machine.admit(now, moves))
            .map_err(|refusal| {
                self.refuse(match refusal {
                    Refusal::Open(millis) => Refused::Open {
                        remaining: Duration::from_millis(millis),
                    },
                    Refusal::Probing => Refused::Probing,
                    Refusal::Forced => Refused::Forced,
                })
            })
    }

    /// Refuses a call for which the inner service was not asked whether it is ready.
    pub(super) fn refuse_early(&self) -> BreakerError {
        let refused = self.with(|machine, now, _| match machine.state() {
            State::ForcedOpen => Refused::Forced,
            State::HalfOpen => Refused::Probing,
            _ => Refused::Open {
                remaining: Duration::from_millis(machine.remaining(now).unwrap_or_default()),
            },
        });
        self.refuse(refused)
    }

    fn refuse(&self, refused: Refused) -> BreakerError {
        self.refused.fetch_add(1, Relaxed);
        BreakerError::new(Arc::clone(&self.name), refused)
    }

    /// Whether it matters how long calls take.
    #[inline]
    pub(super) fn times_calls(&self) -> bool {
        self.limits.slow_from != u64::MAX
    }

    #[inline]
    pub(super) fn is_slow(&self, micros: u64) -> bool {
        micros >= self.limits.slow_from
    }

    pub(super) fn is_late(&self, micros: u64) -> bool {
        micros >= self.limits.probe_deadline
    }

    /// Whether a call of this generation still counts.
    #[inline]
    fn is_current(&self, pass: Pass) -> bool {
        self.word.0.load(Acquire) >> 1 == pass.generation
    }

    /// Counts a call made while closed, if it still is the same time closed; returns its number in
    /// a window of calls.
    #[inline]
    pub(super) fn record(&self, pass: Pass, now: Option<Instant>, failed: bool, slow: bool) -> u64 {
        if !self.is_current(pass) {
            return 0;
        }
        if !failed && !slow {
            return self.record_good(now);
        }
        let (number, counts) = match &self.window {
            Window::Time(window) => {
                let now = now.unwrap_or_else(Instant::now);
                window.record(now, failed, slow);
                (0, window.counts(now))
            }
            Window::Calls(window) => window.record(failed, slow),
        };
        self.judge(pass, counts);
        number
    }

    /// Good calls open nothing, so they need not look.
    #[inline]
    fn record_good(&self, now: Option<Instant>) -> u64 {
        match &self.window {
            Window::Calls(window) => return window.record(false, false).0,
            // Three calls more or less are too many where a few decide.
            Window::Time(window) if now.is_none() && self.limits.min_calls >= 16 => {
                window.record_good(Instant::now);
            }
            Window::Time(window) => {
                window.record(now.unwrap_or_else(Instant::now), false, false);
            }
        }
        0
    }

    /// Counts a good call as bad after all.
    pub(super) fn amend(&self, pass: Pass, number: u64) {
        if !self.is_current(pass) {
            return;
        }
        let now = Instant::now();
        let counts = match &self.window {
            Window::Time(window) => {
                window.amend(now);
                window.counts(now)
            }
            Window::Calls(window) => window.amend(number),
        };
        self.judge(pass, counts);
    }

    fn judge(&self, pass: Pass, counts: Counts) {
        if let cause @ Some(_) = self.limits.judge(counts) {
            self.with_cause(cause, |machine, now, moves| machine.trip(pass, now, moves));
        }
    }

    pub(super) fn begin(&self, pass: Pass) {
        self.with(|machine, _, _| machine.begin(pass));
    }

    pub(super) fn probed(&self, pass: Pass, result: Probed, begun: bool) {
        self.with(|machine, now, moves| machine.probed(pass, result, begun, now, moves));
    }

    pub(super) fn relapsed(&self, pass: Pass) {
        self.with(|machine, now, moves| machine.relapsed(pass, now, moves));
    }

    pub(super) fn state(&self) -> State {
        self.with(|machine, now, moves| {
            machine.expire(now, moves);
            machine.state()
        })
    }

    pub(super) fn remaining(&self) -> Option<Duration> {
        self.with(|machine, now, _| machine.remaining(now).map(Duration::from_millis))
    }

    pub(super) fn counts(&self) -> Counts {
        match &self.window {
            Window::Time(window) => window.counts(Instant::now()),
            Window::Calls(window) => window.counts(),
        }
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Transition> {
        self.latest.subscribe()
    }

    pub(super) fn force(&self, to: State) {
        self.with(|machine, now, moves| machine.force(to, now, moves));
    }

    /// Two threads may come here in the wrong order: the later change stays.
    fn tell(&self, moved: &Moved, counted: Option<Cause>, at: Instant) {
        let Moved {
            generation,
            from,
            to,
            why,
            open_for,
        } = *moved;
        let cause = match why {
            Why::TimeOver => Cause::OpenTimeOver,
            Why::ProbeBad => Cause::ProbeFailed,
            Why::ProbeLate => Cause::ProbeTimedOut,
            Why::ProbesGood => Cause::ProbesSucceeded,
            Why::Forced if to == State::Closed => Cause::Reset,
            Why::Forced | Why::Tripped => counted.unwrap_or(Cause::Forced),
        };
        let name = &*self.name;
        if to == State::Open {
            tracing::warn!(name, %from, %to, ?cause, ?open_for, "circuit breaker opened");
        } else {
            tracing::info!(name, %from, %to, ?cause, "circuit breaker changed");
        }
        self.latest.send_if_modified(|latest| {
            let is_later = generation > latest.generation;
            if is_later {
                *latest = Transition {
                    from,
                    to,
                    cause,
                    at,
                    open_for,
                    generation,
                };
            }
            is_later
        });
    }

    fn clear(&self, now: Instant) {
        match &self.window {
            Window::Time(window) => window.reset(now),
            Window::Calls(window) => window.reset(),
        }
    }

    /// Since the breaker was made.
    pub(super) fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.base))
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_millis() as u64
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000)
        .saturating_add(duration.subsec_micros().into())
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("machine", &self.machine)
            .field("window", &self.window)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
