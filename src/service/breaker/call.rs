//! One admitted call, until its verdict.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    machine::{Admission, Probed},
    shared::BreakerShared,
};
use crate::{
    classify::{Excuse, Observer, Outcome, Verdict, on_service_error},
    error::BoxError,
    service::judged::Amend,
};

/// A call that the breaker admitted and that has no verdict yet. Dropping it before the verdict
/// counts the call as cancelled.
///
/// It stays with the response of a [`Breaker`](super::Breaker) if the classifier judges by the end
/// of the response.
#[derive(Debug)]
pub struct BreakerCall {
    shared: Arc<BreakerShared>,
    admission: Admission,
    /// When the call was made, if the settings need it.
    made: Option<Instant>,
    step: BreakerStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BreakerStep {
    /// No response yet.
    Waiting,
    /// The head of the response came; its end decides the verdict.
    Begun {
        slow: bool,
    },
    /// Counted as good so far, under this number in a window of calls.
    Good {
        number: u64,
    },
    Over,
}

impl BreakerCall {
    #[inline]
    pub(super) fn new(shared: Arc<BreakerShared>, admission: Admission) -> Self {
        let timed = admission.probe || shared.times_calls();
        Self {
            shared,
            admission,
            made: timed.then(Instant::now),
            step: BreakerStep::Waiting,
        }
    }

    #[inline]
    fn conclude_at(&mut self, outcome: Outcome, slow: bool, now: Option<Instant>) {
        if outcome == Outcome::Cancelled {
            return self.cancel();
        }
        let failed = outcome != Outcome::Success;
        let begun = matches!(self.step, BreakerStep::Begun { .. });
        let number = if self.admission.probe {
            let result = match failed || slow {
                true => Probed::Bad,
                false => Probed::Good,
            };
            self.shared.probed(self.admission, result, begun);
            0
        } else {
            self.shared.record(self.admission, now, failed, slow)
        };
        self.step = match failed {
            true => BreakerStep::Over,
            false => BreakerStep::Good { number },
        };
    }

    #[cold]
    fn cancel(&mut self) {
        let begun = matches!(self.step, BreakerStep::Begun { .. });
        let open = begun || self.step == BreakerStep::Waiting;
        self.step = BreakerStep::Over;
        if open && self.admission.probe {
            self.shared.probed(self.admission, Probed::Cancelled, begun);
        }
    }
}

/// A response beyond a limit of this client is no failure of the service, and neither is a request that
/// came after its deadline.
impl Amend<BoxError> for BreakerCall {
    fn amend(judged: Option<Verdict>, error: &BoxError) -> Verdict {
        on_service_error(judged, Excuse::of(&**error))
    }
}

impl Observer for BreakerCall {
    #[inline]
    fn answered(&mut self, verdict: Option<Verdict>) {
        let (mut slow, mut now) = (false, None);
        if let Some(made) = self.made {
            let at = Instant::now();
            let took = at.saturating_duration_since(made);
            (slow, now) = (self.shared.is_slow(took), Some(at));
            if self.admission.probe && self.shared.is_late(took) {
                return self.conclude_at(Outcome::Failure, slow, now);
            }
        }
        if let Some(verdict) = verdict {
            return self.conclude_at(verdict.outcome, slow, now);
        }
        self.step = BreakerStep::Begun { slow };
        if self.admission.probe {
            self.shared.begin(self.admission);
        }
    }

    fn conclude(&mut self, verdict: Verdict) {
        match self.step {
            BreakerStep::Waiting => self.answered(Some(verdict)),
            BreakerStep::Begun { slow } => self.conclude_at(verdict.outcome, slow, None),
            BreakerStep::Good { number }
                if matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded) =>
            {
                self.step = BreakerStep::Over;
                if self.admission.probe {
                    self.shared.relapsed(self.admission);
                } else {
                    self.shared.amend(self.admission, number);
                }
            }
            BreakerStep::Good { .. } | BreakerStep::Over => {}
        }
    }
}

impl Drop for BreakerCall {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.step, BreakerStep::Over | BreakerStep::Good { .. }) {
            self.cancel();
        }
    }
}
