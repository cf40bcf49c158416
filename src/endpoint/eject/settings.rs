//! When to eject, for how long, and how many at a time.

use std::{ops::Bound, time::Duration};

use crate::{
    backoff::doubled,
    error::{ConfigError, check_range, check_share},
};

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

/// Beyond this, the counts of a window could overflow at real rates of requests, and a decision would come
/// too late.
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
const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(30);

/// Longer than a healthy endpoint takes, connecting included; short enough that an endpoint which never
/// answers is soon known as such.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Envoy's and Finagle's panic threshold: when more than half of the endpoints fail, the cause is hardly
/// theirs, and the rest could not carry the load.
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
/// # fn main() -> Result<(), tower_roster::ConfigError> {
/// use tower_roster::balance::BalanceLayer;
///
/// let layer = BalanceLayer::builder().ejection(Ejection::new()).build()?;
/// # Ok(())
/// # }
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
///     .max_ejected(0.3);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct Ejection {
    pub(super) consecutive: Option<u32>,
    pub(super) ratio: Option<f64>,
    pub(super) min_requests: u32,
    pub(super) window: Duration,
    pub(super) slow_factor: Option<f64>,
    pub(super) slow_floor: Duration,
    pub(super) min_peers: u32,
    /// The first time, and the longest.
    time: (Duration, Duration),
    pub(super) probe_timeout: Duration,
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
            time: (BASE, CAP),
            probe_timeout: PROBE_TIMEOUT,
            max_ejected: MAX_EJECTED,
            last: false,
        }
    }

    /// Ejects after so many failures in a row, at least 1; 5 by default, `None` for never. Requests
    /// refused for overload neither count nor end the row. With 1, each failure ejects.
    pub fn consecutive_failures(mut self, n: impl Into<Option<u32>>) -> Self {
        self.consecutive = n.into();
        self
    }

    /// Ejects when this share of the requests in the window failed or was refused for overload,
    /// above 0 and up to 1; 0.5 by default, `None` for never.
    pub fn failure_ratio(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.ratio = ratio.into();
        self
    }

    /// Sets the least number of requests in the window that prove anything, for the failure ratio and
    /// for latency; 20 by default, at least 1. With few, chance ejects; with many, ejection comes late, or
    /// never where there are fewer requests.
    pub fn min_requests(mut self, n: u32) -> Self {
        self.min_requests = n;
        self
    }

    /// Sets how far back requests count; 10 s by default, from 100 ms to 5 min. It slides in tenths.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Ejects an endpoint whose answers take more than so many times as long as those of the endpoint in
    /// the middle, above 1; 3 by default, `None` for never. What endpoints take is the geometric
    /// mean over the window, so that one stray answer does not eject.
    pub fn slow_factor(mut self, factor: impl Into<Option<f64>>) -> Self {
        self.slow_factor = factor.into();
        self
    }

    /// Sets the latency up to which no endpoint is slow; 50 ms by default. Zero leaves it to the factor.
    pub fn slow_floor(mut self, floor: Duration) -> Self {
        self.slow_floor = floor;
        self
    }

    /// Sets how many endpoints, itself included, must be measured before one of them can be slow; 3
    /// by default, which is also the least that has a majority.
    pub fn min_peers(mut self, n: u32) -> Self {
        self.min_peers = n;
        self
    }

    /// Sets how long an endpoint is ejected before it is probed: `base` the first time, twice as long
    /// each further time up to `cap`, each ± 20 %; from 500 ms to 30 s by default. Ten seconds of
    /// time without an ejection take one doubling back. `base` must be above zero and at most `cap`.
    pub fn time(mut self, base: Duration, cap: Duration) -> Self {
        self.time = (base, cap);
        self
    }

    /// Sets how long a probe may take, above zero; 1 s by default. A probe found waiting at two ends
    /// of such a time counts as failed, so short keeps slow but healthy endpoints out, and long keeps
    /// an endpoint that never answers on trial.
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// Sets the share of the endpoints that may be ejected at a time, from 0 to 1; 0.5 by default.
    /// Rounded down, but at least one; 0 ejects none. The last endpoint stays even with 1. It is a share
    /// of the endpoints that have a weight, as one with weight 0 gets no requests anyway. Where all weights
    /// are 0, it is a share of all.
    pub fn max_ejected(mut self, share: f64) -> Self {
        self.max_ejected = share;
        self
    }

    /// Whether the last endpoint may be ejected too, so that requests fail at once instead of at an
    /// endpoint that fails them; not by default. A balancer with this on sends nothing to ejected endpoints,
    /// unless its [`Topology::panic`](crate::balance::topology::Topology::panic) is set to.
    pub fn eject_last(mut self, last: bool) -> Self {
        self.last = last;
        self
    }

    /// # Errors
    /// When a setting is out of its range.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let consecutive = self.consecutive.unwrap_or(u32::MAX);
        check_range(
            "ejection.consecutive_failures",
            consecutive,
            1..,
            "at least 1",
        )?;
        if let Some(ratio) = self.ratio {
            check_share("ejection.failure_ratio", ratio)?;
        }
        check_range(
            "ejection.min_requests",
            self.min_requests,
            1..,
            "at least 1",
        )?;
        let range = Duration::from_millis(100)..=LONGEST_WINDOW;
        let accepted = "from 100 ms to 5 min";
        check_range("ejection.window", self.window, range, accepted)?;
        if let Some(factor) = self.slow_factor {
            let range = (Bound::Excluded(1.0), Bound::Excluded(f64::INFINITY));
            let accepted = "above 1 and finite";
            check_range("ejection.slow_factor", factor, range, accepted)?;
        }
        check_range("ejection.min_peers", self.min_peers, 3.., "at least 3")?;
        let (base, cap) = self.time;
        let accepted = "above zero and at most the cap";
        check_range(
            "ejection.time",
            base,
            Duration::from_nanos(1)..=cap,
            accepted,
        )?;
        let range = Duration::from_nanos(1)..;
        check_range(
            "ejection.probe_timeout",
            self.probe_timeout,
            range,
            "above zero",
        )?;
        let accepted = "from 0 to 1";
        check_range(
            "ejection.max_ejected",
            self.max_ejected,
            0.0..=1.0,
            accepted,
        )?;
        Ok(())
    }

    /// How many of `n` endpoints may be out at a time.
    pub(crate) fn allowed(&self, n: usize) -> usize {
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
    pub(crate) fn ejects_last(&self) -> bool {
        self.last
    }

    /// Whether it looks at latencies.
    pub(crate) fn is_timed(&self) -> bool {
        self.slow_factor.is_some()
    }

    /// How often the window moves on.
    pub(super) fn bucket(&self) -> Duration {
        self.window / BUCKETS
    }

    /// How long an endpoint is ejected for the `times`th time, before jitter.
    pub(super) fn time_out(&self, times: u32) -> Duration {
        doubled(self.time.0, self.time.1, times.saturating_sub(1))
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
