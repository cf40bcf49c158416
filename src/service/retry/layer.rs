//! The settings of retries.

use std::{
    error::Error,
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::time::Instant;
use tower::Layer;

#[cfg(feature = "http")]
use super::Replay;
use super::{Cloned, Retry, RetryBudget};
use crate::{
    backoff::{Backoff, after},
    classify::{self, Answers},
    error::ConfigError,
    rng::small_rng,
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
#[derive(Debug)]
pub struct RetryLayer<R = Cloned, C = Answers> {
    shared: Arc<Shared<R, C>>,
}

/// The settings of a [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct RetryBuilder<R = Cloned, C = Answers> {
    shared: Shared<R, C>,
}

/// What all requests of a layer share.
#[derive(Clone)]
pub(super) struct Shared<R, C> {
    pub(super) reissue: R,
    pub(super) classify: C,
    pub(super) delay: Backoff,
    pub(super) max_attempts: NonZeroU32,
    pub(super) try_timeout: Option<Duration>,
    pub(super) deadline: Option<Duration>,
    pub(super) max_pushback: Duration,
    pub(super) unsent: fn(&(dyn Error + 'static)) -> bool,
    pub(super) budget: Option<RetryBudget>,
    /// Whether a request has to know when it came.
    pub(super) needs_time: bool,
    seed: Option<Arc<AtomicU64>>,
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
            shared: Shared {
                reissue,
                classify: Answers,
                delay: DELAY,
                max_attempts: ATTEMPTS,
                try_timeout: None,
                deadline: None,
                max_pushback: PUSHBACK,
                unsent: classify::is_unsent,
                budget: Some(RetryBudget::new()),
                needs_time: true,
                seed: None,
            },
        }
    }
}

impl<R, C> RetryBuilder<R, C> {
    /// Sets what is a failure; by default any error is, and no answer.
    pub fn classify<D>(self, classify: D) -> RetryBuilder<R, D> {
        let Shared {
            reissue,
            classify: _,
            delay,
            max_attempts,
            try_timeout,
            deadline,
            max_pushback,
            unsent,
            budget,
            needs_time,
            seed,
        } = self.shared;
        RetryBuilder {
            shared: Shared {
                reissue,
                classify,
                delay,
                max_attempts,
                try_timeout,
                deadline,
                max_pushback,
                unsent,
                budget,
                needs_time,
                seed,
            },
        }
    }

    /// Sets how long to wait before an attempt; by default from 25 ms, doubling to 60 s, with full
    /// jitter. The first attempt after one that was not sent waits for nothing.
    #[must_use]
    pub fn delay(mut self, delay: Backoff) -> Self {
        self.shared.delay = delay;
        self
    }

    /// Sets how often a request is sent at most, the first time included; 3 by default. One sends
    /// nothing again; many are pointless, for the budget ends before.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: NonZeroU32) -> Self {
        self.shared.max_attempts = max_attempts;
        self
    }

    /// Sets how long one attempt may take to the head of its answer; no limit by default. An attempt
    /// that takes longer is dropped and counts as failed; it was sent, so only an idempotent request
    /// is sent again. Below the usual latency it multiplies the load, up to the budget.
    #[must_use]
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.shared.try_timeout = Some(timeout);
        self
    }

    /// Sets how long after the request its last attempt may start; no limit by default. It bounds the
    /// waiting for a backoff and for the service, and cuts off no attempt: a timeout above does.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.shared.deadline = Some(deadline);
        self
    }

    /// Sets the longest time that a server may ask to wait; 60 s by default. An answer that asks for
    /// more is handed on.
    #[must_use]
    pub fn max_pushback(mut self, max_pushback: Duration) -> Self {
        self.shared.max_pushback = max_pushback;
        self
    }

    /// Sets which errors prove that a request was not sent, so that it may be sent again whatever it
    /// does. By default [`classify::is_unsent`].
    #[must_use]
    pub fn unsent(mut self, unsent: fn(&(dyn Error + 'static)) -> bool) -> Self {
        self.shared.unsent = unsent;
        self
    }

    /// Sets the budget, which may be that of other layers and of hedges; one of its own by default. The
    /// requests are deposited here.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.shared.budget = Some(budget);
        self
    }

    /// Lets every request be sent as often as `max_attempts` says. A service that fails altogether
    /// then gets that many times the load.
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.shared.budget = None;
        self
    }

    /// Makes the jitter repeat itself, for tests and simulations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.shared.seed = Some(Arc::new(AtomicU64::new(seed)));
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When the per-try timeout or the deadline is zero.
    pub fn build(mut self) -> Result<RetryLayer<R, C>, ConfigError> {
        let shared = &mut self.shared;
        for (field, value) in [
            ("retry: try_timeout", shared.try_timeout),
            ("retry: deadline", shared.deadline),
        ] {
            if value == Some(Duration::ZERO) {
                return Err(ConfigError::new(field, "zero must be above zero"));
            }
        }
        shared.needs_time =
            shared.budget.is_some() || shared.try_timeout.is_some() || shared.deadline.is_some();
        Ok(RetryLayer {
            shared: Arc::new(self.shared),
        })
    }
}

impl<R, C> Shared<R, C> {
    /// When no further attempt starts, for a request that came then.
    pub(super) fn deadline(&self, came: Option<Instant>) -> Option<Instant> {
        Some(after(came?, self.deadline?))
    }

    /// A generator for one delay. Each is new, because a request that is not retried should not carry
    /// one.
    pub(super) fn rng(&self) -> SmallRng {
        // Relaxed: the seeds only have to differ.
        small_rng(self.seed.as_ref().map(|seed| seed.fetch_add(1, Relaxed)))
    }
}

impl<S, R, C> Layer<S> for RetryLayer<R, C> {
    type Service = Retry<S, R, C>;

    fn layer(&self, service: S) -> Self::Service {
        Retry {
            service,
            shared: self.shared.clone(),
        }
    }
}

impl<R, C> Clone for RetryLayer<R, C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self {
            shared: Arc::new(Self::cloned().shared),
        }
    }
}

impl<R, C> fmt::Debug for Shared<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("delay", &self.delay)
            .field("max_attempts", &self.max_attempts)
            .field("try_timeout", &self.try_timeout)
            .field("deadline", &self.deadline)
            .field("max_pushback", &self.max_pushback)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
