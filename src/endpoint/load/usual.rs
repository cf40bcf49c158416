//! The usual latency of an endpoint, with its standard error.
//!
//! The documentation of [`Usual`] gives the formulas. The mean of the *squared* deviations is kept,
//! where Jacobson and Karels keep absolute values. A single outlier must not separate two equal
//! endpoints, however large it is. It moves the mean by an eighth of its size, so the error must grow in
//! proportion. With squares, the error becomes 1/12 of the outlier, so the mean is 1.4 errors away. With
//! absolute values it would become 1/25, and one pause of 20 ms among responses of 0.3 ms would separate
//! an endpoint from its equals.

/// The least gain, as in RFC 6298. With 1/16, shares of equal endpoints are as equal, and the p99 with
/// servers that are slow for 5 s at a time is 5 to 10 % higher.
const GAIN: f64 = 1.0 / 8.0;

/// The number of independent samples whose plain mean is as exact as a mean with that gain, which is
/// `2 / gain - 1`.
const WINDOW: u8 = 15;

/// The number of standard errors by which two alike means may differ. At any time, 5 % of equal means
/// differ by more. With one standard error it would be 32 %, and equal endpoints would get up to 17 %
/// more than their due (`cargo bench --bench quality equals`).
const SURE: f64 = 2.0;

/// The number of deviations above the mean from which a request is late, as for the timeout of RFC 6298.
const LATE: f64 = 4.0;

/// Seconds. The time of a packet within a data centre. Below this, latencies show the scheduling of this
/// process more than the endpoints.
pub(crate) const GRAIN: f64 = 0.000_5;

/// The usual latency of an endpoint: the mean of its last responses, and the standard error of that
/// mean.
///
/// # How it works
/// Mean and variance follow the samples as in [*Congestion avoidance and control*] (Jacobson and Karels;
/// RFC 6298). The first deviation is assumed to be half of the first sample. The gain is 1/n for the
/// first 8 samples and then 1/8, so the mean covers about the last 15 samples.
///
/// ```text
/// gain      = max(1 / n, 1 / 8)
/// mean'     = mean + gain × (sample - mean)
/// variance' = (1 - gain) × (variance + gain × (sample - mean)²)
/// error²    = variance / min(n, 15)                              of the mean; 15 is 2 / gain - 1
/// alike     : |mean₁ - mean₂| ≤ 2 × √(error₁² + error₂²) + grain
/// late      : waited > mean + 4 × √variance + grain
/// ```
///
/// A single sample says little: its error is half of its value, so it is like every lower one.
///
/// [*Congestion avoidance and control*]: https://doi.org/10.1145/52324.52356
///
/// # Examples
/// ```
/// use tower_roster::endpoint::load::Usual;
///
/// let [one, other] = [Usual::new(0.010, 0.001), Usual::new(0.012, 0.002)];
/// assert!(one.is_like(other, 0.0), "2 ms are less than twice √(1² + 2²) ms");
/// assert!(!one.is_like(Usual::new(0.020, 0.002), 0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usual {
    /// The mean, in seconds.
    mean: f32,
    /// The square of the standard error of the mean, in seconds².
    error: f32,
}

impl Usual {
    /// The value before the first sample; it is like any other.
    pub(super) const UNKNOWN: Self = Self {
        mean: 0.0,
        error: f32::INFINITY,
    };

    /// Creates it from a mean and its standard error, in seconds. If one of them is `NaN`, the result is
    /// like no other.
    pub fn new(mean: f64, error: f64) -> Self {
        Self {
            mean: mean as f32,
            error: (error * error) as f32,
        }
    }

    /// Returns the mean, in seconds.
    #[inline]
    pub fn mean(self) -> f64 {
        f64::from(self.mean)
    }

    /// Whether there was at least one sample.
    #[inline]
    pub(crate) fn is_known(self) -> bool {
        self.error < f32::INFINITY
    }

    /// Returns whether two usual latencies differ by no more than chance: twice the standard error of
    /// the difference, plus `grain`, in seconds.
    #[inline]
    pub fn is_like(self, other: Self, grain: f64) -> bool {
        let apart = (self.mean() - other.mean()).abs() - grain;
        let error = f64::from(self.error) + f64::from(other.error);
        apart <= 0.0 || apart * apart <= SURE * SURE * error
    }

    /// Adds one sample, in seconds, to a value made from `samples` samples.
    pub(super) fn and(self, sample: f64, samples: u8) -> Self {
        if samples == 0 {
            return Self::new(sample, 0.5 * sample);
        }
        let variance = f64::from(self.error) * f64::from(samples);
        let samples = count(samples);
        let gain = GAIN.max(1.0 / f64::from(samples));
        let off = sample - self.mean();
        let variance = (1.0 - gain) * (variance + gain * off * off);
        Self {
            mean: (self.mean() + gain * off) as f32,
            error: (variance / f64::from(samples)) as f32,
        }
    }

