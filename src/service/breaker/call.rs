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
    started: Option<Instant>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// For an answer.
    Waiting,
    /// The answer has begun; its end will tell.
    Begun {
        slow: bool,
    },
    /// Good so far, and counted, under this number.
    Good(Option<u64>),
    Over,
}

impl Call {
    #[inline]
    pub(super) fn new(shared: Arc<Shared>, pass: Pass, started: Option<Instant>) -> Self {
        Self {
            shared,
            pass,
            started,
            step: Step::Waiting,
        }
    }

    /// The head of the answer is here, or an error, with what is known by it.
    #[inline]
    pub(super) fn answered(&mut self, verdict: Option<Verdict>) {
        // One clock read, and only for those who ask the time.
        let now = (self.started.is_some() || self.shared.is_timed()).then(Instant::now);
        let took = match (self.started, now) {
            (Some(started), Some(now)) => now.saturating_duration_since(started),
            _ => Default::default(),
        };
        let slow = self.shared.is_slow(took);
        if self.pass.probe && self.shared.is_late(took) {
            self.conclude_at(Outcome::Failure, slow, now);
        } else if let Some(verdict) = verdict {
            self.conclude_at(verdict.outcome, slow, now);
        } else {
            self.step = Step::Begun { slow };
            if self.pass.probe {
                self.shared.begin(self.pass);
            }
        }
    }

    #[inline]
    fn conclude_at(&mut self, outcome: Outcome, slow: bool, now: Option<Instant>) {
        if outcome == Outcome::Cancelled {
            return self.cancel();
        }
        let failed = outcome != Outcome::Success;
        let begun = matches!(self.step, Step::Begun { .. });
        self.step = Step::Over;
        let number = if self.pass.probe {
            let result = if failed || slow {
                Probed::Bad
            } else {
                Probed::Good
            };
            self.shared.probed(self.pass, result, begun);
            None
        } else {
            self.shared.record(self.pass, now, failed, slow)
        };
        if !failed {
            self.step = Step::Good(number);
        }
    }

    #[inline]
    fn cancel(&mut self) {
        let begun = matches!(self.step, Step::Begun { .. });
        let open = begun || self.step == Step::Waiting;
        self.step = Step::Over;
        if open && self.pass.probe {
            self.shared.probed(self.pass, Probed::Cancelled, begun);
        }
    }
}

impl Observer for Call {
    #[inline]
    fn conclude(&mut self, verdict: Verdict) {
        match self.step {
            Step::Waiting => self.answered(Some(verdict)),
            Step::Begun { slow } => self.conclude_at(verdict.outcome, slow, None),
            Step::Good(number)
                if matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded) =>
            {
                self.step = Step::Over;
                if self.pass.probe {
                    self.shared.relapsed(self.pass);
                } else if let Some(number) = number {
                    self.shared.amend(self.pass, number);
                }
            }
            Step::Good(_) | Step::Over => {}
        }
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
