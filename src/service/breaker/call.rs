//! One admitted call, until its verdict.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use super::{
    machine::{Pass, Probed},
    shared::Shared,
};
use crate::classify::{Observer, Outcome, Verdict};

/// A call that the breaker let through, waiting for its verdict; dropped before, it was cancelled.
///
/// It goes with the response of a [`Breaker`](super::Breaker) where the classifier judges by the end
/// of it.
pub struct Call {
    shared: Arc<Shared>,
    pass: Pass,
    step: Step,
    /// When it began, in microseconds since the breaker was made, where somebody asks; once it is good,
    /// its number in a window of calls.
    stamp: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// For an answer.
    Waiting,
    /// The answer has begun; its end will tell.
    Begun,
    /// The same, and it took long to begin.
    BegunSlowly,
    /// Good so far, and counted.
    Good,
    Over,
}

impl Call {
    #[inline]
    pub(super) fn new(shared: Arc<Shared>, pass: Pass) -> Self {
        let timed = pass.probe || shared.times_calls();
        let stamp = if timed {
            shared.micros(Instant::now())
        } else {
            0
        };
        Self {
            shared,
            pass,
            step: Step::Waiting,
            stamp,
        }
    }

    /// The head of the answer is here, or an error, with what is known by it.
    #[inline]
    pub(super) fn answered(&mut self, verdict: Option<Verdict>) {
        let (mut slow, mut now) = (false, None);
        // One clock read, and only for those who asked before.
        if self.pass.probe || self.shared.times_calls() {
            let at = Instant::now();
            let took = self.shared.micros(at).saturating_sub(self.stamp);
            (slow, now) = (self.shared.is_slow(took), Some(at));
            if self.pass.probe && self.shared.is_late(took) {
                return self.conclude_at(Outcome::Failure, slow, now);
            }
        }
        if let Some(verdict) = verdict {
            return self.conclude_at(verdict.outcome, slow, now);
        }
        self.step = if slow { Step::BegunSlowly } else { Step::Begun };
        if self.pass.probe {
            self.shared.begin(self.pass);
        }
    }

    #[inline]
    fn conclude_at(&mut self, outcome: Outcome, slow: bool, now: Option<Instant>) {
        if outcome == Outcome::Cancelled {
            return self.cancel();
        }
        let failed = outcome != Outcome::Success;
        let begun = self.has_begun();
        self.step = if failed { Step::Over } else { Step::Good };
        if self.pass.probe {
            let result = if failed || slow {
                Probed::Bad
            } else {
                Probed::Good
            };
            self.shared.probed(self.pass, result, begun);
        } else {
            self.stamp = self.shared.record(self.pass, now, failed, slow);
        }
    }

    fn has_begun(&self) -> bool {
        matches!(self.step, Step::Begun | Step::BegunSlowly)
    }

    #[cold]
    fn cancel(&mut self) {
        let begun = self.has_begun();
        let open = begun || self.step == Step::Waiting;
        self.step = Step::Over;
        if open && self.pass.probe {
            self.shared.probed(self.pass, Probed::Cancelled, begun);
        }
    }
}

impl Observer for Call {
    fn conclude(&mut self, verdict: Verdict) {
        match self.step {
            Step::Waiting => self.answered(Some(verdict)),
            Step::Begun => self.conclude_at(verdict.outcome, false, None),
            Step::BegunSlowly => self.conclude_at(verdict.outcome, true, None),
            Step::Good if matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded) => {
                self.step = Step::Over;
                if self.pass.probe {
                    self.shared.relapsed(self.pass);
                } else {
                    self.shared.amend(self.pass, self.stamp);
                }
            }
            Step::Good | Step::Over => {}
        }
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.step, Step::Over | Step::Good) {
            self.cancel();
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
