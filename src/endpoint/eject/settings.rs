//! Settings of ejection: when, for how long, and how many endpoints at a time.

use std::{ops::Bound, time::Duration};

use crate::{
    backoff::doubled,
    error::{ConfigError, check_range, check_share},
};

/// Number of buckets of the window. The window covers between 90 % and 100 % of its span. linkerd uses the
/// same number.
pub(super) const BUCKETS: u32 = 10;

/// The number of Envoy, Finagle and linkerd. An endpoint that fails one request in five has five failures
/// in a row once in 3,900 requests; one that fails half of its requests, once in 62.
const CONSECUTIVE: u32 = 5;

const RATIO: f64 = 0.5;

/// One client sees few requests: two per second to each endpoint reach this number, but Envoy's 100 in 10 s
/// need ten per second. With 20, an endpoint that fails one request in five reaches half by chance once in
/// 380 windows; with 10, once in 30.
const MIN_REQUESTS: u32 = 20;

const WINDOW: Duration = Duration::from_secs(10);

/// With a longer window its counts could overflow at real request rates, and a decision would come too
/// late.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);

/// With very scattered latencies, where p99 is ten times the median (a log-normal σ of 1), the mean of 20
/// logarithms has a standard error of 0.22. Three times the median is five of those away.
const SLOW_FACTOR: f64 = 3.0;

/// A difference that few callers notice, and that does not justify an ejection. It also prevents ejections
/// for the extra milliseconds of another zone.
const SLOW_FLOOR: Duration = Duration::from_millis(50);

/// Fewer than three endpoints have no majority that defines a usual latency.
const MIN_PEERS: u32 = 3;

/// The first probe comes soon, because most failures are short (a restart, a pause), and a probe costs only
/// one request, which a retry sends elsewhere. With doubling, the time out after the end of a failure is at
/// most the length of the failure.
const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(30);

/// Longer than a healthy endpoint takes, including the connection. Short enough to detect soon that an
/// endpoint never answers.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The panic threshold of Envoy and Finagle. When more than half of the endpoints fail, the cause is
/// probably not in them, and the rest could not carry the load.
const MAX_EJECTED: f64 = 0.5;

/// When an endpoint is ejected, for how long, and how many may be ejected at a time.
///
/// The defaults are for one client, which sees a few requests per second to each endpoint, and not for a
/// proxy that sees the requests of all clients.
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
/// Faster ejection, later restoration, and no ejection for slowness:
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
    /// The first time and the longest time.
    time: (Duration, Duration),
    pub(super) probe_timeout: Duration,
    max_ejected: f64,
    last: bool,
}

impl Ejection {
    /// The default settings.
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

    /// Ejects after this number of failures in a row, at least 1; 5 by default, `None` for never. Requests
    /// refused for overload neither count nor end the row. With 1 each failure ejects.
    pub fn consecutive_failures(mut self, n: impl Into<Option<u32>>) -> Self {
        self.consecutive = n.into();
        self
    }

    /// Ejects when this share of the requests in the window failed or was refused for overload, above 0 and
    /// up to 1; 0.5 by default, `None` for never.
    pub fn failure_ratio(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.ratio = ratio.into();
        self
    }

    /// Sets the least number of requests in the window for the failure ratio and for latency to count; 20
    /// by default, at least 1. With a small number chance ejects endpoints. With a large number ejection
    /// comes late, or never if there are fewer requests.
    pub fn min_requests(mut self, n: u32) -> Self {
        self.min_requests = n;
        self
    }

    /// Sets the length of the window of requests that count; 10 s by default, from 100 ms to 5 min. The
    /// window slides in tenths.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Ejects an endpoint whose latency is more than this factor times that of the endpoint in the middle,
    /// above 1; 3 by default, `None` for never. The latency of an endpoint is the geometric mean over the
    /// window, so that one slow response does not eject.
    pub fn slow_factor(mut self, factor: impl Into<Option<f64>>) -> Self {
        self.slow_factor = factor.into();
        self
    }

