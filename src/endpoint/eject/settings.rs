//! When to eject, for how long, and how many at a time.

use std::time::Duration;

use crate::{backoff::Backoff, error::ConfigError};

/// Into how many buckets the window is divided: it covers between 90 % and 100 % of its span.
/// linkerd's number.
pub(super) const BUCKETS: u32 = 10;

/// Envoy's, Finagle's and linkerd's number. An endpoint of which one request in five fails sees five
/// in a row once in 3,900 requests; one of which half fail, once in 62.
const CONSECUTIVE: u32 = 5;

const RATIO: f64 = 0.5;

/// One client sees few requests: two a second to each endpoint reach this, where Envoy's 100 in 10 s
/// take ten. With 20, chance makes half of them fail on an endpoint that fails one in five once in
/// 380 windows; with 10 it would be one in 30.
const MIN_REQUESTS: u32 = 20;

const WINDOW: Duration = Duration::from_secs(10);

/// Beyond this, the counts of a window could overflow at rates that exist; it is also longer than
/// anybody should wait for a decision.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);

/// With latencies so scattered that p99 is ten times the median (a log-normal σ of 1), the mean of 20
/// logarithms has a standard error of 0.22: three times the median is five of those away.
const SLOW_FACTOR: f64 = 3.0;

/// A difference that few callers notice: not worth an endpoint. It also keeps another zone's extra
/// milliseconds from looking like a defect.
const SLOW_FLOOR: Duration = Duration::from_millis(50);

/// Below three, no majority says what is usual.
const MIN_PEERS: u32 = 3;

/// The first probe comes soon, because most failures are short (a restart, a pause), and costs one
/// request, which a retry sends elsewhere. Doubling makes the time out at most as long again as the
/// failure was.
const BASE_MS: u64 = 500;
const CAP_MS: u64 = 30_000;

/// Longer than a healthy endpoint takes, connecting included; short enough that an endpoint which
/// swallows requests is known as such soon.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Envoy's and Finagle's panic threshold: when more than half fails, the failure is hardly theirs,
/// and the rest could not carry the load.
const MAX_EJECTED: f64 = 0.5;

/// When an endpoint is ejected, for how long, and how many may be at a time.
///
/// The defaults are sized for one client, which sees a few requests a second to each endpoint, and not
/// for a proxy that sees them all.
///
/// # Examples
/// ```
/// use tower_roster::endpoint::eject::Ejection;
///
/// let settings = Ejection::new().build()?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
///
/// Quicker to eject, slower to come back, and never for being slow:
/// ```
/// use std::time::Duration;
/// use tower_roster::endpoint::eject::Ejection;
///
/// let settings = Ejection::new()
///     .consecutive_failures(3)
///     .failure_ratio(0.2)
///     .slow_factor(None)
///     .time(Duration::from_secs(5), Duration::from_secs(60))
///     .max_ejected(0.3)
///     .build()?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ejection {
    consecutive: Option<u32>,
    ratio: Option<f64>,
    min_requests: u32,
    window: Duration,
    slow_factor: Option<f64>,
    slow_floor: Duration,
    min_peers: u32,
    base: Duration,
    cap: Duration,
    probe_timeout: Duration,
    max_ejected: f64,
    last: bool,
}

