//! One call, which holds a permit until its response is complete.

use std::sync::Arc;

use tokio::time::Instant;

use super::{gradient::Sample, shared::LimitShared};
use crate::{
    classify::{Observer, Outcome, Verdict},
    permits::Permit,
    service::judged::Amend,
};

/// A call with its permit, which is returned when this is dropped.
///
/// It stays with the response of an [`AdaptiveLimit`](super::AdaptiveLimit) if the classifier
/// judges by the end of the response.
#[derive(Debug)]
pub struct LimitCall {
    shared: Arc<LimitShared>,
    began: Instant,
    in_flight: u32,
    /// Whether its latency was sampled, or is not needed any more.
    sampled: bool,
    _permit: Permit,
}

impl LimitCall {
    pub(super) fn new(shared: Arc<LimitShared>, permit: Permit) -> Self {
        let in_flight = shared.begin();
        Self {
            shared,
            began: Instant::now(),
            in_flight,
            sampled: false,
            _permit: permit,
        }
    }
}

impl<X> Amend<X> for LimitCall {}

impl Observer for LimitCall {
    /// The latency is that of the head, so a call without a verdict counts as a success here.
    fn answered(&mut self, verdict: Option<Verdict>) {
        self.conclude(verdict.unwrap_or(Verdict::SUCCESS));
    }

    fn conclude(&mut self, verdict: Verdict) {
        let sampled = std::mem::replace(&mut self.sampled, true);
        if verdict.outcome == Outcome::Overloaded {
            self.shared.overloaded(Instant::now());
        } else if !sampled && verdict.outcome != Outcome::Cancelled {
            let now = Instant::now();
            let sample = Sample {
                latency: now.saturating_duration_since(self.began),
                in_flight: self.in_flight,
                failed: verdict.outcome == Outcome::Failure,
            };
            self.shared.sample(sample, now);
        }
    }
}

impl Drop for LimitCall {
    fn drop(&mut self) {
        self.shared.end();
    }
}
