//! What became of one endpoint's requests, recorded by the requests themselves.

use std::{fmt, time::Duration};

use super::{
    cause::EjectCause,
    gate::{Gate, GateState, GivenUp, Pass, Round},
    log_sum::LogSum,
    settings::Ejection,
    step::{Step, StepKind},
};
use crate::{
    classify::Outcome,
    sync::{
        AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// What the driver is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The endpoint should be ejected: hand it to [`Ejector::trip`](super::Ejector::trip).
    Tripped {
        /// The round that it is about.
        round: Round,
        /// Why.
        cause: EjectCause,
    },
    /// A probe is over: hand it to [`Ejector::probed`](super::Ejector::probed).
    Probed {
        /// The round that it is about.
        round: Round,
        /// What became of it; cancelled when its caller stopped waiting.
        outcome: Outcome,
        /// What it took.
        latency: Option<Duration>,
    },
}

/// The health of one endpoint: its gate, and counts of what became of its requests.
///
/// Shared by requests and driver. It is 64 bytes, allocates nothing and needs no clock: each tenth of the
/// window the driver notes the sums ([`Ejector::tick`](super::Ejector::tick)), so the window slides. A
/// success costs one addition.
///
/// `T` is whatever else requests read of an endpoint: beside the gate it lies in the same cache line.
#[repr(C)]
pub(crate) struct Health<T = ()> {
    gate: Gate,
    pub(crate) beside: T,
    /// Failures since the last success. Relaxed: nothing else depends on it, and a failure at the moment of
    /// a success may count before it or after it.
    streak: AtomicU64,
    /// A [`LogSum`] of the requests that were answered. Relaxed, as all the sums: each is read for
    /// itself, and is right when all is quiet.
    answers: AtomicU64,
    /// Requests that failed or were refused.
    failures: AtomicU64,
    /// A [`LogSum`] of the requests that ended without an answer and took longer than any should.
    stalls: AtomicU64,
    /// The sums at the beginning of the window. The failures are written first and read last
    /// (release, acquire), so that a reader between the two sees too few failures and never too few
    /// requests.
    base_answers: AtomicU64,
    base_failures: AtomicU64,
    /// In microseconds, from which latency on a request without an answer proves slowness; Relaxed.
    slow_after_us: AtomicU64,
    /// 1 from a signal until the driver has acted on it: a burst of failures sends one signal.
    tripped: AtomicU8,
}

/// The sums of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    answers: LogSum,
    failures: u64,
    stalls: LogSum,
}

impl Sums {
    #[cfg(test)]
    pub(super) fn failed(failures: u64) -> Self {
        Self {
            failures,
            ..Self::default()
        }
    }

    /// What requests between `start` and this took, and how many of them there were.
    pub(super) fn latency_since(self, start: Self) -> LogSum {
        let stalls = self.stalls.since(start.stalls);
        self.answers.since(start.answers).plus(stalls)
    }

    /// How many requests failed or were refused between `start` and this, and how many there were.
    pub(super) fn counts_since(self, start: Self) -> (u64, u64) {
        let failed = self.failures.saturating_sub(start.failures);
        (failed, failed + self.answers.since(start.answers).count())
    }
}

impl<T> Health<T> {
    /// The health of an endpoint of which nothing is known, with `beside` beside the open gate. `round` is
    /// what [`Ejector::insert`](super::Ejector::insert) returned for it.
    pub(crate) fn with(round: Round, beside: T) -> Self {
        Self {
            gate: Gate::new(round),
            beside,
            streak: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            base_answers: AtomicU64::new(0),
            base_failures: AtomicU64::new(0),
            slow_after_us: AtomicU64::new(u64::MAX),
            tripped: AtomicU8::new(0),
        }
    }

    /// Whether it takes requests: neither ejected nor on trial.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// What its gate lets pass.
    pub(crate) fn gate(&self) -> GateState {
        self.gate.state()
    }