impl Ejection {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            consecutive: Some(CONSECUTIVE),
            ratio: Some(RATIO),
            min_requests: MIN_REQUESTS,
            window: WINDOW,
            slow_factor: Some(SLOW_FACTOR),
            slow_floor: SLOW_FLOOR,
            min_peers: MIN_PEERS,
            base: Duration::from_millis(BASE_MS),
            cap: Duration::from_millis(CAP_MS),
            probe_timeout: PROBE_TIMEOUT,
            max_ejected: MAX_EJECTED,
            last: false,
        }
    }

    /// Ejects after so many failures in a row, at least 1; 5 by default, `None` for never. Requests
    /// refused for overload neither count nor end the row. With 1, each failure ejects.
    #[must_use]
    pub fn consecutive_failures(mut self, n: impl Into<Option<u32>>) -> Self {
        self.consecutive = n.into();
        self
    }

    /// Ejects when this share of the requests in the window failed or was refused for overload,
    /// above 0 and up to 1; 0.5 by default, `None` for never.
    #[must_use]
    pub fn failure_ratio(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.ratio = ratio.into();
        self
    }

    /// Sets the least number of requests in the window that prove anything, for the failure ratio and
    /// for latency; 20 by default, at least 1. Few makes chance eject; many takes long to notice,
    /// and for ever where there are fewer requests.
    #[must_use]
    pub fn min_requests(mut self, n: u32) -> Self {
        self.min_requests = n;
        self
    }

    /// Sets how far back requests count; 10 s by default, from 100 ms to 5 min. It slides in tenths.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Ejects an endpoint whose answers take more than so many times as long as those of the endpoint in
    /// the middle, above 1; 3 by default, `None` for never. What endpoints take is the geometric
    /// mean over the window, so that one stray answer does not eject.
    #[must_use]
    pub fn slow_factor(mut self, factor: impl Into<Option<f64>>) -> Self {
        self.slow_factor = factor.into();
        self
    }

    /// Sets the latency up to which nobody is slow; 50 ms by default. Zero leaves it to the factor.
    #[must_use]
    pub fn slow_floor(mut self, floor: Duration) -> Self {
        self.slow_floor = floor;
        self
    }

    /// Sets how many endpoints, itself included, must be measured before one of them can be slow; 3
    /// by default, which is also the least that has a majority.
    #[must_use]
    pub fn min_peers(mut self, n: u32) -> Self {
        self.min_peers = n;
        self
    }

    /// Sets how long an endpoint is ejected before it is probed: `base` the first time, twice as long
    /// each further time up to `cap`, each ± 20 %; from 500 ms to 30 s by default. Ten seconds of
    /// health take one doubling back. `base` must be above zero and at most `cap`.
    #[must_use]
    pub fn time(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// Sets how long a probe may take, above zero; 1 s by default. A probe found waiting at two ends
    /// of such a time counts as failed, so short keeps slow but healthy endpoints out, and long keeps
    /// one that swallows requests on trial.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// Sets the share of the endpoints that may be ejected at a time, from 0 to 1; 0.5 by default.
    /// Rounded down, but at least one; 0 ejects none. The last endpoint stays even with 1. It is a share
    /// of those that have a weight: who is drained by weight 0 is no loss. Where all weights are 0, it is
    /// of all.
    #[must_use]
    pub fn max_ejected(mut self, share: f64) -> Self {
        self.max_ejected = share;
        self
    }

    /// Whether the last endpoint may be ejected too, so that requests fail at once instead of at an
    /// endpoint that fails them; not by default. A balancer with this on sends nothing to ejected endpoints,
    /// unless its [`Topology::panic`](crate::balance::topology::Topology::panic) is set to.
    #[must_use]
    pub fn eject_last(mut self, last: bool) -> Self {
        self.last = last;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When one is out of its range.
    pub fn build(self) -> Result<EjectionSettings, ConfigError> {
        let positive = |field: &str, n: u32| match n {
            0 => Err(ConfigError::new(field, "0 must be at least 1")),
            n => Ok(n),
        };
        let consecutive = match self.consecutive {
            Some(n) => u64::from(positive("consecutive_failures", n)?),
            None => u64::MAX,
        };
        let ratio = self.ratio.unwrap_or(f64::INFINITY);
        // Both comparisons are false for NaN.
        if self.ratio.is_some() && !(ratio > 0.0 && ratio <= 1.0) {
            return Err(ConfigError::new(
                "failure_ratio",
                format!("{ratio} must be above 0 and at most 1"),
            ));
        }
        let min_requests = positive("min_requests", self.min_requests)?;
        if self.window < Duration::from_millis(100) || self.window > LONGEST_WINDOW {
            return Err(ConfigError::new(
                "window",
                format!("{:?} must be from 100 ms to 5 min", self.window),
            ));
        }
        if let Some(factor) = self.slow_factor {
            if !(factor > 1.0 && factor.is_finite()) {
                return Err(ConfigError::new(
                    "slow_factor",
                    format!("{factor} must be above 1 and finite"),
                ));
            }
        }
        if self.min_peers < 3 {
            return Err(ConfigError::new(
                "min_peers",
                format!("{} must be at least 3", self.min_peers),
            ));
        }
        let time = Backoff::new(self.base, self.cap).map_err(|_| {
            let text = "must be above zero and at most the cap";
            ConfigError::new(
                "time",
                format!("base {:?} {text}, {:?}", self.base, self.cap),
            )
        })?;
        if self.probe_timeout.is_zero() {
            return Err(ConfigError::new("probe_timeout", "0 s must be above zero"));
        }
        if !(0.0..=1.0).contains(&self.max_ejected) {
            return Err(ConfigError::new(
                "max_ejected",
                format!("{} must be from 0 to 1", self.max_ejected),
            ));
        }
        Ok(EjectionSettings {
            consecutive,
            ratio,
            min_requests: min_requests.into(),
            window: self.window,
            slow_factor: self.slow_factor,
            slow_floor: self.slow_floor,
            min_peers: self.min_peers as usize,
            time,
            probe_timeout: self.probe_timeout,
            max_ejected: self.max_ejected,
            last: self.last,
        })
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self::new()
    }
}

/// Settings of ejection that were checked; made by [`Ejection::build`].
#[derive(Clone, Debug)]
pub struct EjectionSettings {
    /// More than ever fail when it is off.
    pub(super) consecutive: u64,
    /// Infinite when it is off.
    pub(super) ratio: f64,
    pub(super) min_requests: u64,
    pub(super) window: Duration,
    pub(super) slow_factor: Option<f64>,
    pub(super) slow_floor: Duration,
    pub(super) min_peers: usize,
    pub(super) time: Backoff,
    pub(super) probe_timeout: Duration,
    max_ejected: f64,
    last: bool,
}

impl EjectionSettings {
    /// How many of `n` endpoints may be out at a time.
    pub fn allowed(&self, n: usize) -> usize {
        // So that 0.3 of ten is three, whatever the binary fraction is.
        let share = (n as f64 * self.max_ejected + 1e-9) as usize;
        let share = if self.max_ejected > 0.0 {
            share.max(1)
        } else {
            0
        };
        let most = if self.last { n } else { n.saturating_sub(1) };
        share.min(most)
    }

    /// Whether the last endpoint may be ejected, too.
    pub fn ejects_last(&self) -> bool {
        self.last
    }

    /// Whether it looks at latencies.
    pub fn is_timed(&self) -> bool {
        self.slow_factor.is_some()
    }

    /// How often the window moves on.
    pub(super) fn bucket(&self) -> Duration {
        self.window / BUCKETS
    }
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Ejection::new().build().expect("the defaults are in range")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let sec = Duration::from_secs(1);
        let new = Ejection::new;
        for (settings, field) in [
            (new().consecutive_failures(0), "consecutive_failures"),
            (new().failure_ratio(0.0), "failure_ratio"),
            (new().failure_ratio(1.01), "failure_ratio"),
            (new().failure_ratio(f64::NAN), "failure_ratio"),
            (new().failure_ratio(f64::INFINITY), "failure_ratio"),
            (new().min_requests(0), "min_requests"),
            (new().window(Duration::ZERO), "window"),
            (new().window(Duration::MAX), "window"),
            (new().slow_factor(1.0), "slow_factor"),
            (new().slow_factor(f64::NAN), "slow_factor"),
            (new().slow_factor(f64::INFINITY), "slow_factor"),
            (new().min_peers(2), "min_peers"),
            (new().time(Duration::ZERO, sec), "time"),
            (new().time(sec * 2, sec), "time"),
            (new().probe_timeout(Duration::ZERO), "probe_timeout"),
            (new().max_ejected(-0.1), "max_ejected"),
            (new().max_ejected(1.1), "max_ejected"),
            (new().max_ejected(f64::NAN), "max_ejected"),
        ] {
            let error = settings.build().unwrap_err();
            assert_eq!(error.field(), field, "{error}");
        }
    }

    #[test]
    fn rules_can_be_switched_off_and_times_may_be_for_ever() {
        let never = Ejection::new()
            .consecutive_failures(None)
            .failure_ratio(None)
            .slow_factor(None)
            .time(Duration::MAX, Duration::MAX)
            .probe_timeout(Duration::MAX);
        assert!(never.build().is_ok());
    }

    #[test]
    fn one_may_go_from_a_small_set_and_the_last_stays() {
        let allowed = |share: f64, last| {
            let settings = Ejection::new().max_ejected(share).eject_last(last);
            let settings = settings.build().unwrap();
            [0, 1, 2, 3, 4, 5, 10].map(|n| settings.allowed(n))
        };
        assert_eq!(allowed(0.5, false), [0, 0, 1, 1, 2, 2, 5]);
        assert_eq!(allowed(0.1, false), [0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(allowed(0.3, false), [0, 0, 1, 1, 1, 1, 3]);
        assert_eq!(allowed(1.0, false), [0, 0, 1, 2, 3, 4, 9]);
        assert_eq!(allowed(1.0, true), [0, 1, 2, 3, 4, 5, 10]);
        assert_eq!(allowed(0.5, true), [0, 1, 1, 1, 2, 2, 5]);
        assert_eq!(allowed(0.0, true), [0; 7]);
    }
}
