//! Detects endpoints that are far slower than the others. Pure.

use std::time::Duration;

use super::{cause::EjectCause, settings::Ejection};

/// The latency above which an endpoint of a set is slow.
///
/// The comparison is with the endpoint in the middle, and not with a mean and its deviation, as Envoy
/// compares success rates. In a healthy set the deviation is tiny, and a limit of two deviations ejects
/// good endpoints (envoy#18752). In a small set one bad endpoint makes the deviation so large that none is
/// ejected. With an even number of endpoints the slower of the two in the middle counts: if half of the set
/// is slow, it cannot be decided which half is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlowLimit {
    median: Duration,
    limit: Duration,
}

impl SlowLimit {
    /// Computes the limit from the latencies of the measured endpoints; changes the order of `estimates`.
    /// `None` if there are too few of them, or if latency ejection is off.
    pub(super) fn of(estimates: &mut [Duration], rules: &Ejection) -> Option<Self> {
        let factor = rules.slow_factor?;
        if estimates.len() < rules.min_peers as usize {
            return None;
        }
        let middle = estimates.len() / 2;
        let (_, median, _) = estimates.select_nth_unstable(middle);
        let median = *median;
        let limit = median.as_secs_f64() * factor;
        let limit = Duration::try_from_secs_f64(limit).unwrap_or(Duration::MAX);
        Some(Self {
            median,
            limit: limit.max(rules.slow_floor),
        })
    }

    /// The latency that a slow endpoint exceeds.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// The reason to eject an endpoint with this estimate; `None` if it is not slow.
    pub(super) fn judge(&self, estimate: Duration) -> Option<EjectCause> {
        (estimate > self.limit).then_some(EjectCause::Slow {
            estimate,
            median: self.median,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(ms: &[u64], rules: &Ejection) -> Vec<u64> {
        let mut estimates: Vec<_> = ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let Some(slow) = SlowLimit::of(&mut estimates, rules) else {
            return Vec::new();
        };
        let judged = ms.iter().copied();
        judged
            .filter(|ms| slow.judge(Duration::from_millis(*ms)).is_some())
            .collect()
    }

    #[test]
    fn one_of_many_that_is_far_slower_is_found() {
        let rules = Ejection::default();
        assert_eq!(slow(&[167, 160, 150, 170, 2_000], &rules), [2_000]);
        assert_eq!(slow(&[167, 2_000, 170], &rules), [2_000]);
        assert_eq!(slow(&[100, 299, 100], &rules), [0; 0]);
        assert_eq!(slow(&[100, 301, 100], &rules), [301]);
    }

    #[test]
    fn without_a_majority_none_is_slow() {
        let rules = Ejection::default();
        for set in [
            &[][..],
            &[2_000],
            &[10, 2_000],
            &[10, 10, 2_000, 2_000],
            &[10, 2_000, 2_000],
        ] {
            assert_eq!(slow(set, &rules), [0; 0], "{set:?}");
        }
    }

    #[test]
    fn below_the_floor_none_is_slow_and_the_longest_do_not_overflow() {
        let rules = Ejection::default();
        assert_eq!(slow(&[1, 1, 1, 49], &rules), [0; 0]);
        assert_eq!(slow(&[0, 0, 0, 51], &rules), [51]);
        assert_eq!(slow(&[u64::MAX; 3], &rules), [0; 0]);
        let off = Ejection::new().slow_factor(None);
        assert_eq!(slow(&[1, 1, 1, 10_000], &off), [0; 0]);
    }
}
