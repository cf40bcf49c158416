//! The settings of retries.

use std::{
    error::Error,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tower::Layer;

#[cfg(feature = "http")]
use super::Replay;
use super::{
    budget::{RetryBudget, SlotEnd},
    reissue::Cloned,
    service::Retry,
    terms::{Rules, Settings, Shared, Terms},
};
use crate::{
    alarm::Alarms,
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

/// Retries failed requests.
///
/// # Examples
/// Any request that is `Clone`, up to three attempts; every error is a failure:
/// ```
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
/// use tower_roster::service::retry::RetryLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::cloned().build()?)
///     .service(tower::service_fn(|request: &'static str| async move {
///         Ok::<_, BoxError>(format!("{request}, world"))
///     }));
/// assert_eq!(service.oneshot("hello").await?, "hello, world");
/// # Ok(())
/// # }
/// ```
///
/// HTTP requests, with a limit for each attempt and one for all of them:
/// ```
/// # #[cfg(feature = "http")]
/// # fn main() -> Result<(), tower_roster::ConfigError> {
/// use std::{num::NonZeroU32, time::Duration};
/// use tower_roster::{
///     Backoff,
///     backoff::Jitter,
///     service::retry::{RetryBudget, RetryLayer},
/// };
///
/// let budget = RetryBudget::builder().ratio(0.1).build()?;
/// let backoff = Backoff::exponential(Duration::from_millis(10))?;
/// let layer = RetryLayer::http()
///     .delay(backoff.jitter(Jitter::Decorrelated))
///     .max_attempts(NonZeroU32::new(4).unwrap())
///     .try_timeout(Duration::from_secs(1))
///     .deadline(Duration::from_secs(3))
///     .budget(budget.clone())
///     .build()?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "http"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer<R = Cloned, C = Answers> {
    pub(super) settings: Settings<R, C>,
}

/// The settings of a [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct RetryBuilder<R = Cloned, C = Answers> {
    reissue: R,
    classify: C,
    rules: Rules,
    budget: Option<RetryBudget>,
    seed: Option<u64>,
    /// Whether requests may have deadlines of their own.
    deadlines: bool,
}

impl RetryLayer {
    /// Retries requests that are `Clone`, and treats each as safe to repeat.
    pub fn cloned() -> RetryBuilder {
        let mut builder = Self::reissue(Cloned);
        builder.deadlines = false;
        builder
    }

    /// Retries HTTP requests with an idempotent method and a body of up to 64 KiB, and any request
    /// that was certainly not sent. [`Http`](classify::Http) judges the responses. The inner
    /// service gets `http::Request<ReplayBody<B>>`.
    #[cfg(feature = "http")]
    pub fn http() -> RetryBuilder<Replay, classify::Http> {
        Self::reissue(Replay::new()).classify(classify::Http)
    }

    /// Retries requests as a [`Reissue`](super::Reissue) decides.
    pub fn reissue<R>(reissue: R) -> RetryBuilder<R> {
        RetryBuilder {
            reissue,
            classify: Answers,
            rules: Rules {
                delay: DELAY,
                max_attempts: ATTEMPTS,
                try_timeout: None,
                deadline: None,
                max_pushback: PUSHBACK,
                unsent: classify::is_unsent,
                needs_time: true,
            },
            budget: Some(RetryBudget::new()),
            seed: None,
            deadlines: true,
        }
    }
}

impl<R, C> RetryBuilder<R, C> {
    /// Sets what counts as a failure; by default every error does, and no response does.
    pub fn classify<D>(self, classify: D) -> RetryBuilder<R, D> {
        RetryBuilder {
            reissue: self.reissue,
            classify,
            rules: self.rules,
            budget: self.budget,
            seed: self.seed,
            deadlines: self.deadlines,
        }
    }

    /// Sets the delay before an attempt; by default from 25 ms, doubling to 60 s, with full jitter.
    /// When the first attempt was not sent, the second starts at once.
    #[must_use]
    pub fn delay(mut self, delay: Backoff) -> Self {
        self.rules.delay = delay;
        self
    }

    /// Sets how often a request is sent at most, the first attempt included; 3 by default. One
    /// disables retries; a high number has little effect, because the budget is empty before.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: NonZeroU32) -> Self {
        self.rules.max_attempts = max_attempts;
        self
    }

    /// Sets how long one attempt may take until the head of its response; no limit by default. An
    /// attempt that takes longer is dropped and counts as failed. It was sent, so only an
    /// idempotent request is retried. A limit below the usual latency multiplies the load, up to
    /// the budget.
    #[must_use]
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.rules.try_timeout = Some(timeout);
        self
    }

    /// Sets how long a request may take until the head of its response, with all its attempts; no
    /// limit by default. An attempt that still runs then is dropped, and the error is tower's
    /// [`Elapsed`](tower::timeout::error::Elapsed), so a `Timeout` above is not needed. An attempt
    /// that would start later is not waited for. The deadline is a limit of the caller and is not
    /// counted against the endpoint; a per-try timeout is. If a request has a
    /// [`Deadline`](crate::Deadline) of its own, the earlier of the two counts.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.rules.deadline = Some(deadline);
        self
    }

    /// Sets the longest delay that a server may request; 60 s by default. A response that requests
    /// more is returned to the caller.
    #[must_use]
    pub fn max_pushback(mut self, max_pushback: Duration) -> Self {
        self.rules.max_pushback = max_pushback;
        self
    }

    /// Sets which errors prove that a request was not sent, so that it is retried even if it is not
    /// idempotent. By default [`classify::is_unsent`].
    #[must_use]
    pub fn unsent(mut self, unsent: fn(&(dyn Error + 'static)) -> bool) -> Self {
        self.rules.unsent = unsent;
        self
    }

    /// Sets the budget, which may be shared with other layers and with hedges; a budget of its own
    /// by default. This layer makes the deposits.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Removes the budget: every request may be sent as often as `max_attempts` allows. A service
    /// that fails entirely then gets that many times the load.
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.budget = None;
        self
    }

    /// Seeds the jitter, for reproducible tests and simulations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When the per-try timeout or the deadline is zero.
    pub fn build(self) -> Result<RetryLayer<R, C>, ConfigError> {
        for (field, value) in [
            ("retry.try_timeout", self.rules.try_timeout),
            ("retry.deadline", self.rules.deadline),
        ] {
            if let Some(value) = value {
                check_range(field, value, Duration::from_nanos(1)..)?;
            }
        }
        Ok(self.make())
    }

    fn make(mut self) -> RetryLayer<R, C> {
        let rules = &mut self.rules;
        rules.needs_time = self.budget.is_some() || rules.is_limited();
        let shares = rules.needs_time || self.seed.is_some() || self.deadlines;
        let shared = shares.then(|| {
            Arc::new(Shared {
                budget: self.budget,
                seed: self.seed.map(AtomicU64::new),
                alarms: Alarms::new(),
            })
        });
        RetryLayer {
            settings: Settings {
                reissue: self.reissue,
                classify: self.classify,
                terms: Terms {
                    rules: self.rules,
                    shared,
                },
            },
        }
    }
}

impl<S, R: Clone, C: Clone> Layer<S> for RetryLayer<R, C> {
    type Service = Retry<S, R, C>;

    fn layer(&self, service: S) -> Self::Service {
        Retry {
            service,
            settings: self.settings.clone(),
            slot: SlotEnd::default(),
        }
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::cloned().make()
    }
}
