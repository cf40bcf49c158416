//! Computes the delay before the next attempt: a fixed interval, or exponential growth with jitter.
//!
//! Clients that failed together must not retry together, so a part of each delay is random. The kinds of
//! jitter, for a bound `b = min(cap, base * 2^n)` and a previous delay `p`:
//!
//! | [`Jitter`] | delay | |
//! |---|---|---|
//! | `Full` | uniform in `0..b` | the fewest calls in all; the default |
//! | `Equal` | uniform in `b/2..b` | never immediately |
//! | `Decorrelated` | uniform in `base..3p`, at most `cap` | no steps; the mean grows by 1.5 |
//! | `None` | `b` | for a single client only |
//!
//! They are described in [AWS, *Exponential Backoff And Jitter*], whose measurements favour full jitter.
//! Delays are exact to the nanosecond (tower's are whole seconds from 1 s on) and never above the cap.
//! They are drawn from the caller's random generator, so two users of the same settings do not retry
//! together. The file is pure: it reads no clock and owns no generator.
//!
//! [AWS, *Exponential Backoff And Jitter*]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::error::ConfigError;

/// The longest delay by default, 60 s: attempts at that rate cost almost nothing, and still notice soon
/// that the service has recovered.
const CAP: Duration = Duration::from_secs(60);

/// The random part of a delay; see the [module](self) for the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// The whole delay is random.
    #[default]
    Full,
    /// The upper half of the delay is random.
    Equal,
    /// The whole delay is random, between the base and three times the previous delay.
    Decorrelated,
    /// No part of the delay is random.
    None,
}

/// The settings for the delays between attempts.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::{Backoff, backoff::Jitter};
///
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30))?;
/// let steady = backoff.jitter(Jitter::Equal);
/// let fixed = Backoff::fixed(Duration::from_millis(20));
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// Creates a backoff that grows from `base`, doubling each time, to `cap`, with full jitter.
    ///
    /// # Errors
    /// When `base` is zero or larger than `cap`.
    pub fn new(base: Duration, cap: Duration) -> Result<Self, ConfigError> {
        if base.is_zero() || base > cap {
            return Err(ConfigError::new(
                "backoff.base",
                format!("{base:?} is not in 1ns..={cap:?}, the cap"),
            ));
        }
        Ok(Self {
            base,
            cap,
            jitter: Jitter::Full,
        })
    }

    /// Creates a backoff that grows from `base` to 60 s, with full jitter.
    ///
    /// # Errors
    /// When `base` is zero or above 60 s.
    pub fn exponential(base: Duration) -> Result<Self, ConfigError> {
        Self::new(base, CAP)
    }

    /// Creates a backoff with the same delay before each attempt, without jitter. Zero retries at once.
    pub const fn fixed(interval: Duration) -> Self {
        Self {
            base: interval,
            cap: interval,
            jitter: Jitter::None,
        }
    }

    /// Sets the random part of a delay; [`Jitter::Full`] by default.
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Creates a backoff from constants that are valid, for defaults.
    pub(crate) const fn known(base_ms: u64, cap_ms: u64) -> Self {
        Self {
            base: Duration::from_millis(base_ms),
            cap: Duration::from_millis(cap_ms),
            jitter: Jitter::Full,
        }
    }

    /// Returns the longest delay.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// Returns the delay before jitter after `failures` failures in a row (0 counts as 1). With full and
    /// equal jitter the delay is below this bound. With decorrelated jitter only the cap bounds it.
    pub fn bound(&self, failures: u32) -> Duration {
        doubled(self.base, self.cap, failures.saturating_sub(1))
    }

    /// Draws the delay after `failures` failures in a row (0 counts as 1).
    ///
    /// It is meant for callers that count failures anyway. With decorrelated jitter it draws all earlier
    /// delays anew; [`delays`](Self::delays) remembers the previous delay instead.
    pub fn delay<R: Rng + ?Sized>(&self, failures: u32, rng: &mut R) -> Duration {
        let bound = self.bound(failures);
        match self.jitter {
            Jitter::Full => fraction(bound, rng),
            Jitter::Equal => bound / 2 + fraction(bound - bound / 2, rng),
            Jitter::None => bound,
            Jitter::Decorrelated => {
                let steps = failures.clamp(1, 32);
                (0..steps).fold(self.base, |previous, _| self.after(previous, rng))
            }
        }
    }

    /// Creates the series of delays between attempts.
    pub fn delays(&self) -> Delays {
        Delays {
            backoff: *self,
            failures: 0,
            previous: self.base,
        }
    }

    /// Draws the decorrelated delay that follows `previous`.
    fn after<R: Rng + ?Sized>(&self, previous: Duration, rng: &mut R) -> Duration {
        let span = previous.saturating_mul(3).saturating_sub(self.base);
        self.base.saturating_add(fraction(span, rng)).min(self.cap)
    }

    /// Returns these settings with base and cap multiplied by `factor`, for failures that only a person
    /// can fix.
    pub(crate) fn slower(&self, factor: u32) -> Self {
        Self {
            base: self.base.saturating_mul(factor),
            cap: self.cap.saturating_mul(factor),
            jitter: self.jitter,
        }
    }
}

/// Draws a duration uniform in `0..bound`.
fn fraction<R: Rng + ?Sized>(bound: Duration, rng: &mut R) -> Duration {
    bound.mul_f64(rng.random::<f64>())
}

/// The delays of one series of attempts; made by [`Backoff::delays`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    backoff: Backoff,
    failures: u32,
    previous: Duration,
}

impl Delays {
    /// Draws the delay before the next attempt.
    pub fn next<R: Rng + ?Sized>(&mut self, rng: &mut R) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.previous = match self.backoff.jitter {
            Jitter::Decorrelated => self.backoff.after(self.previous, rng),
            _ => self.backoff.delay(self.failures, rng),
        };
        self.previous
    }
}

/// Thirty years: longer than any process runs, and short enough to be added to any `Instant`.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Returns the time `delay` after `now`. A delay that means "never", such as `Duration::MAX`, gives a
/// time in the far future, where plain addition panics.
pub(crate) fn after(now: Instant, delay: Duration) -> Instant {
    now + delay.min(NEVER)
}

/// The share of a hint that is added to it at random, at most. As in Envoy, which adds up to half of a
/// `Retry-After`: clients that are told the same time must not come back at the same time.
const SPREAD: f64 = 0.5;

/// Returns how long to wait when the peer asks for at least `hint`: that and a random part, or the own
/// `backoff` if it is longer. A hint of zero, or a date that a skewed clock puts into the past, so does
/// not replace the backoff.
pub(crate) fn hinted<R: Rng + ?Sized>(hint: Duration, backoff: Duration, rng: &mut R) -> Duration {
    let hint = hint.min(NEVER);
    (hint + fraction(hint.mul_f64(SPREAD), rng)).max(backoff)
}

/// `base` after so many doublings, at most `cap`.
pub(crate) fn doubled(base: Duration, cap: Duration, doublings: u32) -> Duration {
    base.saturating_mul(1 << doublings.min(31)).min(cap)
}

/// Draws a duration within `spread` (a ratio, 0 to 1) around `mean`.
pub(crate) fn jittered<R: Rng + ?Sized>(mean: Duration, spread: f64, rng: &mut R) -> Duration {
    mean.min(NEVER)
        .mul_f64(1.0 - spread + 2.0 * spread * rng.random::<f64>())
}

#[cfg(test)]
mod tests;