    /// Whether a request that has waited for this time, in seconds, is late. `self` was made from
    /// `samples` samples.
    #[inline]
    pub(super) fn is_late(self, waited: f64, samples: u8) -> bool {
        let beyond = waited - self.mean() - GRAIN;
        let variance = f64::from(self.error) * f64::from(samples);
        beyond > 0.0 && beyond * beyond > LATE * LATE * variance
    }

    #[inline]
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.mean.to_bits()) << 32 | u64::from(self.error.to_bits())
    }

    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            mean: f32::from_bits((bits >> 32) as u32),
            error: f32::from_bits(bits as u32),
        }
    }
}

/// The number of samples after one more. The count stops at the window.
pub(super) fn count(samples: u8) -> u8 {
    WINDOW.min(samples + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(samples: &[f64]) -> (Usual, u8) {
        let first = (Usual::UNKNOWN, 0);
        samples.iter().fold(first, |(usual, samples), sample| {
            (usual.and(*sample, samples), count(samples))
        })
    }

    proptest! {
        /// Mean, error and comparison follow the documented formulas, though squares are compared.
        #[test]
        fn means_are_compared_as_it_is_told(
            one in prop::collection::vec(1e-5f64..10.0, 1..60),
            other in prop::collection::vec(1e-5f64..10.0, 1..60),
            grain in prop::sample::select(vec![0.0, GRAIN]),
            waited in 1e-5f64..40.0,
        ) {
            let told = |samples: &[f64]| {
                let (mut mean, mut variance) = (samples[0], (samples[0] / 2.0).powi(2));
                for (n, sample) in (2..).zip(&samples[1..]) {
                    let gain = (1.0 / f64::from(n)).max(1.0 / 8.0);
                    variance = (1.0 - gain) * (variance + gain * (sample - mean).powi(2));
                    mean += gain * (sample - mean);
                }
                let error = (variance / samples.len().min(15) as f64).sqrt();
                (mean, variance.sqrt(), error)
            };
            let [(m1, deviation, e1), (m2, _, e2)] = [&one, &other].map(|samples| told(samples));
            let [(one, counted), (other, _)] = [&one, &other].map(|samples| of(samples));
            prop_assert!((one.mean() - m1).abs() <= 1e-5 * m1, "{} for {m1}", one.mean());
            let (apart, sure) = ((m1 - m2).abs(), 2.0 * e1.hypot(e2) + grain);
            if (apart - sure).abs() > 1e-4 * sure {
                prop_assert_eq!(one.is_like(other, grain), apart < sure);
            }
            prop_assert_eq!(one.is_like(other, grain), other.is_like(one, grain));
            let late = m1 + 4.0 * deviation + GRAIN;
            if (waited - late).abs() > 1e-4 * late {
                prop_assert_eq!(one.is_late(waited, counted), waited > late);
            }
        }

        #[test]
        fn a_single_outlier_does_not_tell_an_endpoint_apart(
            usual in 1e-5f64..1.0,
            outlier in 1.0f64..1e6,
            before in 1usize..100,
            after in 0usize..20,
        ) {
            let mut samples = vec![usual; before + 1 + after];
            let equal = of(&samples).0;
            samples[before] = usual * outlier;
            prop_assert!(of(&samples).0.is_like(equal, 0.0));
        }

        #[test]
        fn what_is_packed_is_the_same(mean in 0f64..1e6, error in 0f64..1e6) {
            let usual = Usual::new(mean, error);
            prop_assert_eq!(Usual::from_bits(usual.to_bits()), usual);
        }
    }

    #[test]
    fn before_the_first_sample_it_is_like_any_and_nothing_is_late() {
        let unknown = Usual::UNKNOWN;
        assert!(!unknown.is_known());
        for mean in [0.0, 1e-6, 1e3] {
            assert!(unknown.is_like(Usual::new(mean, 0.0), 0.0));
        }
        assert!(unknown.is_like(unknown, 0.0));
        assert!(!unknown.is_late(1e9, 0));
    }

    #[test]
    fn one_sample_is_like_every_lower_one() {
        let one = of(&[0.030]).0;
        assert!(one.is_like(of(&[1e-6]).0, 0.0));
        assert!(
            !one.is_like(Usual::new(0.070, 0.0), 0.0),
            "but not like any"
        );
    }

    #[test]
    fn without_deviation_the_grain_decides() {
        let [one, close, far] = [0.010, 0.010_4, 0.010_6].map(|sample| of(&[sample; 500]).0);
        assert!(one.is_like(close, GRAIN) && !one.is_like(close, 0.0));
        assert!(!one.is_like(far, GRAIN));
    }

    #[test]
    fn two_outliers_in_a_row_tell_an_endpoint_apart() {
        let mut samples = vec![0.001; 100];
        let equal = of(&samples).0;
        samples.extend([0.1, 0.1]);
        assert!(!of(&samples).0.is_like(equal, GRAIN));
    }
}