    /// Sets the latency up to which no endpoint is slow; 50 ms by default. With zero only the factor
    /// decides.
    pub fn slow_floor(mut self, floor: Duration) -> Self {
        self.slow_floor = floor;
        self
    }

    /// Sets how many endpoints, including itself, must be measured before one of them can be slow; 3 by
    /// default, which is the smallest number with a majority.
    pub fn min_peers(mut self, n: u32) -> Self {
        self.min_peers = n;
        self
    }

    /// Sets how long an endpoint is ejected before it is probed: `base` the first time, twice as long each
    /// further time up to `cap`, each ± 20 %; from 500 ms to 30 s by default. Ten seconds without an
    /// ejection take one doubling back. `base` must be above zero and at most `cap`.
    pub fn time(mut self, base: Duration, cap: Duration) -> Self {
        self.time = (base, cap);
        self
    }

    /// Sets how long a probe may take, above zero; 1 s by default. A probe that is still in progress at two
    /// successive deadlines counts as failed. So a short time keeps slow but healthy endpoints out, and a
    /// long time keeps an endpoint that never answers under probe.
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// Sets the share of the endpoints that may be ejected at a time, from 0 to 1; 0.5 by default. The
    /// number is rounded down, but is at least one; 0 ejects none. The last endpoint stays in even with 1.
    /// The share refers to endpoints with a weight, because one with weight 0 gets no requests anyway. If
    /// all weights are 0, it refers to all endpoints.
    pub fn max_ejected(mut self, share: f64) -> Self {
        self.max_ejected = share;
        self
    }

    /// Sets whether the last endpoint may be ejected too; off by default. Requests then fail at once
    /// instead of at an endpoint that fails them. With this on, a balancer sends nothing to ejected
    /// endpoints, unless its [`Topology::panic`](crate::balance::topology::Topology::panic) is set to do
    /// so.
    pub fn eject_last(mut self, last: bool) -> Self {
        self.last = last;
        self
    }

    /// # Errors
    /// When a setting is out of range.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some(failures) = self.consecutive {
            check_range("ejection.consecutive_failures", failures, 1..)?;
        }
        if let Some(ratio) = self.ratio {
            check_share("ejection.failure_ratio", ratio)?;
        }
        check_range("ejection.min_requests", self.min_requests, 1..)?;
        let range = Duration::from_millis(100)..=LONGEST_WINDOW;
        check_range("ejection.window", self.window, range)?;
        if let Some(factor) = self.slow_factor {
            let range = (Bound::Excluded(1.0), Bound::Excluded(f64::INFINITY));
            check_range("ejection.slow_factor", factor, range)?;
        }
        check_range("ejection.min_peers", self.min_peers, 3..)?;
        let (base, cap) = self.time;
        let least = Duration::from_nanos(1);
        check_range("ejection.time", base, least..=cap)?;
        check_range("ejection.probe_timeout", self.probe_timeout, least..)?;
        check_range("ejection.max_ejected", self.max_ejected, 0.0..=1.0)
    }

    /// Number of endpoints that may be out at a time, of `n`.
    pub(crate) fn allowed(&self, n: usize) -> usize {
        // So that 0.3 of ten is three, whatever the rounding of the binary fraction.
        let share = (n as f64 * self.max_ejected + 1e-9) as usize;
        let share = if self.max_ejected > 0.0 {
            share.max(1)
        } else {
            0
        };
        let most = if self.last { n } else { n.saturating_sub(1) };
        share.min(most)
    }

    /// Whether the last endpoint may be ejected.
    pub(crate) fn ejects_last(&self) -> bool {
        self.last
    }

    /// Whether latencies are used.
    pub(crate) fn is_timed(&self) -> bool {
        self.slow_factor.is_some()
    }

    /// The time between two moves of the window.
    pub(super) fn bucket(&self) -> Duration {
        self.window / BUCKETS
    }

    /// The length of the `times`th ejection, before jitter.
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
