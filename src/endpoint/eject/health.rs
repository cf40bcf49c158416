//! The outcomes of one endpoint's requests, recorded by the requests themselves.

use std::time::Duration;

use super::{
    cause::EjectCause,
    gate::{Gate, GateState, GivenUp, Pass, Round},
    log_sum::LogSum,
    settings::Ejection,
    step::{EjectStep, StepKind},
};
use crate::{
    classify::Outcome,
    sync::{
        AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// A signal to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The endpoint meets a condition for ejection: pass it to [`Ejector::trip`](super::Ejector::trip).
    Tripped {
        /// The round of the signal.
        round: Round,
        /// The reason.
        cause: EjectCause,
    },
    /// A probe has ended: pass it to [`Ejector::probed`](super::Ejector::probed).
    Probed {
        /// The round of the signal.
        round: Round,
        /// Its outcome; cancelled when its caller stopped waiting.
        outcome: Outcome,
        /// Its latency.
        latency: Option<Duration>,
    },
}

/// The health of one endpoint: its gate, and counts of the outcomes of its requests.
///
/// Requests and the driver share it. It takes 64 bytes, allocates nothing and reads no clock: at each tenth
/// of the window the driver notes the sums ([`Ejector::tick`](super::Ejector::tick)), so the window slides.
/// A success costs one addition.
///
/// `T` is other data of the endpoint that requests read. It is in the same cache line as the gate.
#[repr(C)]
pub(crate) struct EndpointHealth<T = ()> {
    gate: Gate,
    pub(crate) beside: T,
    /// Number of failures since the last success. Relaxed: no other memory depends on it. A failure
    /// concurrent with a success may count before or after it.
    streak: AtomicU64,
    /// A [`LogSum`] of the requests that were answered. Relaxed, as all the sums: each is read on its own,
    /// and is exact while no request ends.
    answers: AtomicU64,
    /// Number of requests that failed or were refused.
    failures: AtomicU64,
    /// A [`LogSum`] of the requests that ended without a response after more time than a response should
    /// take.
    stalls: AtomicU64,
    /// The sums at the beginning of the window. A writer stores the base of failures first; a reader loads
    /// it last. The Release of each store pairs with the Acquire of its load. A reader that overlaps a
    /// writer may count too few failures, never too few requests.
    base_answers: AtomicU64,
    base_failures: AtomicU64,
    /// The latency in microseconds from which a request without a response proves slowness. Relaxed: it is
    /// read on its own.
    slow_after_us: AtomicU64,
    /// 1 from a signal until the driver has acted on it, so that a burst of failures sends one signal.
    tripped: AtomicU8,
}

/// The sums at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HealthSums {
    answers: LogSum,
    failures: u64,
    stalls: LogSum,
}

impl HealthSums {
    #[cfg(test)]
    pub(super) fn failed(failures: u64) -> Self {
        Self {
            failures,
            ..Self::default()
        }
    }

    /// Latencies and number of the requests between `start` and this moment.
    pub(super) fn latency_since(self, start: Self) -> LogSum {
        let stalls = self.stalls.since(start.stalls);
        self.answers.since(start.answers).plus(stalls)
    }

    /// Number of requests between `start` and this moment: those that failed or were refused, and all.
    pub(super) fn counts_since(self, start: Self) -> (u64, u64) {
        let failed = self.failures.saturating_sub(start.failures);
        (failed, failed + self.answers.since(start.answers).count())
    }
}

impl<T> EndpointHealth<T> {
    /// The health of a new endpoint, with an open gate and `beside` next to it. `round` is the result of
    /// [`Ejector::insert`](super::Ejector::insert).
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

    /// Whether it takes requests: neither ejected nor probed.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// The state of its gate.
    pub(crate) fn gate(&self) -> GateState {
        self.gate.state()
    }

    /// Lets a request pass, as the probe if one is due. `None` when the endpoint takes no request.
    ///
    /// The pass must be given to [`record`](Self::record), even if the request is dropped.
    #[inline]
    pub(crate) fn admit(&self) -> Option<Pass> {
        self.gate.admit()
    }

    /// Unpacks the pass of a request.
    #[inline]
    pub(crate) fn unpack(&self, packed: u32) -> Pass {
        self.gate.unpack(packed)
    }

