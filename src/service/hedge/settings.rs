//! The settings of hedging.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::{
    latency::Latencies,
    layer::HedgeLayer,
    shared::{Delay, HedgeShared},
};
use crate::{
    alarm::Alarms,
    classify::Answers,
    error::{ConfigError, check_range},
    service::retry::{BudgetSettings, Cloned},
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

/// As in Finagle.
const WINDOW: Duration = Duration::from_secs(15);

/// The settings of a [`HedgeLayer`]. Each [`build`](Self::build) makes a new layer with a share of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct HedgeSettings {
    delay: Option<Duration>,
    percentile: f64,
    times_median: f64,
    window: Duration,
    max_extra: NonZeroU32,
    share: f64,
    enabled: bool,
}

impl HedgeSettings {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            delay: None,
            percentile: PERCENTILE,
            times_median: TIMES_MEDIAN,
            window: WINDOW,
            max_extra: NonZeroU32::MIN,
            share: SHARE,
            enabled: true,
        }
    }

    /// Sets whether requests are hedged; they are by default. With `false` the layer only passes
    /// requests on, for use when a configuration decides.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets a fixed delay before a hedge, instead of the measured one. Zero sends two attempts at
    /// once, while the share lasts.
    pub fn delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.delay = delay.into();
        self
    }

    /// Sets the share of attempts that finish before a hedge would be sent, between 0 and 1; 0.97
    /// by default. The delay is at least 1 ms. 0.5 requests a hedge for half of all attempts, and
    /// [`share`](Self::share) limits them; 0.999 helps only against pauses.
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = percentile;
        self
    }

    /// Sets the least delay as a multiple of the median of the last second, 1 to 1,000; 3 by
    /// default. With 1 only the percentile decides, and hedges are also sent when all requests
    /// queue, where they only lengthen the queue. With 100 only attempts that hang are hedged.
    pub fn times_median(mut self, times: f64) -> Self {
        self.times_median = times;
        self
    }

    /// Sets how far back the percentile is measured, 1 s to 10 min; 15 s by default. Older samples
    /// keep an eighth of the weight. A short window follows each change of the load; a long one
    /// adapts slowly.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how many attempts may run beside the first; 1 by default. A second one starts after two
    /// delays, and so on.
    pub fn max_extra(mut self, max_extra: NonZeroU32) -> Self {
        self.max_extra = max_extra;
        self
    }

    /// Sets how many hedges are sent at most for each attempt that may be repeated, 0 to 1, counted
    /// over the attempts of the last second; 0.03 by default. One more hedge is in reserve, which
    /// only unused deposits refill. 0 allows only that one hedge; 1 allows twice the load on a slow
    /// service.
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Makes a layer for requests that are `Clone`, each of them safe to repeat. The layer's own
    /// methods change that, and what counts as a failure.
    ///
    /// # Errors
    /// When a setting is outside of the range that its method states.
    pub fn build(&self) -> Result<HedgeLayer, ConfigError> {
        // The ends are excluded.
        let shares = f64::MIN_POSITIVE..=1.0 - f64::EPSILON;
        check_range("hedge.percentile", self.percentile, shares)?;
        check_range("hedge.times_median", self.times_median, 1.0..=1_000.0)?;
        check_range("hedge.share", self.share, 0.0..=1.0)?;
        let windows = Duration::from_secs(1)..=Duration::from_secs(600);
        check_range("hedge.window", self.window, windows)?;
        let share = BudgetSettings::new().ratio(self.share).reserve(FEW);
        Ok(HedgeLayer::new(HedgeShared {
            enabled: self.enabled,
            reissue: Cloned,
            classify: Answers,
            delay: match self.delay {
                Some(delay) => Delay::Fixed(delay),
                None => Delay::Measured(Arc::new(Latencies::new(
                    self.window,
                    self.percentile,
                    self.times_median,
                ))),
            },
            max_extra: self.max_extra,
            budget: share.ttl(SHARE_OVER).build()?,
            shared: None,
            alarms: Alarms::new(),
        }))
    }
}

impl Default for HedgeSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer with the default settings.
impl Default for HedgeLayer {
    fn default() -> Self {
        HedgeSettings::new()
            .build()
            .expect("the defaults are in range")
    }
}
