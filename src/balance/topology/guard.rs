//! The guard of a canary: it takes the canary's share back when the canary is worse than the other
//! versions.
//!
//! The documentation of [`Guard`] gives the statistical tests and their costs. [`GuardWindow`] keeps the
//! counts of the last window.

use std::{collections::VecDeque, fmt, ops::Bound, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    balance::pick::version_tally::{PERCENTILE, VersionCounts, VersionTally},
    error::{ConfigError, check_range},
};

/// The number of comparisons per window.
const LOOKS: u32 = 10;

/// Decides when a version's share is taken back.
///
/// A new version that fails more often or responds later than the old one should lose its traffic before
/// users notice. The guard compares it with all other versions over a sliding window. Noise must not
/// mislead it: a canary at 1 % gets few requests, and 3 failures in 100 do not prove that it fails more
/// than 1 % of its requests.
///
/// # How it works
/// *Failures.* `p` is the failure ratio of the canary, `q` the ratio of all other versions. The guard
/// trips when `p − q` exceeds the margin by more than `sigmas` standard errors:
///
/// ```text
///      p − q − margin
/// z = ───────────────────────────────────  > sigmas,     p = (failures + 1) / (requests + 2)
///     √( p(1−p)/(n+2) + q(1−q)/(m+2) )
/// ```
///
/// This is the one-sided test for two proportions after [Agresti and Caffo]. The added success and
/// failure keep it correct when counts are small or a ratio is 0.
///
/// *Latency.* A few slow responses dominate a mean, so the guard compares 90th percentiles. It
/// multiplies the percentile of the baseline by the tolerated ratio, and counts the responses of the
/// canary that took longer. If the canary's percentile were no worse, at most a tenth would take longer;
/// the same test shows whether it is more. Failures do not count as responses here, because a version
/// that fails fast is not fast.
///
/// *Repeated tests.* The guard compares ten times per window for as long as the split lasts, and each
/// comparison may be wrong. So the default is 4 standard errors, where a single test usually uses 2. For
/// versions that differ by the whole margin, this is wrong once in 30,000 independent comparisons; for
/// equal versions far less often. The tests measure it.
///
/// # Costs
/// Each request costs two relaxed atomic additions. The counters take 2 KiB for each of the two sides,
/// and 40 KiB for the window. The guard counts only the requests of its own process. For many clients
/// with little traffic each, the comparison must be made where the requests of all clients are counted.
///
/// [Agresti and Caffo]: https://doi.org/10.1080/00031305.2000.10474560
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::balance::topology::{Guard, Shares, SplitSettings};
///
/// let guard = Guard::new("v2")
///     .window(Duration::from_secs(300)) // little traffic
///     .failure_margin(0.005)
///     .latency_ratio(2.0);
/// let split = SplitSettings::new(Shares::canary("v2", 0.01)).guard(guard);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    version: Arc<str>,
    window: Duration,
    min_requests: u64,
    sigmas: f64,
    failure_margin: Option<f64>,
    latency_ratio: Option<f64>,
}

impl Guard {
    /// Creates a guard that compares `version` with all other versions together.
    pub fn new(version: impl Into<Arc<str>>) -> Self {
        Self {
            version: version.into(),
            window: Duration::from_secs(60),
            min_requests: 100,
            sigmas: 4.0,
            failure_margin: Some(0.01),
            latency_ratio: Some(1.5),
        }
    }

    /// Returns the version that the guard watches.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sets the length of the window over which requests count, from 1 s to 1 day; 60 s by default. The
    /// guard compares ten times per window. A short window reacts fast and needs much traffic.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the number of requests that both sides must have within the window, from 1; 100 by default.
    #[must_use]
    pub fn min_requests(mut self, requests: u64) -> Self {
        self.min_requests = requests;
        self
    }

    /// Sets how certain the guard must be, in standard errors, above 0; 4 by default. At 2, one
    /// comparison in 44 is wrong when the versions differ by exactly the margin. The number of requests
    /// that is needed grows with the square.
    #[must_use]
    pub fn sigmas(mut self, sigmas: f64) -> Self {
        self.sigmas = sigmas;
        self
    }

    /// Sets by how much the failure ratio may be higher, from 0 to 1; 0.01 by default, which tolerates
    /// 3 % against 2 %.
    #[must_use]
    pub fn failure_margin(mut self, margin: f64) -> Self {
        self.failure_margin = Some(margin);
        self
    }

    /// Sets how many times as high the 90th percentile of the latency may be, from 1 to 1000; 1.5 by
    /// default. Latencies are counted with a resolution of 1/8.
    #[must_use]
    pub fn latency_ratio(mut self, ratio: f64) -> Self {
        self.latency_ratio = Some(ratio);
        self
    }

    /// Ignores failures; they count by default.
    #[must_use]
    pub fn ignore_failures(mut self) -> Self {
        self.failure_margin = None;
        self
    }

    /// Ignores latency; it counts by default.
    #[must_use]
    pub fn ignore_latency(mut self) -> Self {
        self.latency_ratio = None;
        self
    }

    /// The time between comparisons.
    pub(super) fn look_every(&self) -> Duration {
        self.window / LOOKS
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.version.is_empty() {
            let message = "the version's name is empty";
            return Err(ConfigError::new("guard.version", message));
        }
        let windows = Duration::from_secs(1)..=Duration::from_secs(86_400);
        check_range("guard.window", self.window, windows)?;
        check_range("guard.min_requests", self.min_requests, 1..)?;
        let sigmas = (Bound::Excluded(0.0), Bound::Excluded(f64::INFINITY));
        check_range("guard.sigmas", self.sigmas, sigmas)?;
        if let Some(margin) = self.failure_margin {
            check_range("guard.failure_margin", margin, 0.0..=1.0)?;
        }
        if let Some(ratio) = self.latency_ratio {
            check_range("guard.latency_ratio", ratio, 1.0..=1_000.0)?;
        }
        if self.failure_margin.is_none() && self.latency_ratio.is_none() {
            let message = "it looks neither at failures nor at latency";
            return Err(ConfigError::new("guard.failure_margin", message));
        }
        Ok(())
    }

