//! A histogram that only counts. Its reader takes the differences between two readings.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::window::buckets;

/// log2 of the grain in nanoseconds: about a microsecond.
const GRAIN: u32 = 10;

/// Latencies from 2^26 grains on, 69 s, count as that.
const DOUBLINGS: u32 = 26;

/// 192 buckets, 768 bytes for each endpoint.
pub(in crate::telemetry) const BUCKETS: usize = buckets::count(DOUBLINGS);

/// How many responses took how long, since the endpoint was listed. The counts wrap.
// Relaxed: each is read on its own and publishes no other memory.
pub(super) struct LatencyCounts([AtomicU32; BUCKETS]);

impl LatencyCounts {
    pub(super) fn record(&self, latency: Duration) {
        // No 128-bit arithmetic on the way of a request.
        let ns = latency.as_secs().saturating_mul(1_000_000_000);
        let ns = ns.saturating_add(latency.subsec_nanos().into());
        let bucket = buckets::of((ns >> GRAIN).min((1 << DOUBLINGS) - 1));
        self.0[bucket].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> [u32; BUCKETS] {
        std::array::from_fn(|at| self.0[at].load(Relaxed))
    }
}

impl Default for LatencyCounts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl_debug!(LatencyCounts: |this| total = this.read().iter().map(|n| u64::from(*n)).sum::<u64>());

/// The latency up to which the share `at` of these counts lies, in milliseconds, to 6 %.
pub(super) fn quantile_ms(counts: &[u64], total: u64, at: f64) -> Option<f64> {
    let bucket = buckets::quantile(counts, total, at)?;
    let start = bucket.checked_sub(1).map_or(0, buckets::end);
    let middle = (start + buckets::end(bucket)) as f64 / 2.0;
    Some(middle * f64::from(1_u32 << GRAIN) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_six_percent() {
        let counts = LatencyCounts::default();
        for us in [100_u64, 1_000, 5_000, 150_000, 9_000_000] {
            counts.record(Duration::from_micros(us));
            let read = counts.read().map(u64::from);
            let total: u64 = read.iter().sum();
            let most = quantile_ms(&read, total, 1.0).unwrap() * 1_000.0;
            let ratio = most / us as f64;
            assert!((0.94..=1.06).contains(&ratio), "{us} us: {most}");
        }
        counts.record(Duration::MAX);
        assert_eq!(
            counts.read()[BUCKETS - 1],
            1,
            "what takes for ever has the last bucket"
        );
    }
}
