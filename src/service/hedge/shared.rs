//! What all requests of a layer share.

use std::{fmt, num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use super::latency::Latencies;
use crate::service::retry::RetryBudget;

/// What all requests of a layer share.
pub(super) struct Shared<R, C> {
    pub(super) reissue: R,
    pub(super) classify: C,
    pub(super) delay: Delay,
    pub(super) max_extra: NonZeroU32,
    /// What hedges have for themselves. Requests are deposited here.
    pub(super) budget: RetryBudget,
    /// What they share with retries, which deposit there.
    pub(super) shared: Option<RetryBudget>,
}

impl<R, C> Shared<R, C> {
    /// Whether there is enough for an attempt, counted as refused if not.
    pub(super) fn can_pay(&self, now: Instant) -> bool {
        self.budget.allows(now) && self.shared.as_ref().is_none_or(|it| it.allows(now))
    }

    /// Takes the price of an attempt from both budgets; from the shared one first, which others empty.
    pub(super) fn pay(&self, now: Instant) -> bool {
        self.shared.as_ref().is_none_or(|it| it.withdraw(now)) && self.budget.withdraw(now)
    }
}

#[derive(Debug)]
pub(super) enum Delay {
    Fixed(Duration),
    Measured(Box<Latencies>),
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

impl<R, C> fmt::Debug for Shared<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("delay", &self.delay)
            .field("max_extra", &self.max_extra)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
