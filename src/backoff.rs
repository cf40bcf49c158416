//! How long to wait before trying again: exponential, capped, with full jitter.
//!
//! Full jitter draws uniformly from zero to the exponential bound, so that clients which failed
//! together do not come back together; of the usual variants it needs the fewest calls in all
//! ([AWS, *Exponential Backoff And Jitter*]). The clock and the generator are the caller's.
//!
//! [AWS, *Exponential Backoff And Jitter*]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::error::ConfigError;

/// An exponential backoff with full jitter.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30))?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Creates a backoff whose `n`-th delay (from 0) is drawn from zero to
    /// `min(cap, base * 2^n)`.
    ///
    /// # Errors
    /// When `base` is zero or larger than `cap`.
    pub fn new(base: Duration, cap: Duration) -> Result<Self, ConfigError> {
        if base.is_zero() || base > cap {
            return Err(ConfigError::new(
                "backoff",
                format!("base {base:?} must be above zero and at most the cap, {cap:?}"),
            ));
        }
        Ok(Self { base, cap })
    }

    /// A backoff known to be valid, for defaults.
    pub(crate) const fn known(base_ms: u64, cap_ms: u64) -> Self {
        Self {
            base: Duration::from_millis(base_ms),
            cap: Duration::from_millis(cap_ms),
        }
    }

    /// The largest delay before jitter after `failures` failures in a row (0 counts as 1).
    pub fn bound(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// Draws the delay to wait after `failures` failures in a row.
    pub fn delay<R: Rng + ?Sized>(&self, failures: u32, rng: &mut R) -> Duration {
        self.bound(failures).mul_f64(rng.random::<f64>())
    }

    /// The same growth with a cap `factor` times as high, for failures that only people mend.
    pub(crate) fn slower(&self, factor: u32) -> Self {
        Self {
            base: self.base.saturating_mul(factor),
            cap: self.cap.saturating_mul(factor),
        }
    }
}

/// Thirty years: longer than any process runs, and below what every clock can add to itself.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The time `delay` after `now`. A delay that means "never", such as `Duration::MAX`, lies in the far
/// future, where plain addition would panic.
pub(crate) fn after(now: Instant, delay: Duration) -> Instant {
    now + delay.min(NEVER)
}

/// Draws a duration within `spread` (a ratio, 0 to 1) around `mean`.
pub(crate) fn jittered<R: Rng + ?Sized>(mean: Duration, spread: f64, rng: &mut R) -> Duration {
    mean.min(NEVER)
        .mul_f64(1.0 - spread + 2.0 * spread * rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::small_rng;

    #[test]
    fn grows_to_its_cap_and_never_overflows() {
        let backoff = Backoff::known(100, 30_000);
        let bounds: Vec<_> = [0, 1, 2, 3, 10, u32::MAX]
            .map(|n| backoff.bound(n).as_millis())
            .into();
        assert_eq!(bounds, [100, 100, 200, 400, 30_000, 30_000]);
        let longest = Backoff::new(Duration::MAX, Duration::MAX).unwrap();
        assert_eq!(longest.bound(40), Duration::MAX);
    }

    #[test]
    fn draws_from_the_whole_range_and_repeats_with_its_seed() {
        let backoff = Backoff::known(1_000, 1_000);
        let draw = |seed| -> Vec<Duration> {
            let mut rng = small_rng(Some(seed));
            (0..1_000).map(|_| backoff.delay(9, &mut rng)).collect()
        };
        let delays = draw(1);
        assert_eq!(delays, draw(1));
        assert_ne!(delays, draw(2));
        let mean = delays.iter().sum::<Duration>() / 1_000;
        // Uniform on 0..1 s: mean 500 ms, standard error 9.1 ms; 4 of them.
        assert!(
            (463..537).contains(&mean.as_millis()),
            "mean delay {mean:?}"
        );
        assert!(delays.iter().min() < Some(&Duration::from_millis(20)));
        assert!(delays.iter().max() > Some(&Duration::from_millis(980)));
        assert!(delays.iter().all(|d| *d <= Duration::from_secs(1)));
    }

    #[test]
    fn the_longest_delays_neither_overflow_nor_come_soon() {
        let now = Instant::now();
        let year = Duration::from_secs(365 * 86_400);
        assert!(after(now, Duration::MAX) > now + year);
        assert!(jittered(Duration::MAX, 0.1, &mut small_rng(Some(1))) > year);
        let backoff = Backoff::new(Duration::MAX, Duration::MAX).unwrap();
        let delay = backoff.slower(10).delay(40, &mut small_rng(Some(1)));
        assert!(after(now, delay) > now + year);
    }

    #[test]
    fn refuses_a_base_that_is_zero_or_above_the_cap() {
        let second = Duration::from_secs(1);
        assert!(Backoff::new(Duration::ZERO, second).is_err());
        assert!(Backoff::new(second * 2, second).is_err());
    }
}
