//! The latencies of recent attempts, and the delay before a hedge.
//!
//! There are two histograms: one of the current second, where a sample is one atomic addition, and
//! one of the time before, whose counts decay. At the end of a second one of the callers adds the
//! first to the second and computes the delay. All others only read it.
//!
//! ```text
//! delay = max( percentile of all, times_median × median of the last second )
//! ```
//!
//! The percentile makes hedges rare. The median stops them in an overload: a *single* slow response
//! does not change the median, but queues at every endpoint raise it towards the tail. Then no
//! response takes several times the median.

use std::{
    sync::{
        OnceLock,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::window::buckets;

/// log2 of the smallest bucket width in nanoseconds: 66 µs, far below the shortest delay.
const GRAIN: u32 = 16;

/// The range of the buckets in doublings of the smallest width: up to 137 s, longer than callers
/// wait.
const DOUBLINGS: u32 = 21;

const BUCKETS: usize = buckets::count(DOUBLINGS);

/// How often the delay is computed. In an overload, hedging ends within that time.
const TURN: Duration = Duration::from_secs(1);

/// The fewest recent samples from which the delay is measured. Three of them lie above the default
/// percentile; with fewer, the percentile would depend on chance. The share bounds the effect.
const MIN_SAMPLES: u64 = 100;

/// The fewest responses in a second from which its median is used. With fewer, the median of the
/// window is used.
const FRESH: u64 = 5;

/// The value of `due` while a caller computes the delay.
const MOVING: u64 = u64::MAX;

/// The shortest delay: tokio's timers have a resolution of 1 ms.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// Measured latencies, and the thresholds that follow from them.
pub(super) struct Latencies {
    base: Instant,
    percentile: f64,
    times_median: f64,
    /// The share of a count that is left after a turn. It leaves an eighth after a window.
    keep: f64,
    /// Allocated for the first sample, because many clients send no request that can be hedged.
    counts: OnceLock<Box<Counts>>,
    /// When the next turn is, in nanoseconds since `base`. Acquire and release pass the counts from
    /// one caller that computes to the next.
    due: AtomicU64,
    // In nanoseconds; 0 while unknown. Each is read on its own: relaxed.
    slow: AtomicU64,
    delay: AtomicU64,
}

/// A statistic: relaxed. A sample that comes while its bucket is moved may be lost.
struct Counts {
    fresh: [AtomicU32; BUCKETS],
    /// In units of 1/256 of a sample, so that small counts decay as slowly as large ones.
    faded: [AtomicU64; BUCKETS],
}

const SAMPLE: u64 = 256;

impl Latencies {
    pub(super) fn new(window: Duration, percentile: f64, times_median: f64) -> Self {
        Self {
            base: Instant::now(),
            percentile,
            times_median,
            keep: (1.0 - 2.0 * TURN.as_secs_f64() / window.as_secs_f64()).max(0.0),
            counts: OnceLock::new(),
            due: AtomicU64::new(nanos(TURN)),
            slow: AtomicU64::new(0),
            delay: AtomicU64::new(0),
        }
    }

    /// The delay before an attempt is hedged; `None` while there are too few samples.
    pub(super) fn delay(&self, now: Instant) -> Option<Duration> {
        self.advance(now);
        match self.delay.load(Relaxed) {
            0 => None,
            delay => Some(Duration::from_nanos(delay)),
        }
    }

    /// Whether an attempt that was dropped after this time was slow already. Compares buckets, so
    /// that callers with a timeout at the percentile are still counted.
    pub(super) fn is_slow(&self, latency: Duration, now: Instant) -> bool {
        self.advance(now);
        let slow = self.slow.load(Relaxed);
        slow > 0 && bucket(nanos(latency)) >= bucket(slow)
    }

    pub(super) fn record(&self, latency: Duration, now: Instant) {
        self.advance(now);
        let counts = self.counts.get_or_init(Box::default);
        counts.fresh[bucket(nanos(latency))].fetch_add(1, Relaxed);
    }

    fn advance(&self, now: Instant) {
        let now = nanos(now.saturating_duration_since(self.base));
        let due = self.due.load(Relaxed);
        if now >= due {
            self.turn(due, now);
        }
    }

    #[cold]
    fn turn(&self, due: u64, now: u64) {
        let claim = self.due.compare_exchange(due, MOVING, AcqRel, Relaxed);
        if claim.is_err() {
            return; // another caller does it
        }
        let turn = nanos(TURN);
        let began = now / turn;
        let passed = began - due / turn + 1;
        if let Some(counts) = self.counts.get() {
            // After an idle period of any length, each count decays in one step.
            let keep = self.keep.powf(passed as f64);
            let (slow, delay) = self.measure(counts, keep).unwrap_or_default();
            self.slow.store(slow, Relaxed);
            self.delay.store(delay, Relaxed);
        }
        let next = (began + 1).saturating_mul(turn).min(MOVING - 1);
        self.due.store(next, Release);
    }

    /// Moves the fresh counts. Returns the percentile and the delay, in nanoseconds.
    fn measure(&self, counts: &Counts, keep: f64) -> Option<(u64, u64)> {
        let mut fresh = [0; BUCKETS];
        let mut all = [0; BUCKETS];
        for bucket in 0..BUCKETS {
            fresh[bucket] = u64::from(counts.fresh[bucket].swap(0, Relaxed));
            let faded = counts.faded[bucket].load(Relaxed) as f64 * keep;
            all[bucket] = faded as u64 + fresh[bucket] * SAMPLE;
            counts.faded[bucket].store(all[bucket], Relaxed);
        }
        let total: u64 = all.iter().sum();
        if total < MIN_SAMPLES * SAMPLE {
            return None;
        }
        let slow = quantile(&all, total, self.percentile);
        let answers: u64 = fresh.iter().sum();
        let median = if answers >= FRESH {
            quantile(&fresh, answers, 0.5)
        } else {
            quantile(&all, total, 0.5)
        };
        let far = (median as f64 * self.times_median) as u64;
        Some((slow, slow.max(far).max(nanos(SHORTEST))))
    }
}

/// A quantile in nanoseconds, at most an eighth too high, which is exact enough for a delay.
fn quantile(counts: &[u64; BUCKETS], total: u64, at: f64) -> u64 {
    highest(buckets::quantile(counts, total, at).unwrap_or(BUCKETS - 1))
}

/// `as_nanos` is not used: its 128-bit arithmetic would double the cost of each request.
fn nanos(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(duration.subsec_nanos().into())
}

fn bucket(ns: u64) -> usize {
    buckets::of((ns >> GRAIN).min((1 << DOUBLINGS) - 1))
}

/// The upper end of a bucket, in nanoseconds.
fn highest(bucket: usize) -> u64 {
    (buckets::end(bucket) << GRAIN) - 1
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            fresh: std::array::from_fn(|_| AtomicU32::new(0)),
            faded: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl_debug!(Latencies: |this| delay = this.delay(Instant::now()));

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SEC: Duration = Duration::from_secs(1);

    /// Without the bound by the median.
    fn latencies(percentile: f64) -> (Latencies, Instant) {
        beyond_medians(percentile, 1.0)
    }

    fn beyond_medians(percentile: f64, times_median: f64) -> (Latencies, Instant) {
        let latencies = Latencies::new(10 * SEC, percentile, times_median);
        let base = latencies.base;
        (latencies, base)
    }

    fn within_an_eighth(actual: Option<Duration>, expected: Duration) -> bool {
        actual.is_some_and(|actual| expected <= actual && actual <= expected + expected / 8)
    }

    #[test]
    fn knows_nothing_before_enough_was_measured() {
        let (latencies, base) = latencies(0.95);
        (0..99).for_each(|_| latencies.record(5 * MS, base));
        assert_eq!(latencies.delay(base + SEC), None);
        // The other samples have begun to decay.
        (0..21).for_each(|_| latencies.record(5 * MS, base + SEC));
        assert!(within_an_eighth(latencies.delay(base + 2 * SEC), 5 * MS));
    }

    #[test]
    fn finds_the_percentile() {
        for (percentile, expected) in [(0.5, 500), (0.95, 950), (0.99, 990)] {
            let (latencies, base) = latencies(percentile);
            (1..=1_000).for_each(|ms| latencies.record(ms * MS, base));
            let delay = latencies.delay(base + SEC);
            assert!(
                within_an_eighth(delay, expected * MS),
                "{percentile}: {delay:?}"
            );
        }
    }

    #[test]
    fn a_delay_is_several_medians_of_the_last_second() {
        let (latencies, base) = beyond_medians(0.95, 3.0);
        let second = |at: u32, usual: Duration| {
            let now = base + at * SEC;
            (0..96).for_each(|_| latencies.record(usual, now));
            (0..4).for_each(|_| latencies.record(10 * usual, now));
            latencies.delay(now + SEC)
        };
        for at in 0..5 {
            assert!(within_an_eighth(second(at, 10 * MS), 30 * MS));
        }
        // At once, although nearly all samples were fast.
        assert!(within_an_eighth(second(5, 50 * MS), 150 * MS));
        assert!(within_an_eighth(second(6, 100 * MS), 300 * MS));
    }

    #[test]
    fn a_second_of_few_answers_leaves_the_median_to_all() {
        let (latencies, base) = beyond_medians(0.5, 3.0);
        (0..200).for_each(|_| latencies.record(10 * MS, base));
        let later = base + 2 * SEC;
        (0..4).for_each(|_| latencies.record(SEC, later));
        assert!(within_an_eighth(latencies.delay(later + SEC), 30 * MS));
    }

    #[test]
    fn forgets_with_the_window() {
        let (latencies, base) = latencies(0.5);
        (0..1_000).for_each(|_| latencies.record(SEC, base));
        for at in 1..3 {
            (0..250).for_each(|_| latencies.record(MS, base + at * SEC));
            assert!(within_an_eighth(
                latencies.delay(base + (at + 1) * SEC),
                SEC
            ));
        }
        (0..250).for_each(|_| latencies.record(MS, base + 3 * SEC));
        assert!(within_an_eighth(latencies.delay(base + 4 * SEC), MS));
    }

    #[test]
    fn after_a_long_idle_time_knows_nothing() {
        let (latencies, base) = latencies(0.95);
        (0..1_000).for_each(|_| latencies.record(SEC, base));
        assert!(latencies.delay(base + 2 * SEC).is_some());
        assert_eq!(latencies.delay(base + 1_000_000 * SEC), None);
        (0..1_000).for_each(|_| latencies.record(MS, base + 1_000_000 * SEC));
        let delay = latencies.delay(base + 1_000_001 * SEC);
        assert!(within_an_eighth(delay, MS));
    }

    #[test]
    fn takes_any_latency() {
        let (latencies, base) = latencies(0.999);
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            (0..100).for_each(|_| latencies.record(latency, base));
        }
        assert!(latencies.delay(base + 2 * SEC) > Some(130 * SEC));
    }

    #[test]
    fn counts_are_made_with_the_first_sample() {
        let (latencies, base) = latencies(0.95);
        latencies.delay(base + 100 * SEC);
        assert!(latencies.counts.get().is_none());
        latencies.record(MS, base + 100 * SEC);
        assert!(latencies.counts.get().is_some());
    }
}