    /// Compares both sides. Trips when the canary, which has this share, is worse with the required
    /// certainty.
    fn judge(&self, share: f64, canary: &VersionCounts, baseline: &VersionCounts) -> Option<Trip> {
        if canary.requests.min(baseline.requests) < self.min_requests {
            return None;
        }
        let cause = self
            .failures(canary, baseline)
            .or_else(|| self.latency(canary, baseline))?;
        Some(Trip {
            version: Arc::clone(&self.version),
            share,
            cause,
            requests: canary.requests,
            baseline_requests: baseline.requests,
        })
    }

    fn failures(&self, canary: &VersionCounts, baseline: &VersionCounts) -> Option<TripCause> {
        let of = |counts: &VersionCounts| (counts.failures as f64, counts.requests as f64);
        let z = excess(of(canary), of(baseline), self.failure_margin?);
        (z > self.sigmas).then(|| TripCause::Failures {
            canary: canary.failures as f64 / canary.requests as f64,
            baseline: baseline.failures as f64 / baseline.requests as f64,
        })
    }

    fn latency(&self, canary: &VersionCounts, baseline: &VersionCounts) -> Option<TripCause> {
        let ratio = self.latency_ratio?;
        let (answers, others) = (canary.answers(), baseline.answers());
        if answers.min(others) < self.min_requests {
            return None;
        }
        let usual = baseline.percentile(others)?;
        let slow = canary.slower_than(usual.mul_f64(ratio)) as f64;
        // By definition of the percentile, this number of the baseline's responses are slower.
        let expected = (others as f64 * (1.0 - PERCENTILE), others as f64);
        let z = excess((slow, answers as f64), expected, 0.0);
        let percentile = canary.percentile(answers)?;
        (z > self.sigmas).then_some(TripCause::Latency {
            canary: percentile,
            baseline: usual,
        })
    }
}

/// The number of standard errors by which the first proportion exceeds the second plus the margin.
fn excess(first: (f64, f64), second: (f64, f64), margin: f64) -> f64 {
    let of = |(count, total): (f64, f64)| {
        let total = total + 2.0;
        let ratio = (count + 1.0) / total;
        (ratio, ratio * (1.0 - ratio) / total)
    };
    let ((p, p_variance), (q, q_variance)) = (of(first), of(second));
    (p - q - margin) / (p_variance + q_variance).sqrt()
}

/// The reason why a guard took a share back.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TripCause {
    /// The failure ratio is too high. Both ratios are from 0 to 1.
    Failures {
        /// The value of the version that lost its share.
        canary: f64,
        /// The value of all other versions together.
        baseline: f64,
    },
    /// The latency is too high. Both values are 90th percentiles, with a resolution of 1/8.
    Latency {
        /// The value of the version that lost its share.
        canary: Duration,
        /// The value of all other versions together.
        baseline: Duration,
    },
}

/// Reports that a guard took a version's share back.
///
/// Its `Display` output is one line with the figures.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Trip {
    /// The version that lost its share.
    pub version: Arc<str>,
    /// The share that the version had, from 0 to 1.
    pub share: f64,
    /// The reason.
    pub cause: TripCause,
    /// The number of the version's requests within the window.
    pub requests: u64,
    /// The number of all other versions' requests within the window.
    pub baseline_requests: u64,
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, others) = (self.requests, self.baseline_requests);
        write!(
            f,
            "version {:?} lost its share of {:.2} %: ",
            self.version,
            self.share * 100.0
        )?;
        match self.cause {
            TripCause::Failures { canary, baseline } => write!(
                f,
                "{:.2} % of {requests} requests failed, against {:.2} % of {others}",
                canary * 100.0,
                baseline * 100.0
            ),
            TripCause::Latency { canary, baseline } => write!(
                f,
                "a tenth of {requests} requests took {canary:.1?} or more, against {baseline:.1?} of {others}"
            ),
        }
    }
}

/// The counts at each comparison of the last window.
#[derive(Debug, Default)]
pub(super) struct GuardWindow {
    epoch: u64,
    looks: VecDeque<(Instant, VersionCounts, VersionCounts)>,
}

impl GuardWindow {
    /// Compares the counts, unless the last comparison was less than [`Guard::look_every`] ago.
    pub(super) fn look(
        &mut self,
        guard: &Guard,
        epoch: u64,
        share: f64,
        canary: &VersionTally,
        baseline: &VersionTally,
        now: Instant,
    ) -> Option<Trip> {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.looks.clear();
        }
        if let Some((last, ..)) = self.looks.back()
            && now.saturating_duration_since(*last) < guard.look_every()
        {
            return None;
        }
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > guard.window;
        while self.looks.front().is_some_and(|(at, ..)| is_old(at)) {
            self.looks.pop_front();
        }
        let (canary, baseline) = (canary.counts(), baseline.counts());
        let first = self.looks.front();
        let trip = first.and_then(|(_, canary_then, baseline_then)| {
            let (canary, baseline) = (canary.since(canary_then), baseline.since(baseline_then));
            guard.judge(share, &canary, &baseline)
        });
        self.looks.push_back((now, canary, baseline));
        trip
    }
}

#[cfg(test)]
mod tests;
