//! Counters of the outcomes of the requests to one version. Many threads add to them.
//!
//! Latencies go into buckets that are an eighth of a doubling wide, as in an HDR histogram. So a percentile
//! is known to 1/8, from a fixed 2 KiB. The difference of two readings of the counters covers the time
//! between them.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::classify::Outcome;

/// The percentile of the latency that is compared. It is high enough to show a slow path, and low enough
/// that 10 of 100 requests are beyond it.
pub(crate) const PERCENTILE: f64 = 0.9;

/// Number of buckets: eight for each doubling, from 1 µs to an hour.
const BUCKETS: usize = 240;

/// The bucket of a latency. Below 8 µs each microsecond has its own bucket.
fn bucket(latency: Duration) -> usize {
    let us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
    if us < 8 {
        return us as usize;
    }
    let doublings = us.ilog2() as usize;
    let eighth = (us >> (doublings - 3)) as usize & 7;
    (doublings - 2) * 8 + eighth
}

/// The first latency beyond a bucket.
fn upper(bucket: usize) -> Duration {
    let us = if bucket < 8 {
        bucket as u64 + 1
    } else {
        (bucket as u64 % 8 + 9) << (bucket / 8 - 1)
    };
    Duration::from_micros(us)
}

/// Counts the outcomes of the requests to one side, from many threads.
///
/// All orderings are Relaxed: statistics publish no other memory. A reader that sees the failure of a
/// request but not the request is off by one.
pub(crate) struct VersionTally {
    requests: AtomicU64,
    failures: AtomicU64,
    /// Latencies of responses only.
    latencies: [AtomicU64; BUCKETS],
}

impl VersionTally {
    /// Counts a request whose outcome is known.
    pub(crate) fn record(&self, outcome: Outcome, latency: Duration) {
        match outcome {
            Outcome::Success => {
                self.latencies[bucket(latency)].fetch_add(1, Relaxed);
            }
            Outcome::Failure | Outcome::Overloaded => {
                self.failures.fetch_add(1, Relaxed);
            }
            Outcome::Cancelled => return,
        }
        self.requests.fetch_add(1, Relaxed);
    }

    /// Counts a failure of a request that was recorded as a success before.
    pub(crate) fn revise(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> VersionCounts {
        let load = |count: &AtomicU64| count.load(Relaxed);
        VersionCounts {
            requests: load(&self.requests),
            failures: load(&self.failures),
            latencies: self.latencies.iter().map(load).collect(),
        }
    }
}

impl Default for VersionTally {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl fmt::Debug for VersionTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionTally")
            .field("requests", &self.requests)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// A tally at one moment, or the difference of two.
#[derive(Clone, Debug, Default)]
pub(crate) struct VersionCounts {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    latencies: Vec<u64>,
}

impl VersionCounts {
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let pairs = self.latencies.iter().zip(&earlier.latencies);
        Self {
            requests: self.requests.wrapping_sub(earlier.requests),
            failures: self.failures.wrapping_sub(earlier.failures),
            latencies: pairs.map(|(now, then)| now.wrapping_sub(*then)).collect(),
        }
    }

    pub(crate) fn answers(&self) -> u64 {
        self.latencies.iter().sum()
    }

    /// The latency that nine tenths of the responses do not exceed, rounded up to the end of a bucket.
    pub(crate) fn percentile(&self, answers: u64) -> Option<Duration> {
        let rank = (answers as f64 * PERCENTILE).ceil() as u64;
        let mut seen = 0;
        let reached = self.latencies.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        reached.map(upper)
    }

    /// Number of responses in buckets entirely above `latency`.
    pub(crate) fn slower_than(&self, latency: Duration) -> u64 {
        self.latencies.iter().skip(bucket(latency) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_requests_are_neutral_and_fast_failures_are_not_fast() {
        let tally = VersionTally::default();
        tally.record(Outcome::Cancelled, Duration::ZERO);
        tally.record(Outcome::Failure, Duration::ZERO);
        tally.record(Outcome::Overloaded, Duration::ZERO);
        let counts = tally.counts();
        assert_eq!(
            (counts.requests, counts.failures, counts.answers()),
            (2, 2, 0)
        );
    }

    #[test]
    fn buckets_hold_every_latency_to_an_eighth() {
        let latencies = (0..200).map(|i| Duration::from_secs_f64(1e-6 * 1.13_f64.powi(i)));
        let extremes = [Duration::ZERO, Duration::from_micros(7), Duration::MAX];
        for latency in latencies.chain(extremes) {
            let bucket = bucket(latency);
            assert!(bucket < BUCKETS, "{latency:?}");
            let known = latency.min(Duration::from_micros(u32::MAX.into()));
            assert!(known < upper(bucket), "{latency:?} in {bucket}");
            let one = Duration::from_micros(1);
            assert!(upper(bucket) <= known.mul_f64(1.126) + one, "{latency:?}");
        }
        assert!((1..BUCKETS).all(|i| upper(i) > upper(i - 1)));
    }
}
