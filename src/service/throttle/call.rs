//! One admitted call, until its verdict.

use std::sync::Arc;

use tokio::time::Instant;

use super::shared::Shared;
use crate::{
    classify::{Observer, Outcome, Verdict, on_error},
    error::BoxError,
    service::judged::Amend,
};

/// A call that was admitted and has no verdict yet. Dropping it before the verdict counts the call
/// as cancelled.
///
/// It stays with the response of a [`Throttle`](super::Throttle) if the classifier judges by the
/// end of the response.
#[derive(Debug)]
pub struct ThrottleCall {
    shared: Arc<Shared>,
    made: Instant,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    Accepted,
    Over,
}

impl ThrottleCall {
    pub(super) fn new(shared: Arc<Shared>, made: Instant) -> Self {
        Self {
            shared,
            made,
            step: Step::Waiting,
        }
    }
}

/// A response beyond a limit of this client is no failure of the service.
impl Amend<BoxError> for ThrottleCall {
    fn amend(judged: Option<Verdict>, error: &BoxError) -> Verdict {
        on_error(judged, &**error)
    }
}

impl Observer for ThrottleCall {
    fn conclude(&mut self, verdict: Verdict) {
        match (self.step, verdict.outcome) {
            (Step::Over, _) | (Step::Accepted, Outcome::Success | Outcome::Cancelled) => {}
            (Step::Waiting, Outcome::Success) => self.step = Step::Accepted,
            (Step::Waiting, Outcome::Cancelled) => {
                self.step = Step::Over;
                self.shared.withdraw(self.made);
            }
            (_, Outcome::Failure | Outcome::Overloaded) => {
                self.step = Step::Over;
                self.shared.reject();
            }
        }
    }
}

impl Drop for ThrottleCall {
    fn drop(&mut self) {
        self.conclude(Verdict::new(Outcome::Cancelled));
    }
}
