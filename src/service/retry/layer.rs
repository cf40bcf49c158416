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
    error::ConfigError,
};

/// Envoy's base: above the time to any server nearby, and below what a caller notices.
const DELAY: Backoff = Backoff::known(25, 60_000);

/// gRPC's and Envoy's examples agree: a third endpoint that fails too is seldom an accident.
const ATTEMPTS: NonZeroU32 = NonZeroU32::new(3).expect("not zero");

/// The cap of the backoff: a caller that would wait longer asks again itself.
const PUSHBACK: Duration = Duration::from_secs(60);

/// Sends requests again that failed.
///
/// # Examples
/// Any request that is `Clone`, up to three attempts, any error being a failure:
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
/// HTTP requests, with a time for each attempt and for all of them:
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
}

impl RetryLayer {
    /// Retries requests that are `Clone`, and takes each as safe to repeat.
    pub fn cloned() -> RetryBuilder {
        Self::reissue(Cloned)
    }

    /// Retries HTTP requests: those of idempotent methods, with bodies of up to 64 KiB, and any that
    /// was certainly not sent. [`Http`](classify::Http) judges their answers. The inner service gets
    /// `http::Request<ReplayBody<B>>`.
    #[cfg(feature = "http")]
    pub fn http() -> RetryBuilder<Replay, classify::Http> {
        Self::reissue(Replay::new()).classify(classify::Http)
    }

    /// Retries requests in a way of its own.
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
        }
    }
}

impl<R, C> RetryBuilder<R, C> {
    /// Sets what is a failure; by default any error is, and no answer.
    pub fn classify<D>(self, classify: D) -> RetryBuilder<R, D> {
        RetryBuilder {
            reissue: self.reissue,
            classify,
            rules: self.rules,
            budget: self.budget,
            seed: self.seed,
        }
    }

    /// Sets how long to wait before an attempt; by default from 25 ms, doubling to 60 s, with full
    /// jitter. The first attempt after one that was not sent waits for nothing.
    #[must_use]
    pub fn delay(mut self, delay: Backoff) -> Self {
        self.rules.delay = delay;
        self
    }

    /// Sets how often a request is sent at most, the first time included; 3 by default. One sends
    /// nothing again; many are pointless, for the budget ends before.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: NonZeroU32) -> Self {
        self.rules.max_attempts = max_attempts;
        self
    }

    /// Sets how long one attempt may take to the head of its answer; no limit by default. An attempt
    /// that takes longer is dropped and counts as failed; it was sent, so only an idempotent request
    /// is sent again. Below the usual latency it multiplies the load, up to the budget.
    #[must_use]
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.rules.try_timeout = Some(timeout);
        self
    }

    /// Sets how long a request may take to the head of its answer, with all its attempts; no limit by
    /// default. What runs then is dropped, and the error is tower's
    /// [`Elapsed`](tower::timeout::error::Elapsed): a `Timeout` above has nothing to add. An attempt that
    /// would start later is not waited for. It is the caller's patience, so it says nothing about the
    /// endpoint; a per-try timeout does.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.rules.deadline = Some(deadline);
        self
    }

    /// Sets the longest time that a server may ask to wait; 60 s by default. An answer that asks for
    /// more is handed on.
    #[must_use]
    pub fn max_pushback(mut self, max_pushback: Duration) -> Self {
        self.rules.max_pushback = max_pushback;
        self
    }

    /// Sets which errors prove that a request was not sent, so that it may be sent again whatever it
    /// does. By default [`classify::is_unsent`].
    #[must_use]
    pub fn unsent(mut self, unsent: fn(&(dyn Error + 'static)) -> bool) -> Self {
        self.rules.unsent = unsent;
        self
    }

    /// Sets the budget, which may be that of other layers and of hedges; one of its own by default. The
    /// requests are deposited here.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Lets every request be sent as often as `max_attempts` says. A service that fails altogether
    /// then gets that many times the load.
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.budget = None;
        self
    }

    /// Makes the jitter repeat itself, for tests and simulations.
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
            if value == Some(Duration::ZERO) {
                return Err(ConfigError::new(field, "zero must be above zero"));
            }
        }
        Ok(self.make())
    }

    fn make(mut self) -> RetryLayer<R, C> {
        let rules = &mut self.rules;
        rules.needs_time = self.budget.is_some() || rules.is_limited();
        let shares = rules.needs_time || self.seed.is_some();
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
