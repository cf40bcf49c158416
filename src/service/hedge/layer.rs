//! The settings of hedging.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower::Layer;

use super::{Hedge, latency::Latencies};
use crate::{
    classify::Answers,
    error::ConfigError,
    service::retry::{Cloned, RetryBudget},
};
#[cfg(feature = "http")]
use crate::{
    classify::Http,
    service::retry::{Replay, ShareReplay},
};

/// Where *The Tail at Scale* draws the line: it costs 5 % and gets most of what there is to get.
const PERCENTILE: f64 = 0.95;

/// Five of them lie above the percentile: fewer make it an accident.
const MIN_SAMPLES: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// As Finagle, five slots of 3 s.
const WINDOW: Duration = Duration::from_secs(15);

/// Twice what the percentile asks for while the service is as usual.
const RATIO: f64 = 0.1;

/// Sends slow requests a second time.
///
/// # Examples
/// Alone, with a delay that is measured:
/// ```
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
/// use tower_roster::service::hedge::HedgeLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(HedgeLayer::cloned().build()?)
///     .service(tower::service_fn(|n: u32| async move { Ok::<_, BoxError>(n + 1) }));
/// assert_eq!(service.oneshot(1).await?, 2);
/// # Ok(())
/// # }
/// ```
///
/// Below a retry, with one budget for both and a fixed delay:
/// ```
/// use std::time::Duration;
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
/// use tower_roster::service::{
///     hedge::HedgeLayer,
///     retry::{RetryBudget, RetryLayer},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let budget = RetryBudget::new();
/// let hedge = HedgeLayer::cloned()
///     .delay(Duration::from_millis(40))
///     .shared_budget(budget.clone());
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::cloned().budget(budget).build()?)
///     .layer(hedge.build()?)
///     .service(tower::service_fn(|n: u32| async move { Ok::<_, BoxError>(n + 1) }));
/// assert_eq!(service.oneshot(1).await?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HedgeLayer<R = Cloned, C = Answers> {
    shared: Arc<Shared<R, C>>,
}

/// The settings of a [`HedgeLayer`].
#[derive(Clone, Debug)]
pub struct HedgeBuilder<R = Cloned, C = Answers> {
    reissue: R,
    classify: C,
    fixed: Option<Duration>,
    percentile: f64,
    min_samples: NonZeroU32,
    window: Duration,
    max_extra: NonZeroU32,
    budget: Option<RetryBudget>,
    deposits: bool,
}

/// What all requests of a layer share.
pub(super) struct Shared<R, C> {
    pub(super) reissue: R,
    pub(super) classify: C,
    pub(super) delay: Delay,
    pub(super) max_extra: NonZeroU32,
    pub(super) budget: RetryBudget,
    /// Whether requests are deposited here, or by whoever shares the budget.
    pub(super) deposits: bool,
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

impl HedgeLayer {
    /// Hedges requests that are `Clone`, and takes each as safe to repeat.
    pub fn cloned() -> HedgeBuilder {
        Self::reissue(Cloned)
    }

    /// Hedges HTTP requests of idempotent methods. Each attempt gets the body from
    /// [a copy of what passes](Replay).
    #[cfg(feature = "http")]
    pub fn http() -> HedgeBuilder<Replay, Http> {
        Self::reissue(Replay::new()).classify(Http)
    }

    /// Hedges HTTP requests that come from a retry above, whose copies of the body it shares.
    #[cfg(feature = "http")]
    pub fn http_below_retry() -> HedgeBuilder<ShareReplay, Http> {
        Self::reissue(ShareReplay::new()).classify(Http)
    }

    /// Hedges requests in a way of its own.
    pub fn reissue<R>(reissue: R) -> HedgeBuilder<R> {
        HedgeBuilder {
            reissue,
            classify: Answers,
            fixed: None,
            percentile: PERCENTILE,
            min_samples: MIN_SAMPLES,
            window: WINDOW,
            max_extra: NonZeroU32::MIN,
            budget: None,
            deposits: true,
        }
    }
}

impl<R, C> HedgeBuilder<R, C> {
    /// Sets what is a failure, so that it waits for the other attempt; by default any error is, and no
    /// answer. An answer about which the classifier says nothing yet has won.
    pub fn classify<D>(self, classify: D) -> HedgeBuilder<R, D> {
        let Self {
            reissue,
            classify: _,
            fixed,
            percentile,
            min_samples,
            window,
            max_extra,
            budget,
            deposits,
        } = self;
        HedgeBuilder {
            reissue,
            classify,
            fixed,
            percentile,
            min_samples,
            window,
            max_extra,
            budget,
            deposits,
        }
    }

    /// Waits this long for an answer, whatever is usual. Zero sends two at once, while the budget lasts.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.fixed = Some(delay);
        self
    }

    /// Sets the share of requests that are answered before a second is sent, between 0 and 1; 0.95 by
    /// default, and at least 1 ms is waited. A share of 0.5 sends half of all requests twice; 0.999 helps
    /// only against pauses.
    #[must_use]
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = percentile;
        self
    }

    /// Sets how many answers must have been measured of late; 100 by default. Few hedge by accident;
    /// many leave a client with little traffic without hedges.
    #[must_use]
    pub fn min_samples(mut self, min_samples: NonZeroU32) -> Self {
        self.min_samples = min_samples;
        self
    }

    /// Sets how far back is measured, 1 s to 10 min; 15 s by default. The percentile is computed anew
    /// every fifth of it. Short follows each change of the load; long goes on hedging by what was.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how many attempts may run beside the first; 1 by default. The second of them starts after
    /// two delays, and so on.
    #[must_use]
    pub fn max_extra(mut self, max_extra: NonZeroU32) -> Self {
        self.max_extra = max_extra;
        self
    }

    /// Sets the budget; by default one of its own of 10 % of the requests, and one a second.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self.deposits = true;
        self
    }

    /// Draws on the budget of a retry above, which deposits the requests.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self.deposits = false;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When the percentile is not between 0 and 1, or the window not within 1 s to 10 min.
    pub fn build(self) -> Result<HedgeLayer<R, C>, ConfigError> {
        // Also refuses NaN.
        if !(self.percentile > 0.0 && self.percentile < 1.0) {
            return Err(ConfigError::new(
                "hedge: percentile",
                format!("{} is not between 0.0 and 1.0", self.percentile),
            ));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.window) {
            return Err(ConfigError::new(
                "hedge: window",
                format!("{:?} is not within 1 s to 600 s", self.window),
            ));
        }
        let budget = match self.budget {
            Some(budget) => budget,
            None => {
                let own = RetryBudget::builder().ratio(RATIO).reserve_per_sec(1);
                own.build()?
            }
        };
        Ok(HedgeLayer {
            shared: Arc::new(Shared {
                reissue: self.reissue,
                classify: self.classify,
                delay: match self.fixed {
                    Some(delay) => Delay::Fixed(delay),
                    None => Delay::Measured(Box::new(Latencies::new(
                        self.window,
                        self.percentile,
                        self.min_samples.get(),
                    ))),
                },
                max_extra: self.max_extra,
                budget,
                deposits: self.deposits,
            }),
        })
    }
}

impl<S, R, C> Layer<S> for HedgeLayer<R, C> {
    type Service = Hedge<S, R, C>;

    fn layer(&self, service: S) -> Self::Service {
        Hedge {
            service,
            shared: self.shared.clone(),
        }
    }
}

impl<R, C> Clone for HedgeLayer<R, C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
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
