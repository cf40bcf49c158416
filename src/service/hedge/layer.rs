//! The settings of hedging.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tower::Layer;

use super::{
    latency::Latencies,
    service::Hedge,
    shared::{Delay, Shared},
};
use crate::{
    alarm::Alarms,
    classify::Answers,
    error::ConfigError,
    service::retry::{Cloned, RetryBudget},
};
#[cfg(feature = "http")]
use crate::{
    classify::Http,
    service::retry::{Replay, ShareReplay},
};

/// As much as servers that finish abandoned work bear at 90 % of their capacity: the `near capacity`
/// scenario of `cargo bench --bench quality`.
const SHARE: f64 = 0.03;

/// All that the share pays for.
const PERCENTILE: f64 = 0.97;

/// In `near capacity`, 2.5 hedges too much at 95 % of the capacity, and 4 hardly more than 3 withholds
/// anywhere. Ten times the standard deviation above the median of log-normal latencies with σ 0.1, and 3.7
/// times with σ 0.3: what is that slow is no chance.
const TIMES_MEDIAN: f64 = 3.0;

/// A burst gets no more hedges than the requests of a second pay for.
const SHARE_OVER: Duration = Duration::from_secs(1);

/// One more, once, for a client with hardly any traffic. Two of each of 100 clients lift the p99 of `near
/// capacity` by a tenth at 95 %, where they are spent all at once.
const FEW: u32 = 1;

/// Three of them lie above the percentile. Fewer make it an accident; the share bounds what comes of it.
const MIN_SAMPLES: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// As Finagle.
const WINDOW: Duration = Duration::from_secs(15);

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
    times_median: f64,
    min_samples: NonZeroU32,
    window: Duration,
    max_extra: NonZeroU32,
    share: f64,
    budget: Option<RetryBudget>,
    shared: Option<RetryBudget>,
    enabled: bool,
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
            times_median: TIMES_MEDIAN,
            min_samples: MIN_SAMPLES,
            window: WINDOW,
            max_extra: NonZeroU32::MIN,
            share: SHARE,
            budget: None,
            shared: None,
            enabled: true,
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
            times_median,
            min_samples,
            window,
            max_extra,
            share,
            budget,
            shared,
            enabled,
        } = self;
        HedgeBuilder {
            reissue,
            classify,
            fixed,
            percentile,
            times_median,
            min_samples,
            window,
            max_extra,
            share,
            budget,
            shared,
            enabled,
        }
    }

    /// Whether anything is hedged; it is by default. `false` makes a layer that passes requests on, for
    /// where a setting decides.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Waits this long for an answer, whatever is usual. Zero sends two at once, while the share lasts.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.fixed = Some(delay);
        self
    }

    /// Sets the share of attempts that are answered before a second is sent, between 0 and 1; 0.97 by
    /// default, and at least 1 ms is waited. A share of 0.5 asks for a hedge beside half of all attempts,
    /// and gets what [`share`](Self::share) allows; 0.999 helps only against pauses.
    #[must_use]
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = percentile;
        self
    }

    /// Sets how many times the median of the last second an attempt takes at least before a second is
    /// sent, 1 to 1,000; 3 by default. 1 leaves the percentile alone to decide, also when all requests
    /// queue and a second attempt would only lengthen the queue; 100 hedges around what hangs.
    #[must_use]
    pub fn times_median(mut self, times: f64) -> Self {
        self.times_median = times;
        self
    }

    /// Sets how many answers must have been measured of late; 100 by default. Few hedge by accident;
    /// many leave a client with little traffic without hedges.
    #[must_use]
    pub fn min_samples(mut self, min_samples: NonZeroU32) -> Self {
        self.min_samples = min_samples;
        self
    }

    /// Sets how far back the percentile is measured, 1 s to 10 min; 15 s by default, of which an eighth
    /// of the weight is older. Short follows each change of the load; long goes on hedging by what was.
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

    /// Sets how many hedges there are at most for each attempt that may be repeated, 0 to 1; 0.03 by default,
    /// of the attempts of the last second, and one more that later attempts must earn back. 0 hedges once and never again;
    /// 1 lets a service that is slow get twice its load.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Replaces the share by a budget, in which each attempt is deposited: for a reserve that grows back
    /// with time, or a share over more than a second. Every client has its own reserve.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Draws on the budget of a retry above as well, which deposits the requests: it bounds hedges and
    /// retries together.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        self.shared = Some(budget);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When the percentile is not between 0 and 1, the medians not within 1 to 1,000, the share not within
    /// 0 to 1, or the window not within 1 s to 10 min.
    pub fn build(self) -> Result<HedgeLayer<R, C>, ConfigError> {
        // Also refuses NaN.
        if !(self.percentile > 0.0 && self.percentile < 1.0) {
            return Err(ConfigError::new(
                "hedge.percentile",
                format!("{} is not between 0.0 and 1.0", self.percentile),
            ));
        }
        if !(1.0..=1_000.0).contains(&self.times_median) {
            return Err(ConfigError::new(
                "hedge.times_median",
                format!("{} is not within 1.0 to 1000.0", self.times_median),
            ));
        }
        if !(0.0..=1.0).contains(&self.share) {
            return Err(ConfigError::new(
                "hedge.share",
                format!("{} is not within 0.0 to 1.0", self.share),
            ));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.window) {
            return Err(ConfigError::new(
                "hedge.window",
                format!("{:?} is not within 1 s to 600 s", self.window),
            ));
        }
        let share = || {
            let share = RetryBudget::builder().ratio(self.share).reserve(FEW);
            share.ttl(SHARE_OVER).finish()
        };
        let budget = self.budget.unwrap_or_else(share);
        Ok(HedgeLayer {
            shared: Arc::new(Shared {
                enabled: self.enabled,
                reissue: self.reissue,
                classify: self.classify,
                delay: match self.fixed {
                    Some(delay) => Delay::Fixed(delay),
                    None => Delay::Measured(Box::new(Latencies::new(
                        self.window,
                        self.percentile,
                        self.times_median,
                        self.min_samples.get(),
                    ))),
                },
                max_extra: self.max_extra,
                budget,
                shared: self.shared,
                alarms: Alarms::new(),
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
