//! What all clones of a breaker share: the machine, the window, and whom to tell.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Call, Cause, State, Transition,
    error::{BreakerError, Refused},
    machine::{self, Machine, Moved, Pass, Probed, Refusal, Rules, Why},
};
use crate::window::{CountWindow, Counts, TimeWindow};

pub(super) struct Shared {
    machine: Machine,
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
        Self {
            machine: Machine::new(rules),
            window,
            limits,
            base,
            name,
            latest: watch::Sender::new(created),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether a call now would be refused.
    #[inline]
    pub(super) fn refuses(&self) -> bool {
        self.machine.refuses(|| self.millis(Instant::now()))
    }

    #[inline]
    pub(super) fn admit(self: &Arc<Self>) -> Result<Call, BreakerError> {
        let admitted = self
            .machine
            .admit(|| self.millis(Instant::now()), &mut |moved| {
                self.publish(moved, None)
            });
        match admitted {
            Ok(pass) => Ok(Call::new(Arc::clone(self), pass)),
            Err(Refusal::Open(millis)) => Err(self.refuse(Refused::Open {
                remaining: Duration::from_millis(millis),
            })),
            Err(Refusal::Probing) => Err(self.refuse(Refused::Probing)),
            Err(Refusal::Forced) => Err(self.refuse(Refused::Forced)),
        }
    }

    /// Refuses a call for which the inner service was not asked whether it is ready.
    pub(super) fn refuse_early(&self) -> BreakerError {
        self.refuse(match self.machine.state() {
            State::ForcedOpen => Refused::Forced,
            State::HalfOpen => Refused::Probing,
            _ => Refused::Open {
                remaining: self.remaining().unwrap_or_default(),
            },
        })
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

    /// Counts a call made while closed, if it still is the same time closed; returns its number in
    /// a window of calls.
    #[inline]
    pub(super) fn record(&self, pass: Pass, now: Option<Instant>, failed: bool, slow: bool) -> u64 {
        if !self.machine.is_current(pass) {
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
            Window::Calls(window) => window.put(failed, slow),
        };
        self.judge(pass, now, counts);
        number
    }

    /// Good calls open nothing, so they need not look.
    #[inline]
    fn record_good(&self, now: Option<Instant>) -> u64 {
        match &self.window {
            Window::Calls(window) => return window.put_good(),
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
        if !self.machine.is_current(pass) {
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
        self.judge(pass, Some(now), counts);
    }

    fn judge(&self, pass: Pass, now: Option<Instant>, counts: Counts) {
        if let Some(cause) = self.limits.judge(counts) {
            let now = self.millis(now.unwrap_or_else(Instant::now));
            self.machine
                .trip(pass, now, &mut |moved| self.publish(moved, Some(cause)));
        }
    }

    pub(super) fn begin(&self, pass: Pass) {
        self.machine.begin(pass);
    }

    pub(super) fn probed(&self, pass: Pass, result: Probed, begun: bool) {
        let now = self.millis(Instant::now());
        self.machine.probed(pass, result, begun, now, &mut |moved| {
            self.publish(moved, None)
        });
    }

    pub(super) fn relapsed(&self, pass: Pass) {
        let now = self.millis(Instant::now());
        self.machine
            .relapsed(pass, now, &mut |moved| self.publish(moved, None));
    }

    pub(super) fn state(&self) -> State {
        self.machine
            .expire(self.millis(Instant::now()), &mut |moved| {
                self.publish(moved, None)
            });
        self.machine.state()
    }

    pub(super) fn remaining(&self) -> Option<Duration> {
        let now = self.millis(Instant::now());
        self.machine.remaining(now).map(Duration::from_millis)
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
        let now = Instant::now();
        let (from, generation) = self.machine.force(to, self.millis(now));
        self.clear(now);
        self.tell(Transition {
            from,
            to,
            cause: if to == State::Closed {
                Cause::Reset
            } else {
                Cause::Forced
            },
            at: now,
            open_for: None,
            generation,
        });
    }

    fn publish(&self, moved: Moved, counted: Option<Cause>) {
        let now = Instant::now();
        // Before any probe can close it, so that the time closed begins with an empty window; and
        // not when it opens, where those that were counting in that moment would count for the next
        // time closed.
        if moved.to == State::HalfOpen {
            self.clear(now);
        }
        let cause = match moved.why {
            Why::TimeOver => Cause::OpenTimeOver,
            Why::ProbeBad => Cause::ProbeFailed,
            Why::ProbeLate => Cause::ProbeTimedOut,
            Why::ProbesGood => Cause::ProbesSucceeded,
            Why::Tripped => counted.unwrap_or(Cause::Forced),
        };
        self.tell(Transition {
            from: moved.from,
            to: moved.to,
            cause,
            at: now,
            open_for: moved.open_for,
            generation: moved.generation,
        });
    }

    /// Two threads may come here in the wrong order: the later change stays.
    fn tell(&self, transition: Transition) {
        let Transition {
            from, to, cause, ..
        } = &transition;
        let (name, open_for) = (&*self.name, transition.open_for);
        if *to == State::Open {
            tracing::warn!(name, %from, %to, ?cause, ?open_for, "circuit breaker opened");
        } else {
            tracing::info!(name, %from, %to, ?cause, "circuit breaker changed");
        }
        self.latest.send_if_modified(|latest| {
            let later = machine::is_later(transition.generation, latest.generation);
            if later {
                *latest = transition;
            }
            later
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
            .field("state", &self.machine.state())
            .field("window", &self.window)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
