//! One admitted call, until its verdict.

use std::sync::Arc;

use tokio::time::Instant;

use super::shared::ThrottleShared;
use crate::{
    classify::{Excuse, Observer, Outcome, Verdict, on_service_error},
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
    shared: Arc<ThrottleShared>,
    made: Instant,
    step: ThrottleStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThrottleStep {
    Waiting,
    Accepted,
    Over,
}

impl ThrottleCall {
    pub(super) fn new(shared: Arc<ThrottleShared>, made: Instant) -> Self {
        Self {
            shared,
            made,
            step: ThrottleStep::Waiting,
        }
    }
}

/// A response beyond a limit of this client is no failure of the service, and neither is a request that
/// came after its deadline.
impl Amend<BoxError> for ThrottleCall {
    fn amend(judged: Option<Verdict>, error: &BoxError) -> Verdict {
        on_service_error(judged, Excuse::of(&**error))
    }
}

impl Observer for ThrottleCall {
    fn conclude(&mut self, verdict: Verdict) {
        match (self.step, verdict.outcome) {
            (ThrottleStep::Over, _)
            | (ThrottleStep::Accepted, Outcome::Success | Outcome::Cancelled) => {}
            (ThrottleStep::Waiting, Outcome::Success) => self.step = ThrottleStep::Accepted,
            (ThrottleStep::Waiting, Outcome::Cancelled) => {
                self.step = ThrottleStep::Over;
                self.shared.withdraw(self.made);
            }
            (_, Outcome::Failure | Outcome::Overloaded) => {
                self.step = ThrottleStep::Over;
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
