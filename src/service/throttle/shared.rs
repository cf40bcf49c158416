//! What all clones of a throttle share, and the decision.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::RngExt;
use tokio::time::Instant;

use super::error::ThrottleError;
use crate::{rng::small_rng, window::TimeWindow};

/// While calls are refused, at least one call in this time is admitted.
const PASS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ThrottleShared {
    pub(super) name: Arc<str>,
    pub(super) k: f64,
    pub(super) span: Duration,
    pub(super) min_calls: u32,
    pub(super) base: Instant,
    /// Calls made, and those accepted as far as is known.
    pub(super) window: TimeWindow,
    pub(super) seed: u64,
    /// The number of the next draw, so that no random generator is shared. Relaxed: the numbers
    /// only have to differ.
    pub(super) draws: AtomicU64,
    /// When a call was last admitted although others were refused, in milliseconds. Relaxed: only
    /// the call that wins the compare-and-swap is admitted, and it publishes no other memory.
    pub(super) passed: AtomicU64,
    /// Relaxed: a statistic.
    pub(super) refused: AtomicU64,
}

impl ThrottleShared {
    /// Admits or refuses a call that is made now.
    pub(super) fn admit(&self, now: Instant) -> Result<(), ThrottleError> {
        let probability = self.probability(now);
        if probability > 0.0 && self.draw() < probability && !self.is_due(now) {
            self.window.add(now, 1, 0);
            self.refused.fetch_add(1, Relaxed);
            return Err(ThrottleError::new(Arc::clone(&self.name), probability));
        }
        self.window.add(now, 1, 1);
        Ok(())
    }

    pub(super) fn probability(&self, now: Instant) -> f64 {
        let (calls, accepted) = self.window.net(now);
        if calls < i64::from(self.min_calls) {
            return 0.0;
        }
        probability(calls, accepted, self.k)
    }

    /// Subtracts the acceptance of a call that was not accepted.
    pub(super) fn reject(&self) {
        self.window.add(Instant::now(), 0, -1);
    }

    /// Subtracts a call entirely, unless the window no longer counts it.
    pub(super) fn withdraw(&self, made: Instant) {
        let now = Instant::now();
        if now.saturating_duration_since(made) < self.span {
            self.window.add(now, -1, -1);
        }
    }

    /// A random number from 0 to 1. Each draw has a generator of its own.
    fn draw(&self) -> f64 {
        let number = self.draws.fetch_add(1, Relaxed);
        small_rng(Some(self.seed.wrapping_add(number))).random()
    }

    /// Whether no call was admitted for [`PASS_EVERY`], so that this one must be.
    fn is_due(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.base).as_millis() as u64;
        let passed = self.passed.load(Relaxed);
        now.saturating_sub(passed) >= PASS_EVERY.as_millis() as u64
            && self
                .passed
                .compare_exchange(passed, now, Relaxed, Relaxed)
                .is_ok()
    }
}

/// The share of calls to refuse.
fn probability(calls: i64, accepted: i64, k: f64) -> f64 {
    let calls = calls.max(0) as f64;
    let accepted = accepted.max(0) as f64;
    ((calls - k * accepted) / (calls + 1.0)).max(0.0)
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_above_k_times_the_accepted() {
        assert_eq!(probability(100, 100, 2.0), 0.0);
        assert_eq!(probability(100, 50, 2.0), 0.0);
        assert_eq!(probability(99, 0, 2.0), 0.99);
        assert_eq!(probability(199, 50, 2.0), 99.0 / 200.0);
        assert_eq!(probability(0, 0, 2.0), 0.0);
        assert_eq!(probability(-3, -8, 2.0), 0.0);
        assert!(probability(i64::MAX, 0, f64::MAX) <= 1.0);
    }
}
