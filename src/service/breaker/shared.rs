//! What all clones of a breaker share: the machine, the window, and the last transition.

use std::{
    sync::{
        Arc, Mutex,
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
    machine::{Admission, Machine, Probed},
    state::{BreakerCause, BreakerState, BreakerTransition},
};
use crate::{
    sync::lock,
    window::{CallCounts, CountWindow, TimeWindow},
};

/// Aligned to cache lines of its own: every call reads the word, and every call writes the counts
/// of calls and references beside it in memory.
#[repr(align(128))]
struct BreakerWord(AtomicU64);

impl BreakerWord {
    fn of(machine: &Machine) -> u64 {
        let state = machine.state();
        let closed = matches!(state, BreakerState::Closed | BreakerState::ForcedClosed);
        machine.generation() << 1 | u64::from(closed)
    }
}

pub(super) struct BreakerShared {
    /// The generation of the machine, and whether all calls are admitted: all that most calls need
    /// to read, without the lock of the machine. Written while the lock is held. Release and
    /// acquire: a call that finds the breaker closed again also finds the window that was emptied
    /// before.
    word: BreakerWord,
    machine: Mutex<Machine>,
    window: Counted,
    limits: Thresholds,
    name: Arc<str>,
    latest: watch::Sender<BreakerTransition>,
    /// Relaxed: a statistic.
    refused: AtomicU64,
}

#[derive(Debug)]
pub(super) enum Counted {
    Time(TimeWindow),
    Calls(CountWindow),
}

/// The limits at which the counts open the breaker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub(super) min_calls: u64,
    pub(super) failure_ratio: f64,
    /// From which duration on a call is slow, and which share of slow calls is too high.
    pub(super) slow: Option<(Duration, f64)>,
    pub(super) probe_deadline: Duration,
}

impl Thresholds {
    fn judge(&self, counts: CallCounts) -> Option<BreakerCause> {
        let reaches = |part: u64, ratio: f64| part as f64 >= ratio * counts.total as f64;
        if counts.total < self.min_calls {
            return None;
        }
        if reaches(counts.failed, self.failure_ratio) {
            return Some(BreakerCause::Failures(counts));
        }
        let (_, ratio) = self.slow?;
        (counts.slow > 0 && reaches(counts.slow, ratio)).then_some(BreakerCause::SlowCalls(counts))
    }
}

impl BreakerShared {
    pub(super) fn new(
        name: Arc<str>,
        machine: Machine,
        limits: Thresholds,
        window: Counted,
        now: Instant,
    ) -> Self {
        let created = BreakerTransition {
            from: BreakerState::Closed,
            to: BreakerState::Closed,
            cause: BreakerCause::Created,
            at: now,
            open_for: None,
            generation: 0,
        };
        Self {
            word: BreakerWord(AtomicU64::new(BreakerWord::of(&machine))),
            machine: Mutex::new(machine),
            window,
            limits,
            name,
            latest: watch::Sender::new(created),
            refused: AtomicU64::new(0),
        }
    }

    /// Reads or changes the machine, and publishes its transitions.
    #[cold]
    fn with<T>(&self, act: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let now = Instant::now();
        let mut machine = lock(&self.machine);
        let done = act(&mut machine, now);
        let transitions = machine.take_transitions();
        // The window is emptied before a probe can close the breaker, and after each change by
        // hand. It is not emptied when the breaker opens: a call that is being counted at that
        // moment would count for the next closed period.
        let is_fresh = |it: &BreakerTransition| {
            let by_hand = matches!(it.cause, BreakerCause::Forced | BreakerCause::Reset);
            by_hand || it.to == BreakerState::HalfOpen
        };
        if transitions.iter().any(is_fresh) {
            match &self.window {
                Counted::Time(window) => window.reset(now),
                Counted::Calls(window) => window.reset(),
            }
        }
        self.word.0.store(BreakerWord::of(&machine), Release);
        // A `tracing` subscriber may read the breaker, so it is called without the lock.
        drop(machine);
        transitions.into_iter().for_each(|it| self.publish(it));
        done
    }

    /// Whether a call now would be refused.
    #[inline]
    pub(super) fn refuses(&self) -> bool {
        self.word.0.load(Acquire) & 1 == 0 && self.with(|machine, now| machine.refuses(now))
    }

    #[inline]
    pub(super) fn admit(&self) -> Result<Admission, BreakerError> {
        let word = self.word.0.load(Acquire);
        if word & 1 == 1 {
            return Ok(Admission {
                generation: word >> 1,
                probe: false,
            });
        }
        let admitted = self.with(Machine::admit);
        admitted.map_err(|refused| self.refuse(refused))
    }

