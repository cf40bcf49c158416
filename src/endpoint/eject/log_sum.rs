//! Counts and latencies in one word, so that one atomic addition records both.
//!
//! One response of half a minute must not determine the typical latency of an endpoint, and the numbers
//! must add up without a lock. The mean of the *logarithms* meets both requirements. A sample that is a
//! thousand times too long multiplies a mean of twenty by 1.4; it would multiply the plain mean by fifty.
//! The logarithm is piecewise linear (the position of the highest bit, then the bits after it). It costs
//! two instructions, and its inverse is exact.

use std::time::Duration;

/// Number of bits of the sum; the count has the other bits. A sample is below 2^16, so 2^23 samples fit.
/// The difference of two sums is exact up to that number of samples between them.
const SUM: u32 = 40;

/// Number of fraction bits of a logarithm: steps of 0.1 %.
const FRACTION: u32 = 10;

/// Sums since the start. They wrap, so only differences have a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogSum(pub(super) u64);

impl LogSum {
    /// One sample. A request without a latency is counted only.
    pub(super) fn of(latency: Option<Duration>) -> Self {
        let ns = latency.map_or(1, |latency| {
            u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)
        });
        Self(1 << SUM | log2(ns.max(1)))
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The samples since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self(self.0.wrapping_sub(earlier.0))
    }

    /// Number of samples of a difference. It is negative if a sample was taken back after `earlier` was
    /// noted; this returns zero then.
    pub(super) fn count(self) -> u64 {
        ((self.0 as i64) >> SUM).max(0) as u64
    }

    /// The typical latency of the samples of a difference; `None` without samples.
    pub(super) fn typical(self) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let sum = self.0 & ((1 << SUM) - 1);
        let mean = sum as f64 / count as f64 / f64::from(1 << FRACTION);
        let nanos = mean.floor().exp2() * (1.0 + mean.fract());
        Some(Duration::from_nanos(nanos as u64))
    }
}

/// The logarithm to base 2 of a number above zero, times 2^[`FRACTION`].
fn log2(n: u64) -> u64 {
    let whole = n.ilog2();
    let fraction = if whole >= FRACTION {
        n >> (whole - FRACTION)
    } else {
        n << (FRACTION - whole)
    };
    u64::from(whole) << FRACTION | fraction & ((1 << FRACTION) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_sum(latencies: impl IntoIterator<Item = Duration>) -> LogSum {
        let samples = latencies
            .into_iter()
            .map(|latency| LogSum::of(Some(latency)));
        samples.fold(LogSum::default(), LogSum::plus)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stray_answer_hardly_moves_what_is_typical() {
        let mut latencies = vec![50 * MS; 19];
        latencies.push(50_000 * MS);
        let typical = log_sum(latencies).typical().unwrap();
        assert!(typical > 65 * MS && typical < 75 * MS, "{typical:?}");
    }

    #[test]
    fn differences_survive_wrapping() {
        let mut sum = LogSum(u64::MAX - 5);
        let start = sum;
        for _ in 0..1_000 {
            sum = sum.plus(LogSum::of(Some(20 * MS)));
        }
        let window = sum.since(start);
        assert_eq!(window.count(), 1_000);
        let typical = window.typical().unwrap();
        assert!(typical > 19 * MS && typical < 21 * MS, "{typical:?}");
    }

    #[test]
    fn a_sample_taken_back_leaves_no_trace_and_never_a_negative_count() {
        let one = LogSum::of(Some(7 * MS));
        let start = LogSum(123).plus(one);
        assert_eq!(start.since(one).since(LogSum(123)), LogSum::default());
        let before = LogSum(123);
        assert_eq!(before.since(start).count(), 0);
        assert_eq!(before.since(start).typical(), None);
    }

    #[test]
    fn the_longest_samples_do_not_overflow() {
        let window = log_sum(std::iter::repeat_n(Duration::MAX, 100_000));
        assert_eq!(window.count(), 100_000);
        assert!(window.typical().unwrap() > Duration::from_secs(500 * 365 * 86_400));
        assert_eq!(LogSum::of(Some(Duration::ZERO)), LogSum::of(None));
    }

    proptest! {
        #[test]
        fn equal_samples_come_back_as_they_were(ns in 1_000u64..u64::MAX / 2, n in 1usize..50) {
            let typical = log_sum(std::iter::repeat_n(Duration::from_nanos(ns), n)).typical().unwrap();
            let off = typical.as_nanos() as f64 / ns as f64;
            prop_assert!((0.998..1.002).contains(&off), "{typical:?} for {ns} ns");
        }

        #[test]
        fn more_is_never_less(a in 1u64..u64::MAX, b in 1u64..u64::MAX) {
            prop_assert_eq!(log2(a.min(b)) <= log2(a.max(b)), true);
        }
    }
}
