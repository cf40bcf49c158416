//! What one endpoint's requests say about it, kept by the requests themselves.

use std::{fmt, time::Duration};

use super::{
    cause::Cause,
    gate::{Gate, GateState, GivenUp, Pass, Round},
    settings::EjectionSettings,
    step::{Step, StepKind},
    tally::Tally,
};
use crate::{
    classify::Outcome,
    sync::{
        AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// What the driver is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// The endpoint should be ejected: hand it to [`Ejector::trip`](super::Ejector::trip).
    Tripped {
        /// The round that it is about.
        round: Round,
        /// Why.
        cause: Cause,
    },
    /// A probe is over: hand it to [`Ejector::probed`](super::Ejector::probed).
    Probed {
        /// The round that it is about.
        round: Round,
        /// What became of it; cancelled when nobody waited for the answer.
        outcome: Outcome,
        /// What it took.
        latency: Option<Duration>,
    },
}

/// The health of one endpoint: its gate, and counts of what became of its requests.
///
/// Shared by requests and driver. It is 64 bytes, allocates nothing and needs no clock: the window
/// slides because the driver writes down, a tenth of it at a time, what the sums were
/// ([`Ejector::tick`](super::Ejector::tick)). A success costs one addition.
///
/// `T` is whatever else requests read of an endpoint: beside the gate it lies in the same cache line.
#[repr(C)]
pub struct Health<T = ()> {
    gate: Gate,
    pub(crate) beside: T,
    /// Failures since the last success. Relaxed: it decides for itself, and one failure more or less
    /// at the moment of a success is a matter of who was first.
    streak: AtomicU64,
    /// A [`Tally`] of the requests that were answered. Relaxed, as all the sums: each is read for
    /// itself, and is right when all is quiet.
    answers: AtomicU64,
    /// Requests that failed or were refused.
    failures: AtomicU64,
    /// A [`Tally`] of the requests that ended without an answer and took longer than any should.
    stalls: AtomicU64,
    /// The sums at the beginning of the window. The failures are written first and read last
    /// (release, acquire), so that a reader between the two sees too few failures and never too few
    /// requests.
    base_answers: AtomicU64,
    base_failures: AtomicU64,
    /// In microseconds, from which latency on a request without an answer proves slowness; Relaxed.
    slow_after_us: AtomicU64,
    /// 1 from the signal on until the driver has had time to act on it: a burst of failures is one
    /// signal.
    tripped: AtomicU8,
}

/// The sums of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    answers: Tally,
    failures: u64,
    stalls: Tally,
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
    pub(super) fn latency_since(self, start: Self) -> Tally {
        let stalls = self.stalls.since(start.stalls);
        self.answers.since(start.answers).plus(stalls)
    }

    /// How many requests failed or were refused between `start` and this, and how many there were.
    pub(super) fn counts_since(self, start: Self) -> (u64, u64) {
        let failed = self.failures.saturating_sub(start.failures);
        (failed, failed + self.answers.since(start.answers).count())
    }
}

impl Health {
    /// The health of an endpoint of which nothing is known; its gate is open. `round` is what
    /// [`Ejector::insert`](super::Ejector::insert) gave for it.
    pub fn new(round: Round) -> Self {
        Self::with(round, ())
    }
}

impl<T> Health<T> {
    /// The same, with something beside the gate.
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
    pub fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// What its gate lets pass.
    pub fn gate(&self) -> GateState {
        self.gate.state()
    }

    /// Lets a request pass, as the probe where one is wanted. `None` when the endpoint takes none now.
    ///
    /// The pass must come to [`record`](Self::record), also when the request is dropped.
    #[inline]
    pub fn admit(&self) -> Option<Pass> {
        self.gate.admit()
    }

    /// The pass that was packed when it was given.
    #[inline]
    pub(crate) fn unpack(&self, packed: u32) -> Pass {
        self.gate.unpack(packed)
    }

