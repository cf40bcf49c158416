//! Counters of the outcomes of the requests to one version. Many threads add to them.
//!
//! The counters take 2 KiB and give a percentile with an error of at most an eighth. The difference of two
//! readings of the counters covers the time between them.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{classify::Outcome, window::buckets};

/// The percentile of the latency that is compared. It is high enough to show a slow path, and low enough
/// that 10 of 100 requests are beyond it.
pub(crate) const PERCENTILE: f64 = 0.9;

/// Buckets for latencies up to an hour, in microseconds.
const BUCKETS: usize = buckets::count(u32::BITS);

fn bucket(latency: Duration) -> usize {
    let us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
    buckets::of(us.into())
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
        let bucket = buckets::quantile(&self.latencies, answers, PERCENTILE)?;
        Some(Duration::from_micros(buckets::end(bucket)))
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
}