    /// Lets a request pass, as the probe where one is wanted. `None` when the endpoint takes no request.
    ///
    /// The pass must come to [`record`](Self::record), also when the request is dropped.
    #[inline]
    pub(crate) fn admit(&self) -> Option<Pass> {
        self.gate.admit()
    }

    /// The pass that was packed when it was given.
    #[inline]
    pub(crate) fn unpack(&self, packed: u32) -> Pass {
        self.gate.unpack(packed)
    }

    /// Records what became of a request and its latency, and returns what the driver must know.
    ///
    /// Where the clock is not read, `latency` is always `None`, and no endpoint is slow. A cancelled request
    /// proves nothing, except that it had no answer for as long as it waited: if that is longer than any
    /// answer should take, it counts as such an answer. So does a failure. Requests of an earlier round
    /// count for nothing.
    #[inline]
    pub(crate) fn record(
        &self,
        pass: Pass,
        outcome: Outcome,
        latency: Option<Duration>,
        rules: &Ejection,
    ) -> Option<Signal> {
        if pass.is_probe() {
            return self.end_probe(pass, outcome, latency);
        }
        if !self.gate.is_current(pass) {
            return None;
        }
        match outcome {
            Outcome::Success => {
                // A load of what is nearly always zero is free, a store would take the cache line
                // from other threads.
                if self.streak.load(Relaxed) != 0 {
                    self.streak.store(0, Relaxed);
                }
                self.answers.fetch_add(LogSum::of(latency).0, Relaxed);
                None
            }
            Outcome::Failure => {
                self.stall(latency);
                self.fail(pass, rules)
            }
            Outcome::Overloaded => {
                self.failures.fetch_add(1, Relaxed);
                // It is alive, so this counts for the ratio alone, as in linkerd.
                self.judge(pass, 0, rules)
            }
            Outcome::Cancelled => {
                self.stall(latency);
                None
            }
        }
    }

    /// Takes back a success, recorded with this `latency`, whose answer broke off later, and notes a
    /// failure in its place.
    #[inline]
    pub(crate) fn revise(
        &self,
        pass: Pass,
        latency: Option<Duration>,
        rules: &Ejection,
    ) -> Option<Signal> {
        if pass.is_probe() || !self.gate.is_current(pass) {
            return None;
        }
        self.answers.fetch_sub(LogSum::of(latency).0, Relaxed);
        self.fail(pass, rules)
    }

    fn fail(&self, pass: Pass, rules: &Ejection) -> Option<Signal> {
        self.failures.fetch_add(1, Relaxed);
        let streak = self.streak.fetch_add(1, Relaxed) + 1;
        self.judge(pass, streak, rules)
    }

    /// The signal that it should be ejected, once.
    fn judge(&self, pass: Pass, streak: u64, rules: &Ejection) -> Option<Signal> {
        let consecutive = rules.consecutive.map_or(u64::MAX, u64::from);
        let cause = if streak >= consecutive {
            EjectCause::ConsecutiveFailures { n: streak }
        } else {
            let (failed, total) = self.counts();
            let least = total as f64 * rules.ratio?;
            if total < rules.min_requests.into() || (failed as f64) < least {
                return None;
            }
            EjectCause::FailureRatio { failed, total }
        };
        // Relaxed: of several swaps, one gets the zero.
        let first = self.tripped.load(Relaxed) == 0 && self.tripped.swap(1, Relaxed) == 0;
        first.then_some(Signal::Tripped {
            round: pass.round(),
            cause,
        })
    }

