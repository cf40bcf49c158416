//! Limits the rate of requests to a backend: a token bucket over requests, not a pause after each.
//!
//! A pause after each request would delay the first change after a quiet time. Without a limit, a
//! service that changes often causes a flood of requests: an unlimited Consul watcher sent 740 requests
//! a second while other clients wrote. The caller passes the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::after;

/// A limit on the rate of requests: `burst` requests at once, and one more each `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    burst: u32,
    every: Duration,
}

impl Limit {
    /// No limit, for backends that reply from memory.
    pub const NONE: Self = Self {
        burst: u32::MAX,
        every: Duration::ZERO,
    };

    /// Creates a limit; a burst of 0 counts as 1.
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst: if burst == 0 { 1 } else { burst },
            every,
        }
    }
}

impl Default for Limit {
    /// Two requests at once and ten a second. A change after a quiet time is seen at once. Changes that
    /// come faster than ten a second are seen together.
    fn default() -> Self {
        Self::new(2, Duration::from_millis(100))
    }
}

/// A [`Limit`] in use.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: Limit,
    /// When the bucket will be full again (GCRA's theoretical arrival time).
    full_at: Instant,
}

impl Pace {
    pub(crate) fn new(limit: Limit, now: Instant) -> Self {
        Self {
            limit,
            full_at: now,
        }
    }

    /// Takes one token. Returns the time from which the request may be sent.
    pub(crate) fn take(&mut self, now: Instant) -> Instant {
        let Limit { burst, every } = self.limit;
        if every.is_zero() {
            return now;
        }
        let depth = every.saturating_mul(burst - 1);
        let start = self.full_at.max(now);
        self.full_at = after(start, every);
        start.checked_sub(depth).unwrap_or(now).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let start = Instant::now();
        let every = Duration::from_millis(100);
        let mut pace = Pace::new(Limit::new(2, every), start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..5 {
            let at = pace.take(now);
            waits.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(waits, [0, 0, 100, 100, 100]);
        let later = now + every * 50;
        assert_eq!(pace.take(later), later, "the bucket refills");
        assert_eq!(pace.take(later), later, "up to its burst");
        assert_eq!(pace.take(later), later + every, "and not above it");
    }

    #[test]
    fn the_longest_interval_is_no_panic() {
        let now = Instant::now();
        let mut pace = Pace::new(Limit::new(1, Duration::MAX), now);
        assert_eq!(pace.take(now), now);
        assert!(pace.take(now) > now + Duration::from_secs(86_400));
        assert!(pace.take(now) > now + Duration::from_secs(86_400));
    }

    #[test]
    fn no_limit_never_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(Limit::NONE, now);
        assert!((0..1_000).all(|_| pace.take(now) == now));
    }
}