    /// Records the outcome and the latency of a request. Returns a signal if the driver must act.
    ///
    /// Untimed requests have a `latency` of `None`; if all are untimed, latency ejection is off. A
    /// cancelled request proves only that it had no response while it waited. If it waited for longer than
    /// a response should take, it counts as a response with that latency. The same is true for a failure.
    /// Requests of an earlier round do not count.
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
                // Check first: the value is nearly always zero and a load is cheap, but a store takes the
                // cache line from other threads.
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
                // The endpoint responds, so a refusal counts for the ratio only, as in linkerd.
                self.judge(pass, 0, rules)
            }
            Outcome::Cancelled => {
                self.stall(latency);
                None
            }
        }
    }

    /// Replaces a recorded success with this `latency` by a failure, because its response broke off later.
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

    /// The signal to eject the endpoint, at most once until the driver acts.
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
        // Relaxed: a swap is atomic, so exactly one of several gets the zero.
        let first = self.tripped.load(Relaxed) == 0 && self.tripped.swap(1, Relaxed) == 0;
        first.then_some(Signal::Tripped {
            round: pass.round(),
            cause,
        })
    }

    /// Number of requests in the window: those that failed or were refused, and all that were answered or
    /// failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let base_answers = LogSum(self.base_answers.load(Acquire));
        let base_failures = self.base_failures.load(Acquire);
        let failed = self.failures.load(Relaxed).saturating_sub(base_failures);
        let answers = LogSum(self.answers.load(Relaxed)).since(base_answers);
        (failed, failed + answers.count())
    }

    /// Counts a request without a response, if it took longer than a response should.
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

    /// Sets the gate as the ejector decided. Only the driver's task calls it.
    pub(crate) fn follow<K>(&self, step: &EjectStep<K>) {
        let state = match step.kind {
            StepKind::Ejected { .. } => GateState::Shut,
            StepKind::Probe => GateState::ProbeReady,
            StepKind::Restored { .. } => {
                // Clear the history before the gate opens; the Release of the gate publishes these writes.
                self.rebase(self.sums());
                self.streak.store(0, Relaxed);
                self.rearm();
                GateState::Open
            }
            StepKind::Spared { .. } => return,
        };
        self.gate.set(state, step.round);
    }

    /// The probe in progress.
    pub(super) fn taken(&self) -> Option<u64> {
        self.gate.taken()
    }

    pub(super) fn sums(&self) -> HealthSums {
        HealthSums {
            answers: LogSum(self.answers.load(Relaxed)),
            failures: self.failures.load(Relaxed),
            stalls: LogSum(self.stalls.load(Relaxed)),
        }
    }

    /// The sums at the beginning of the window. Until the window is first [moved on](Self::rebase), these
    /// are the sums when the endpoint was new or last restored.
    pub(super) fn base(&self) -> HealthSums {
        let answers = LogSum(self.base_answers.load(Relaxed));
        let failures = self.base_failures.load(Relaxed);
        let stalls = if answers == LogSum::default() && failures == 0 {
            LogSum::default()
        } else {
            // The stalls at that moment are not stored, so stalls before now do not count.
            LogSum(self.stalls.load(Relaxed))
        };
        HealthSums {
            answers,
            failures,
            stalls,
        }
    }

    /// Sets the beginning of the window to `sums`.
    pub(super) fn rebase(&self, sums: HealthSums) {
        self.base_failures.store(sums.failures, Release);
        self.base_answers.store(sums.answers.0, Release);
    }

    /// Allows the next failure to send a signal again.
    pub(super) fn rearm(&self) {
        self.tripped.store(0, Relaxed);
    }

    pub(super) fn set_slow_after(&self, limit: Option<Duration>) {
        let us = limit.and_then(|limit| u64::try_from(limit.as_micros()).ok());
        self.slow_after_us.store(us.unwrap_or(u64::MAX), Relaxed);
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

    /// While the window moves, a reader sees at most as many failures as requests, and never a ratio above
    /// the true ones before and after.
    #[test]
    fn a_window_that_moves_never_looks_worse_than_it_is() {
        loom::model(|| {
            let health = Arc::new(EndpointHealth::with(Round(0), ()));
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