    /// Refuses a call after a `poll_ready` that did not poll the inner service.
    pub(super) fn refuse_early(&self) -> BreakerError {
        let refused = self.with(|machine, now| machine.refusal(now));
        self.refuse(refused)
    }

    fn refuse(&self, refused: Refused) -> BreakerError {
        self.refused.fetch_add(1, Relaxed);
        BreakerError::new(Arc::clone(&self.name), refused)
    }

    /// Whether the latency of calls is needed.
    #[inline]
    pub(super) fn times_calls(&self) -> bool {
        self.limits.slow.is_some()
    }

    #[inline]
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.limits.slow.is_some_and(|(slow, _)| took >= slow)
    }

    pub(super) fn is_late(&self, took: Duration) -> bool {
        took >= self.limits.probe_deadline
    }

    /// Whether a call of this generation is still counted.
    #[inline]
    fn is_current(&self, call: Admission) -> bool {
        self.word.0.load(Acquire) >> 1 == call.generation
    }

    /// Counts a call of the closed state, if the breaker is in the same closed period. Returns the
    /// number of the call in a window of calls.
    #[inline]
    pub(super) fn record(
        &self,
        call: Admission,
        now: Option<Instant>,
        failed: bool,
        slow: bool,
    ) -> u64 {
        if !self.is_current(call) {
            return 0;
        }
        if !failed && !slow {
            return self.record_good(now);
        }
        let (number, counts) = match &self.window {
            Counted::Time(window) => {
                let now = now.unwrap_or_else(Instant::now);
                window.record(now, failed, slow);
                (0, window.counts(now))
            }
            Counted::Calls(window) => window.record(failed, slow),
        };
        self.judge(call, counts);
        number
    }

    /// A good call never opens the breaker, so the counts are not checked.
    #[inline]
    fn record_good(&self, now: Option<Instant>) -> u64 {
        match &self.window {
            Counted::Calls(window) => return window.record(false, false).0,
            // With a small minimum, an error of up to three calls would be too large.
            Counted::Time(window) if now.is_none() && self.limits.min_calls >= 16 => {
                window.record_good(Instant::now);
            }
            Counted::Time(window) => {
                window.record(now.unwrap_or_else(Instant::now), false, false);
            }
        }
        0
    }

    /// Recounts a good call as bad.
    pub(super) fn amend(&self, call: Admission, number: u64) {
        if !self.is_current(call) {
            return;
        }
        let counts = match &self.window {
            Counted::Time(window) => {
                let now = Instant::now();
                window.amend(now);
                window.counts(now)
            }
            Counted::Calls(window) => window.amend(number),
        };
        self.judge(call, counts);
    }

    fn judge(&self, call: Admission, counts: CallCounts) {
        if let Some(cause) = self.limits.judge(counts) {
            self.with(|machine, now| machine.trip(call, cause, now));
        }
    }

    pub(super) fn begin(&self, call: Admission) {
        self.with(|machine, _| machine.begin(call));
    }

    pub(super) fn probed(&self, call: Admission, result: Probed, begun: bool) {
        self.with(|machine, now| machine.probed(call, result, begun, now));
    }

    pub(super) fn relapsed(&self, call: Admission) {
        self.with(|machine, now| machine.relapsed(call, now));
    }

    pub(super) fn state(&self) -> BreakerState {
        self.with(|machine, now| {
            machine.expire(now);
            machine.state()
        })
    }

    pub(super) fn remaining(&self) -> Option<Duration> {
        self.with(|machine, now| machine.remaining(now))
    }

    pub(super) fn counts(&self) -> CallCounts {
        match &self.window {
            Counted::Time(window) => window.counts(Instant::now()),
            Counted::Calls(window) => window.counts(),
        }
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<BreakerTransition> {
        self.latest.subscribe()
    }

    pub(super) fn force(&self, to: BreakerState) {
        self.with(|machine, now| machine.force(to, now));
    }

    fn publish(&self, transition: BreakerTransition) {
        let BreakerTransition {
            from,
            to,
            cause,
            open_for,
            ..
        } = transition;
        let name = &*self.name;
        if to == BreakerState::Open {
            tracing::warn!(name, %from, %to, ?cause, ?open_for, "circuit breaker opened");
        } else {
            tracing::info!(name, %from, %to, ?cause, "circuit breaker changed");
        }
        // Two threads may arrive here in the wrong order: the later transition is kept.
        self.latest.send_if_modified(|latest| {
            let is_later = transition.generation > latest.generation;
            if is_later {
                *latest = transition;
            }
            is_later
        });
    }
}

impl_debug!(BreakerShared: |this|
    name = this.name,
    machine = this.machine,
    window = this.window,
    limits = this.limits,
);
