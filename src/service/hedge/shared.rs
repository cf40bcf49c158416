//! What all requests of a layer share.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::latency::Latencies;
use crate::{alarm::Alarms, service::retry::RetryBudget};

/// What all requests of a layer share.
#[derive(Clone)]
pub(super) struct HedgeShared<R, C> {
    /// If false, requests are only passed on.
    pub(super) enabled: bool,
    pub(super) reissue: R,
    pub(super) classify: C,
    pub(super) delay: Delay,
    pub(super) max_extra: NonZeroU32,
    /// The share of hedges. Attempts make deposits here.
    pub(super) budget: RetryBudget,
    /// The budget shared with retries, which make the deposits.
    pub(super) shared: Option<RetryBudget>,
    /// The alarms of requests that wait for their next attempt.
    pub(super) alarms: Arc<Alarms>,
}

impl<R, C> HedgeShared<R, C> {
    /// Replaces what depends on the type of the request.
    pub(super) fn map<R2, C2>(self, to: impl FnOnce(R, C) -> (R2, C2)) -> HedgeShared<R2, C2> {
        let (reissue, classify) = to(self.reissue, self.classify);
        HedgeShared {
            enabled: self.enabled,
            reissue,
            classify,
            delay: self.delay,
            max_extra: self.max_extra,
            budget: self.budget,
            shared: self.shared,
            alarms: self.alarms,
        }
    }

    /// Whether the budgets allow an attempt. An attempt for a request that hangs (`rescues`) needs
    /// no share.
    ///
    /// # Errors
    /// The budget that is used up. It has not counted a refusal.
    pub(super) fn can_pay(&self, now: Instant, rescues: bool) -> Result<(), &RetryBudget> {
        self.each(rescues, |budget| budget.available(now) > 0)
    }

    /// Withdraws the price of an attempt from both budgets.
    ///
    /// # Errors
    /// The budget that is used up. It has not counted a refusal.
    pub(super) fn pay(&self, now: Instant, rescues: bool) -> Result<(), &RetryBudget> {
        self.each(rescues, |budget| budget.take(now))
    }

    /// Goes through the budgets of an attempt until one refuses it. Its own share is first: what was
    /// withdrawn from it is lost when the shared budget refuses, and the other way round retries would
    /// lose what no attempt was sent for.
    fn each(
        &self,
        rescues: bool,
        grants: impl Fn(&RetryBudget) -> bool,
    ) -> Result<(), &RetryBudget> {
        let is_free = rescues && self.shared.is_some();
        let own = (!is_free).then_some(&self.budget);
        let refuses = own
            .into_iter()
            .chain(&self.shared)
            .find(|budget| !grants(budget));
        refuses.map_or(Ok(()), Err)
    }
}

/// After how long a request hangs. An attempt that is sent then replaces a failure, like a retry,
/// so only the budget of retries bounds it.
///
/// Ten delays: in an overload the delay grows with the median, so no request waits that long. The
/// reason for this rule: beside a process that stopped for 10 s, the share alone left requests
/// waiting for seconds. The least value is 100 ms.
pub(super) fn hangs_after(delay: Duration) -> Duration {
    delay.max(Duration::from_millis(10)).saturating_mul(10)
}

#[derive(Clone, Debug)]
pub(super) enum Delay {
    Fixed(Duration),
    Measured(Arc<Latencies>),
}

impl Delay {
    pub(super) fn get(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Fixed(delay) => Some(*delay),
            Self::Measured(latencies) => latencies.delay(now),
        }
    }

    pub(super) fn latencies(&self) -> Option<&Latencies> {
        match self {
            Self::Fixed(_) => None,
            Self::Measured(latencies) => Some(latencies),
        }
    }
}

impl_debug!([R, C] HedgeShared<R, C>: |this|
    delay = this.delay,
    max_extra = this.max_extra,
    budget = this.budget,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        classify::Answers,
        service::retry::{BudgetSettings, Cloned},
    };

    #[test]
    fn an_attempt_that_has_no_share_takes_nothing_from_the_retries() {
        let with = |attempts| {
            let budget = BudgetSettings::new().ratio(0.0).reserve(attempts);
            budget.build().expect("a valid budget")
        };
        let shared = HedgeShared {
            enabled: true,
            reissue: Cloned,
            classify: Answers,
            delay: Delay::Fixed(Duration::from_millis(50)),
            max_extra: NonZeroU32::MIN,
            budget: with(0),
            shared: Some(with(1)),
            alarms: Alarms::new(),
        };
        let (now, retries) = (Instant::now(), shared.shared.as_ref().expect("set above"));
        assert!(shared.pay(now, false).is_err());
        assert_eq!((retries.withdrawn(), retries.available(now)), (0, 1));
        assert!(shared.pay(now, true).is_ok());
        assert_eq!((retries.withdrawn(), retries.available(now)), (1, 0));
    }
}
