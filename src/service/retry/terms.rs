//! The settings that do not depend on the type of the request.

use std::{
    error::Error,
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{RetryBudget, budget::SlotEnd};
use crate::{
    backoff::{Backoff, after},
    rng::small_rng,
};

/// By what a request is sent again.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) delay: Backoff,
    pub(super) max_attempts: NonZeroU32,
    pub(super) try_timeout: Option<Duration>,
    pub(super) deadline: Option<Duration>,
    pub(super) max_pushback: Duration,
    pub(super) unsent: fn(&(dyn Error + 'static)) -> bool,
    pub(super) budget: Option<RetryBudget>,
    /// Whether a request has to know when it came.
    pub(super) needs_time: bool,
    pub(super) seed: Option<Arc<AtomicU64>>,
}

impl Terms {
    /// Notes a request. When it came, where anything depends on that.
    #[inline]
    pub(super) fn begin(&self, slot: &mut SlotEnd) -> Option<Instant> {
        let came = self.needs_time.then(Instant::now);
        if let (Some(budget), Some(now)) = (&self.budget, came) {
            budget.deposit_in(slot, now);
        }
        came
    }

    /// When no further attempt starts, for a request that came then.
    pub(super) fn deadline(&self, came: Option<Instant>) -> Option<Instant> {
        Some(after(came?, self.deadline?))
    }

    /// A generator for one delay. Each is new, because a request that is not retried should not carry
    /// one.
    pub(super) fn rng(&self) -> SmallRng {
        // Relaxed: the seeds only have to differ.
        small_rng(self.seed.as_ref().map(|seed| seed.fetch_add(1, Relaxed)))
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("delay", &self.delay)
            .field("max_attempts", &self.max_attempts)
            .field("try_timeout", &self.try_timeout)
            .field("deadline", &self.deadline)
            .field("max_pushback", &self.max_pushback)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
