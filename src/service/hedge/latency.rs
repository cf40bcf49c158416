//! How long requests take, as a histogram over the last few seconds that nobody waits for.
//!
//! Buckets grow with the latency: sixteen for each doubling, so a percentile is at most a sixteenth too
//! high. A sample is one atomic addition. The window is a ring of slots; at the start of each slot someone
//! clears the oldest and computes the percentile for all others, who only read it.

use std::{
    fmt,
    sync::atomic::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Relaxed, Release},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Buckets per doubling, as a power of two.
const FINE: u32 = 4;

/// From a microsecond to 2^36 of them, 19 hours: any latency.
const DOUBLINGS: u32 = 36;

const BUCKETS: usize = ((DOUBLINGS - FINE + 1) << FINE) as usize;

/// As Finagle: a new percentile every fifth of the window.
const SLOTS: usize = 5;

/// While someone moves the window.
const MOVING: u64 = u64::MAX;

/// Below it a timer is not exact anyhow.
const SHORTEST: Duration = Duration::from_millis(1);

/// Measured latencies, and the percentile that a hedge waits for.
pub(super) struct Latencies {
    base: Instant,
    slot_ns: u64,
    percentile: f64,
    min_samples: u64,
    // A statistic: relaxed. A sample that lands in a slot while that is cleared is lost.
    slots: [Slot; SLOTS],
    current: AtomicUsize,
    /// When the next slot starts, in nanoseconds since `base`. Acquire and release hand the slots from
    /// one mover to the next.
    due: AtomicU64,
    /// The percentile in nanoseconds; 0 while it is not known.
    delay: AtomicU64,
}

struct Slot([AtomicU32; BUCKETS]);

impl Latencies {
    pub(super) fn new(window: Duration, percentile: f64, min_samples: u32) -> Self {
        let slot_ns = nanos(window) / SLOTS as u64;
        Self {
            base: Instant::now(),
            slot_ns,
            percentile,
            min_samples: min_samples.into(),
            slots: std::array::from_fn(|_| Slot(std::array::from_fn(|_| AtomicU32::new(0)))),
            current: AtomicUsize::new(0),
            due: AtomicU64::new(slot_ns),
            delay: AtomicU64::new(0),
        }
    }

    /// The percentile, if enough was measured of late.
    pub(super) fn delay(&self, now: Instant) -> Option<Duration> {
        self.advance(now);
        match self.delay.load(Relaxed) {
            0 => None,
            delay => Some(Duration::from_nanos(delay).max(SHORTEST)),
        }
    }

    /// Whether an attempt that was dropped after that time was slow already. By buckets, so that callers
    /// who give up at the very percentile go on being counted.
    pub(super) fn is_slow(&self, latency: Duration, now: Instant) -> bool {
        let delay = self.delay(now);
        delay.is_some_and(|delay| bucket(latency) >= bucket(delay))
    }

    pub(super) fn record(&self, latency: Duration, now: Instant) {
        self.advance(now);
        let slot = &self.slots[self.current.load(Relaxed) % SLOTS];
        slot.0[bucket(latency)].fetch_add(1, Relaxed);
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
            return; // someone else does it
        }
        let began = now / self.slot_ns;
        let passed = began - due / self.slot_ns + 1;
        let current = self.current.load(Relaxed);
        // However long it was idle, each slot is cleared once.
        let cleared = passed.min(SLOTS as u64) as usize;
        for step in 1..=cleared {
            let slot = &self.slots[(current + step) % SLOTS];
            slot.0.iter().for_each(|count| count.store(0, Relaxed));
        }
        self.current.store((current + cleared) % SLOTS, Relaxed);
        let delay = self.percentile().map_or(0, |delay| nanos(delay).max(1));
        self.delay.store(delay, Relaxed);
        let next = (began + 1).saturating_mul(self.slot_ns).min(MOVING - 1);
        self.due.store(next, Release);
    }

    fn percentile(&self) -> Option<Duration> {
        let count = |bucket: usize| -> u64 {
            let counts = self.slots.iter().map(|slot| &slot.0[bucket]);
            counts.map(|count| u64::from(count.load(Relaxed))).sum()
        };
        let total: u64 = (0..BUCKETS).map(count).sum();
        if total < self.min_samples.max(1) {
            return None;
        }
        let rank = (self.percentile * total as f64).ceil() as u64;
        let mut below = 0;
        let bucket = (0..BUCKETS).find(|bucket| {
            below += count(*bucket);
            below >= rank
        });
        Some(highest(bucket.unwrap_or(BUCKETS - 1)))
    }
}

