//! The settings of retries.

use std::{num::NonZeroU32, time::Duration};

use super::{
    budget::BudgetSettings,
    layer::RetryLayer,
    reissue::Cloned,
    terms::{RetryParts, RetryShared, Rules, Terms},
};
use crate::{
    backoff::Backoff,
    classify::{self, Answers},
    error::{ConfigError, check_range},
};

/// Envoy's base: above the round trip to a nearby server, and below what a user notices.
const DELAY: Backoff = Backoff::known(25, 60_000);

/// As in the examples of gRPC and Envoy. When a third endpoint fails too, the cause is seldom
/// chance.
const ATTEMPTS: NonZeroU32 = NonZeroU32::new(3).expect("not zero");

/// The cap of the backoff: a caller that would wait longer retries by itself.
const PUSHBACK: Duration = Duration::from_secs(60);

/// The settings of a [`RetryLayer`]. Each [`build`](Self::build) makes a new layer with a budget of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct RetrySettings {
    delay: Backoff,
    max_attempts: NonZeroU32,
    try_timeout: Option<Duration>,
    deadline: Option<Duration>,
    max_pushback: Duration,
    budget: Option<BudgetSettings>,
    seed: Option<u64>,
}

impl RetrySettings {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            delay: DELAY,
            max_attempts: ATTEMPTS,
            try_timeout: None,
            deadline: None,
            max_pushback: PUSHBACK,
            budget: Some(BudgetSettings::new()),
            seed: None,
        }
    }

    /// Sets the delay before an attempt; by default from 25 ms, doubling to 60 s, with full jitter.
    /// When the first attempt was not sent, the second starts at once.
    pub fn delay(mut self, delay: Backoff) -> Self {
        self.delay = delay;
        self
    }

    /// Sets how often a request is sent at most, the first attempt included; 3 by default. One
    /// disables retries; a high number has little effect, because the budget is empty before.
    pub fn max_attempts(mut self, max_attempts: NonZeroU32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Sets how long one attempt may take until the head of its response, above zero; no limit by
    /// default. An attempt that takes longer is dropped and counts as failed. It was sent, so only
    /// an idempotent request is retried. A limit below the usual latency multiplies the load, up to
    /// the budget.
    pub fn try_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.try_timeout = timeout.into();
        self
    }

    /// Sets how long a request may take until the head of its response, with all its attempts,
    /// above zero; no limit by default. An attempt that still runs then is dropped, and the error is
    /// tower's [`Elapsed`](tower::timeout::error::Elapsed), so a `Timeout` above is not needed. An
    /// attempt that would start later is not waited for. The deadline is a limit of the caller and
    /// is not counted against the endpoint; a per-try timeout is. If a request has a
    /// [`Deadline`](crate::Deadline) of its own, the earlier of the two counts.
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Sets the longest delay that a server may request; 60 s by default. A response that requests
    /// more is returned to the caller. The random part that is added to a request for at least some
    /// time does not count.
    pub fn max_pushback(mut self, max_pushback: Duration) -> Self {
        self.max_pushback = max_pushback;
        self
    }

    /// Sets the budget: 20 % of the requests and ten in reserve by default. With `None`, every
    /// request may be sent as often as [`max_attempts`](Self::max_attempts) allows; a service that
    /// fails entirely then gets that many times the load.
    pub fn budget(mut self, budget: impl Into<Option<BudgetSettings>>) -> Self {
        self.budget = budget.into();
        self
    }

    /// Seeds the jitter, for reproducible tests and simulations.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Shortens the deadline to this one.
    pub(crate) fn within(mut self, deadline: Option<Duration>) -> Self {
        let both = self.deadline.into_iter().chain(deadline);
        self.deadline = both.min();
        self
    }

    /// Makes a layer for requests that are `Clone`, each of them safe to repeat. The layer's own
    /// methods change that, and what counts as a failure.
    ///
    /// # Errors
    /// When the per-try timeout or the deadline is zero, or a setting of the budget is out of its
    /// range.
    pub fn build(&self) -> Result<RetryLayer, ConfigError> {
        let above_zero = Duration::from_nanos(1)..;
        if let Some(timeout) = self.try_timeout {
            check_range("retry.try_timeout", timeout, above_zero.clone())?;
        }
        if let Some(deadline) = self.deadline {
            check_range("retry.deadline", deadline, above_zero)?;
        }
        let rules = Rules {
            delay: self.delay,
            max_attempts: self.max_attempts,
            try_timeout: self.try_timeout,
            deadline: self.deadline,
            max_pushback: self.max_pushback,
            unsent: classify::is_unsent,
            needs_time: self.budget.is_some()
                || self.try_timeout.is_some()
                || self.deadline.is_some(),
        };
        let budget = match self.budget {
            Some(budget) => Some(budget.build()?),
            None => None,
        };
        let shared =
            (rules.needs_time || self.seed.is_some()).then(|| RetryShared::new(budget, self.seed));
        Ok(RetryLayer::new(RetryParts {
            reissue: Cloned,
            classify: Answers,
            terms: Terms { rules, shared },
        }))
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer with the default settings.
impl Default for RetryLayer {
    fn default() -> Self {
        RetrySettings::new()
            .build()
            .expect("the defaults are in range")
    }
}
