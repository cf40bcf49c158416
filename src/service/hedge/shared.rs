//! What all requests of a layer share.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

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

    /// Whether the budgets allow an attempt. If not, it counts as refused. An attempt for a request
    /// that hangs (`rescues`) needs no share.
    pub(super) fn can_pay(&self, now: Instant, rescues: bool) -> bool {
        (self.is_free(rescues) || self.budget.allows(now))
            && self.shared.as_ref().is_none_or(|it| it.allows(now))
    }

    /// Withdraws the price of an attempt from both budgets. The shared one is first, because
    /// retries may empty it.
    pub(super) fn pay(&self, now: Instant, rescues: bool) -> bool {
        self.shared.as_ref().is_none_or(|it| it.withdraw(now))
            && (self.is_free(rescues) || self.budget.withdraw(now))
    }

    fn is_free(&self, rescues: bool) -> bool {
        rescues && self.shared.is_some()
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

impl<R, C> fmt::Debug for HedgeShared<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("delay", &self.delay)
            .field("max_extra", &self.max_extra)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
