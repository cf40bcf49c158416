//! The settings of hedging.

use std::{num::NonZeroU32, ops::Bound, sync::Arc, time::Duration};

use tower::Layer;

use super::{
    latency::Latencies,
    service::Hedge,
    shared::{Delay, Shared},
};
use crate::{
    alarm::Alarms,
    classify::Answers,
    error::{ConfigError, check_range},
    service::retry::{Cloned, RetryBudget},
};
#[cfg(feature = "http")]
use crate::{
    classify::Http,
    service::retry::{Replay, ShareReplay},
};

/// The load that servers can bear at 90 % of their capacity if they finish cancelled work: the
/// `near capacity` scenario of `cargo bench --bench quality`.
const SHARE: f64 = 0.03;

/// The slowest 3 %, which is all that the share pays for.
const PERCENTILE: f64 = 0.97;

/// In `near capacity`, 2.5 sends too many hedges at 95 % of the capacity, and 4 sends few less than
/// 3 at any load. For log-normal latencies, three times the median is ten standard deviations above
/// the median with σ 0.1, and 3.7 with σ 0.3: an attempt that is so slow is not slow by chance.
const TIMES_MEDIAN: f64 = 3.0;

/// The time over which the share is counted: a burst gets at most the hedges that the requests of
/// one second pay for.
const SHARE_OVER: Duration = Duration::from_secs(1);

/// The reserve of hedges, so that a client with hardly any traffic can hedge once. In `near
/// capacity` at 95 %, a reserve of two for each of 100 clients raises the p99 by a tenth, because
/// the clients use it at the same time.
const FEW: u32 = 1;

/// Three of them lie above the percentile. With fewer, the percentile would depend on chance; the
/// share bounds the effect.
const MIN_SAMPLES: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// As in Finagle.
const WINDOW: Duration = Duration::from_secs(15);

/// Sends slow requests a second time.
///
/// # Examples
/// Alone, with a measured delay:
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
    /// Hedges requests that are `Clone`, and treats each as safe to repeat.
    pub fn cloned() -> HedgeBuilder {
        Self::reissue(Cloned)
    }

    /// Hedges HTTP requests with an idempotent method. Each attempt gets the body from [a shared
    /// copy](Replay).
    #[cfg(feature = "http")]
    pub fn http() -> HedgeBuilder<Replay, Http> {
        // A request that may not be repeated needs no copy here.
        Self::reissue(Replay::new().reclaiming()).classify(Http)
    }

    /// Hedges HTTP requests of a retry above, and shares its copies of the body.
    #[cfg(feature = "http")]
    pub fn http_below_retry() -> HedgeBuilder<ShareReplay, Http> {
        Self::reissue(ShareReplay::new()).classify(Http)
    }

    /// Hedges requests as a [`Reissue`](crate::service::retry::Reissue) decides.
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
    /// Sets what counts as a failure, which waits for the other attempt; by default every error
    /// does, and no response does. A response without a verdict wins.
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

    /// Sets whether requests are hedged; they are by default. With `false` the layer only passes
    /// requests on, for use when a configuration decides.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets a fixed delay before a hedge. Zero sends two attempts at once, while the share lasts.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.fixed = Some(delay);
        self
    }

    /// Sets the share of attempts that finish before a hedge would be sent, between 0 and 1; 0.97
    /// by default. The delay is at least 1 ms. 0.5 requests a hedge for half of all attempts, and
    /// [`share`](Self::share) limits them; 0.999 helps only against pauses.
    #[must_use]
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = percentile;
        self
    }

    /// Sets the least delay as a multiple of the median of the last second, 1 to 1,000; 3 by
    /// default. With 1 only the percentile decides, and hedges are also sent when all requests
    /// queue, where they only lengthen the queue. With 100 only attempts that hang are hedged.
    #[must_use]
    pub fn times_median(mut self, times: f64) -> Self {
        self.times_median = times;
        self
    }

    /// Sets how many recent samples are needed; 100 by default. A low number hedges by chance; a
    /// high one leaves a client with little traffic without hedges.
    #[must_use]
    pub fn min_samples(mut self, min_samples: NonZeroU32) -> Self {
        self.min_samples = min_samples;
        self
    }

    /// Sets how far back the percentile is measured, 1 s to 10 min; 15 s by default. Older samples
    /// keep an eighth of the weight. A short window follows each change of the load; a long one
    /// adapts slowly.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how many attempts may run beside the first; 1 by default. A second one starts after two
    /// delays, and so on.
    #[must_use]
    pub fn max_extra(mut self, max_extra: NonZeroU32) -> Self {
        self.max_extra = max_extra;
        self
    }

    /// Sets how many hedges are sent at most for each attempt that may be repeated, 0 to 1, counted
    /// over the attempts of the last second; 0.03 by default. One more hedge is in reserve, which
    /// only unused deposits refill. 0 allows only that one hedge; 1 allows twice the load on a slow
    /// service.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Replaces the share by a budget, into which each attempt deposits. Use it for a reserve that
    /// time refills, or for a share over more than a second. Every client has its own reserve.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Also draws on the budget of a retry above, which makes the deposits: it bounds hedges and
    /// retries together.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        self.shared = Some(budget);
        self
    }

    /// Makes the layer.
    ///
    /// When the percentile is not between 0 and 1, the multiple of the median not within 1 to
    /// 1,000, the share not within 0 to 1, or the window not within 1 s to 10 min.
    pub fn build(self) -> Result<HedgeLayer<R, C>, ConfigError> {
        let percentiles = (Bound::Excluded(0.0), Bound::Excluded(1.0));
        check_range("hedge.percentile", self.percentile, percentiles)?;
        check_range("hedge.times_median", self.times_median, 1.0..=1_000.0)?;
        check_range("hedge.share", self.share, 0.0..=1.0)?;
        let windows = Duration::from_secs(1)..=Duration::from_secs(600);
        check_range("hedge.window", self.window, windows)?;
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