    /// Notes what became of a request and what it took, and says what the driver must be told.
    ///
    /// `latency` may be `None` where nobody reads the clock, and must then always be: no endpoint is
    /// slow there. A cancelled request proves nothing, except that it was not answered in the time
    /// that it waited; where that is longer than any answer should take, it counts as such an answer.
    /// So does a failure. A word from a round that is over is not heard.
    #[inline]
    pub fn record(
        &self,
        pass: Pass,
        outcome: Outcome,
        latency: Option<Duration>,
        rules: &EjectionSettings,
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
                self.answers.fetch_add(Tally::of(latency).0, Relaxed);
                None
            }
            Outcome::Failure => {
                self.stall(latency);
                self.fail(pass, rules)
            }
            Outcome::Overloaded => {
                self.failures.fetch_add(1, Relaxed);
                // Alive, and says so: linkerd too lets this count for the ratio only.
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
    pub fn revise(
        &self,
        pass: Pass,
        latency: Option<Duration>,
        rules: &EjectionSettings,
    ) -> Option<Signal> {
        if pass.is_probe() || !self.gate.is_current(pass) {
            return None;
        }
        self.answers.fetch_sub(Tally::of(latency).0, Relaxed);
        self.fail(pass, rules)
    }

    fn fail(&self, pass: Pass, rules: &EjectionSettings) -> Option<Signal> {
        self.failures.fetch_add(1, Relaxed);
        let streak = self.streak.fetch_add(1, Relaxed) + 1;
        self.judge(pass, streak, rules)
    }

    /// Says once that it should be ejected, if it should.
    fn judge(&self, pass: Pass, streak: u64, rules: &EjectionSettings) -> Option<Signal> {
        let cause = if streak >= rules.consecutive {
            Cause::ConsecutiveFailures { n: streak }
        } else {
            let (failed, total) = self.counts();
            let enough = total >= rules.min_requests;
            if !enough || (failed as f64) < total as f64 * rules.ratio {
                return None;
            }
            Cause::FailureRatio { failed, total }
        };
        // Relaxed: of those that swap, one gets the zero.
        let first = self.tripped.load(Relaxed) == 0 && self.tripped.swap(1, Relaxed) == 0;
        first.then_some(Signal::Tripped {
            round: pass.round(),
            cause,
        })
    }

    /// The requests of the window: those that failed or were refused, and all that were answered or
    /// failed.
    pub fn counts(&self) -> (u64, u64) {
        let base_answers = Tally(self.base_answers.load(Acquire));
        let base_failures = self.base_failures.load(Acquire);
        let failed = self.failures.load(Relaxed).saturating_sub(base_failures);
        let answers = Tally(self.answers.load(Relaxed)).since(base_answers);
        (failed, failed + answers.count())
    }

    /// An end without an answer, after longer than an answer should take.
    fn stall(&self, latency: Option<Duration>) {
        let Some(latency) = latency else { return };
        if latency.as_micros() > self.slow_after_us.load(Relaxed).into() {
            self.stalls.fetch_add(Tally::of(Some(latency)).0, Relaxed);
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

    /// Does what the ejector decided. Called by the driver's task alone.
    pub fn follow<K>(&self, step: &Step<K>) {
        let state = match step.kind {
            StepKind::Ejected { .. } => GateState::Shut,
            StepKind::Probe => GateState::ProbeReady,
            StepKind::Restored { .. } => {
                // All of its past is forgotten, before the gate opens: that releases it.
                self.rebase(self.sums());
                self.streak.store(0, Relaxed);
                self.rearm();
                GateState::Open
            }
            StepKind::Spared { .. } => return,
        };
        self.gate.set(state, step.round);
    }

    /// The taking of the permit that is under way.
    pub(super) fn taken(&self) -> Option<u64> {
        self.gate.taken()
    }

    pub(super) fn sums(&self) -> Sums {
        Sums {
            answers: Tally(self.answers.load(Relaxed)),
            failures: self.failures.load(Relaxed),
            stalls: Tally(self.stalls.load(Relaxed)),
        }
    }

    /// The sums at the beginning of the window: when it was restored last, or was new, as long as no
    /// window was [moved on](Self::rebase).
    pub(super) fn base(&self) -> Sums {
        let answers = Tally(self.base_answers.load(Relaxed));
        let failures = self.base_failures.load(Relaxed);
        let stalls = if answers == Tally::default() && failures == 0 {
            Tally::default()
        } else {
            // They are not written down, so those before this moment do not count.
            Tally(self.stalls.load(Relaxed))
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

    /// Lets the next failure signal again, if it still has reason to.
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
mod tests {
    use super::{super::settings::Ejection, *};

    const MS: Duration = Duration::from_millis(1);

    fn health() -> (Health, EjectionSettings) {
        (Health::new(Round(0)), EjectionSettings::default())
    }

    fn send(health: &Health, rules: &EjectionSettings, outcome: Outcome) -> Option<Cause> {
        let pass = health.admit().unwrap();
        match health.record(pass, outcome, Some(MS), rules) {
            Some(Signal::Tripped { cause, .. }) => Some(cause),
            None => None,
            signal => panic!("{signal:?} without a probe"),
        }
    }

    #[test]
    fn five_failures_in_a_row_trip_once() {
        let (health, rules) = health();
        let causes: Vec<_> = (0..9)
            .map(|_| send(&health, &rules, Outcome::Failure))
            .collect();
        let mut expected = [None; 9];
        expected[4] = Some(Cause::ConsecutiveFailures { n: 5 });
        assert_eq!(causes, expected);
        health.rearm();
        let again = send(&health, &rules, Outcome::Failure);
        assert_eq!(again, Some(Cause::ConsecutiveFailures { n: 10 }));
    }

    #[test]
    fn a_success_ends_the_row_and_cancelled_requests_do_not() {
        let (health, rules) = health();
        for _ in 0..4 {
            assert_eq!(send(&health, &rules, Outcome::Failure), None);
        }
        assert_eq!(send(&health, &rules, Outcome::Success), None);
        for _ in 0..4 {
            assert_eq!(send(&health, &rules, Outcome::Failure), None);
            assert_eq!(send(&health, &rules, Outcome::Cancelled), None);
        }
        assert!(send(&health, &rules, Outcome::Failure).is_some());
    }

    #[test]
    fn cancelled_requests_count_nowhere() {
        let (health, rules) = health();
        for _ in 0..1_000 {
            assert_eq!(send(&health, &rules, Outcome::Cancelled), None);
        }
        assert_eq!(health.counts(), (0, 0));
    }

    #[test]
    fn half_of_twenty_trip_and_half_of_eighteen_do_not() {
        let (health, rules) = health();
        for _ in 0..9 {
            assert_eq!(send(&health, &rules, Outcome::Success), None);
            assert_eq!(send(&health, &rules, Outcome::Failure), None);
        }
        assert_eq!(send(&health, &rules, Outcome::Success), None);
        let cause = send(&health, &rules, Outcome::Failure);
        let (failed, total) = (10, 20);
        assert_eq!(cause, Some(Cause::FailureRatio { failed, total }));
    }

    #[test]
    fn overload_counts_for_the_ratio_and_not_for_the_row() {
        let (health, rules) = health();
        for _ in 0..19 {
            assert_eq!(send(&health, &rules, Outcome::Overloaded), None);
        }
        let (failed, total) = (20, 20);
        let cause = send(&health, &rules, Outcome::Overloaded);
        assert_eq!(cause, Some(Cause::FailureRatio { failed, total }));
    }

    #[test]
    fn what_left_the_window_does_not_count() {
        let (health, _) = health();
        let rules = Ejection::new().consecutive_failures(None).build().unwrap();
        for _ in 0..10_000 {
            send(&health, &rules, Outcome::Success);
        }
        health.rebase(health.sums());
        for _ in 0..19 {
            assert_eq!(send(&health, &rules, Outcome::Failure), None);
        }
        let cause = send(&health, &rules, Outcome::Failure);
        let (failed, total) = (20, 20);
        assert_eq!(cause, Some(Cause::FailureRatio { failed, total }));
    }

    #[test]
    fn an_answer_that_broke_off_is_one_failure_and_no_success() {
        let (health, rules) = health();
        let pass = health.admit().unwrap();
        let latency = Some(37 * MS);
        assert_eq!(health.record(pass, Outcome::Success, latency, &rules), None);
        assert_eq!(health.counts(), (0, 1));
        assert_eq!(health.revise(pass, latency, &rules), None);
        assert_eq!(health.counts(), (1, 1));
        assert_eq!(health.sums().answers, Tally::default());
    }

    #[test]
    fn requests_without_an_answer_prove_slowness_only_beyond_the_limit() {
        let (health, rules) = health();
        let end = |outcome, latency| {
            let pass = health.admit().unwrap();
            health.record(pass, outcome, Some(latency), &rules);
        };
        end(Outcome::Cancelled, 10_000 * MS);
        health.set_slow_after(Some(100 * MS));
        end(Outcome::Cancelled, 99 * MS);
        end(Outcome::Failure, 99 * MS);
        assert_eq!(health.sums().stalls.count(), 0, "nothing is known of these");
        end(Outcome::Cancelled, 1_000 * MS);
        end(Outcome::Failure, 1_000 * MS);
        assert_eq!(health.sums().stalls.count(), 2);
        let typical = health.sums().latency_since(Sums::default()).typical();
        assert!(typical > Some(990 * MS), "{typical:?}");
    }

    #[test]
    fn counts_are_exact_while_threads_record() {
        let (health, _) = health();
        let rules = Ejection::new().consecutive_failures(None).build().unwrap();
        let trips: usize = std::thread::scope(|scope| {
            let work = || {
                let outcomes = [Outcome::Success, Outcome::Failure, Outcome::Success];
                let outcomes = outcomes.iter().cycle().take(30_000);
                outcomes
                    .filter(|outcome| send(&health, &rules, **outcome).is_some())
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(health.counts(), (40_000, 120_000));
        assert!(trips <= 1);
    }
}

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
            let health = Arc::new(Health::new(Round(0)));
            let rules = EjectionSettings::default();
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
