//! The buckets of a histogram: eight for each doubling, as in an HDR histogram.
//!
//! A value below 8 has a bucket of its own. A larger one shares its bucket with values that differ by
//! less than an eighth, so that a quantile is known to an eighth.

/// log2 of the buckets per doubling.
const FINE: u32 = 3;

/// The number of buckets for values below 2^`bits`.
pub(crate) const fn count(bits: u32) -> usize {
    ((bits - FINE + 1) << FINE) as usize
}

/// The bucket of a value.
#[inline]
pub(crate) fn of(value: u64) -> usize {
    match value.checked_ilog2() {
        Some(top) if top >= FINE => {
            let within = (value >> (top - FINE)) & ((1 << FINE) - 1);
            (((top - FINE + 1) << FINE) as u64 + within) as usize
        }
        _ => value as usize,
    }
}

/// The first value above a bucket.
pub(crate) fn end(bucket: usize) -> u64 {
    let fine = 1 << FINE;
    let (group, within) = (bucket as u64 / fine, bucket as u64 % fine);
    match group {
        0 => within + 1,
        _ => (fine + within + 1) << (group - 1),
    }
}

/// The bucket up to which the share `at` of `total` samples lies; `None` when `counts` holds fewer.
pub(crate) fn quantile(counts: &[u64], total: u64, at: f64) -> Option<usize> {
    let rank = ((at * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    counts.iter().position(|count| {
        seen += count;
        seen >= rank
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn buckets_are_in_order_and_an_eighth_wide(value in 0u64..1 << 40) {
            let bucket = of(value);
            prop_assert!(bucket < count(40));
            prop_assert!(value < end(bucket) && end(bucket) - 1 - value <= value >> FINE);
            prop_assert!(bucket == 0 || end(bucket - 1) <= value);
            prop_assert!(of(value + 1) - bucket <= 1);
        }
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_that_reaches_its_rank() {
        let counts = [0, 90, 0, 10];
        assert_eq!(quantile(&counts, 100, 0.9), Some(1));
        assert_eq!(quantile(&counts, 100, 0.91), Some(3));
        assert_eq!(quantile(&counts, 100, 0.0), Some(1));
        assert_eq!(quantile(&counts, 200, 0.9), None);
        assert_eq!(quantile(&[0, 0], 0, 0.5), None);
    }
}