    /// The requests of the window: those that failed or were refused, and all that were answered or
    /// failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let base_answers = LogSum(self.base_answers.load(Acquire));
        let base_failures = self.base_failures.load(Acquire);
        let failed = self.failures.load(Relaxed).saturating_sub(base_failures);
        let answers = LogSum(self.answers.load(Relaxed)).since(base_answers);
        (failed, failed + answers.count())
    }

    /// Counts an end without an answer, if it took longer than an answer should.
    fn stall(&self, latency: Option<Duration>) {
        let Some(latency) = latency else { return };
        if latency.as_micros() > self.slow_after_us.load(Relaxed).into() {
            self.stalls.fetch_add(LogSum::of(Some(latency)).0, Relaxed);
        }
    }

    fn end_probe(&self, pass: Pass, outcome: Outcome, latency: Option<Duration>) -> Option<Signal> {
        let over = if outcome == Outcome::Cancelled {
            self.gate.give_up(pass) == GivenUp::Exhausted
        } else {
            self.gate.conclude(pass)
        };
        over.then_some(Signal::Probed {
            round: pass.round(),
            outcome,
            latency,
        })
    }

    /// Sets the gate as the ejector decided. Called by the driver's task alone.
    pub(crate) fn follow<K>(&self, step: &Step<K>) {
        let state = match step.kind {
            StepKind::Ejected { .. } => GateState::Shut,
            StepKind::Probe => GateState::ProbeReady,
            StepKind::Restored { .. } => {
                // Its past is forgotten before the gate opens, which releases these writes.
                self.rebase(self.sums());
                self.streak.store(0, Relaxed);
                self.rearm();
                GateState::Open
            }
            StepKind::Spared { .. } => return,
        };
        self.gate.set(state, step.round);
    }

    /// Which probe is under way.
    pub(super) fn taken(&self) -> Option<u64> {
        self.gate.taken()
    }

    pub(super) fn sums(&self) -> Sums {
        Sums {
            answers: LogSum(self.answers.load(Relaxed)),
            failures: self.failures.load(Relaxed),
            stalls: LogSum(self.stalls.load(Relaxed)),
        }
    }

    /// The sums at the beginning of the window: when it was restored last, or was new, as long as no
    /// window was [moved on](Self::rebase).
    pub(super) fn base(&self) -> Sums {
        let answers = LogSum(self.base_answers.load(Relaxed));
        let failures = self.base_failures.load(Relaxed);
        let stalls = if answers == LogSum::default() && failures == 0 {
            LogSum::default()
        } else {
            // These are not kept, so those before this moment do not count.
            LogSum(self.stalls.load(Relaxed))
        };
        Sums {
            answers,
            failures,
            stalls,
        }
    }

    /// Lets the window begin where the sums were these.
    pub(super) fn rebase(&self, sums: Sums) {
        self.base_failures.store(sums.failures, Release);
        self.base_answers.store(sums.answers.0, Release);
    }

    /// Lets the next failure send a signal again.
    pub(super) fn rearm(&self) {
        self.tripped.store(0, Relaxed);
    }

    pub(super) fn set_slow_after(&self, limit: Option<Duration>) {
        let us = limit.and_then(|limit| u64::try_from(limit.as_micros()).ok());
        self.slow_after_us.store(us.unwrap_or(u64::MAX), Relaxed);
    }
}

impl<T> fmt::Debug for Health<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, total) = self.counts();
        f.debug_struct("Health")
            .field("gate", &self.gate)
            .field("failed", &failed)
            .field("total", &total)
            .field("streak", &self.streak.load(Relaxed))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests;

#[cfg(all(test, roster_loom))]
mod model {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    /// While the window moves, a reader sees at most as many failures as there are requests, and never
    /// a ratio above the true ones before and after.
    #[test]
    fn a_window_that_moves_never_looks_worse_than_it_is() {
        loom::model(|| {
            let health = Arc::new(Health::with(Round(0), ()));
            let rules = Ejection::default();
            let pass = health.admit().unwrap();
            for outcome in [Outcome::Success, Outcome::Success, Outcome::Failure] {
                health.record(pass, outcome, None, &rules);
            }
            let early = health.sums();
            for outcome in [Outcome::Success, Outcome::Success] {
                health.record(pass, outcome, None, &rules);
            }
            let reader = {
                let health = Arc::clone(&health);
                thread::spawn(move || health.counts())
            };
            health.rebase(early);
            let (failed, total) = reader.join().unwrap();
            assert!(
                (failed, total) == (1, 5) || failed == 0,
                "{failed} of {total}"
            );
        });
    }
}