/// Not by way of `as_nanos`: its 128 bits cost as much as all the rest, for each request.
fn nanos(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(duration.subsec_nanos().into())
}

/// The bucket of a latency: in order, each a sixteenth of a doubling wide.
fn bucket(latency: Duration) -> usize {
    let whole = latency.as_secs().saturating_mul(1_000_000);
    let micros = whole.saturating_add(latency.subsec_micros().into());
    let micros = micros.min((1 << DOUBLINGS) - 1);
    let doubling = (micros | 1).ilog2().max(FINE);
    let shift = doubling - FINE;
    // The leading one stays in, and counts the doubling once.
    ((u64::from(shift) << FINE) + (micros >> shift)) as usize
}

/// The highest latency of a bucket.
fn highest(bucket: usize) -> Duration {
    let (bucket, width) = (bucket as u64, 1 << FINE);
    let shift = (bucket >> FINE).saturating_sub(1);
    let lead = bucket - (shift << FINE);
    debug_assert!(lead < 2 * width);
    Duration::from_micros(((lead + 1) << shift) - 1).max(Duration::from_micros(1))
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies")
            .field("percentile", &self.percentile)
            .field("delay", &Duration::from_nanos(self.delay.load(Relaxed)))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SEC: Duration = Duration::from_secs(1);

    fn latencies(percentile: f64) -> (Latencies, Instant) {
        let latencies = Latencies::new(10 * SEC, percentile, 100);
        let base = latencies.base;
        (latencies, base)
    }

    fn within_a_sixteenth(actual: Option<Duration>, expected: Duration) -> bool {
        actual.is_some_and(|actual| expected <= actual && actual <= expected + expected / 16)
    }

    #[test]
    fn knows_nothing_before_enough_was_measured() {
        let (latencies, base) = latencies(0.95);
        (0..99).for_each(|_| latencies.record(5 * MS, base));
        assert_eq!(latencies.delay(base + 2 * SEC), None);
        latencies.record(5 * MS, base + 2 * SEC);
        assert!(within_a_sixteenth(latencies.delay(base + 4 * SEC), 5 * MS));
    }

    #[test]
    fn finds_the_percentile() {
        for (percentile, expected) in [(0.5, 500), (0.95, 950), (0.99, 990)] {
            let (latencies, base) = latencies(percentile);
            (1..=1_000).for_each(|ms| latencies.record(ms * MS, base));
            let delay = latencies.delay(base + 2 * SEC);
            assert!(
                within_a_sixteenth(delay, expected * MS),
                "{percentile}: {delay:?}"
            );
        }
    }

    #[test]
    fn forgets_what_is_older_than_the_window() {
        let (latencies, base) = latencies(0.95);
        (0..1_000).for_each(|_| latencies.record(SEC, base));
        for at in [2, 4, 6, 8] {
            (0..1_000).for_each(|_| latencies.record(MS, base + at * SEC));
            assert!(within_a_sixteenth(latencies.delay(base + at * SEC), SEC));
        }
        assert!(within_a_sixteenth(latencies.delay(base + 10 * SEC), MS));
    }

    #[test]
    fn after_a_long_idle_time_knows_nothing() {
        let (latencies, base) = latencies(0.95);
        (0..1_000).for_each(|_| latencies.record(SEC, base));
        assert!(latencies.delay(base + 2 * SEC).is_some());
        assert_eq!(latencies.delay(base + 1_000_000 * SEC), None);
        (0..1_000).for_each(|_| latencies.record(MS, base + 1_000_000 * SEC));
        let delay = latencies.delay(base + 1_000_002 * SEC);
        assert!(within_a_sixteenth(delay, MS));
    }

    #[test]
    fn takes_any_latency() {
        let (latencies, base) = latencies(0.999);
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            (0..100).for_each(|_| latencies.record(latency, base));
        }
        assert!(latencies.delay(base + 2 * SEC) > Some(60_000 * SEC));
    }

    proptest! {
        #[test]
        fn buckets_are_in_order_and_a_sixteenth_wide(micros in 0u64..1 << 36) {
            let latency = Duration::from_micros(micros);
            let index = bucket(latency);
            prop_assert!(index < BUCKETS);
            prop_assert!(within_a_sixteenth(Some(highest(index)), latency.max(Duration::from_micros(1))));
            prop_assert!(bucket(Duration::from_micros(micros + 1)) - index <= 1);
            if index > 0 {
                prop_assert!(highest(index - 1) < latency || micros == 1);
            }
        }
    }
}
