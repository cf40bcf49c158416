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

use super::budget::{RetryBudget, SlotEnd};
use crate::{
    backoff::{Backoff, after},
    rng::small_rng,
};

/// By what a request is sent again.
///
/// Each request has a copy: to count references to a shared one costs two atomic operations, more than all
/// the rest of a request that is answered the first time.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) rules: Rules,
    pub(super) budget: Option<RetryBudget>,
    pub(super) seed: Option<Arc<AtomicU64>>,
}

/// The part that is copied as it is.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) delay: Backoff,
    pub(super) max_attempts: NonZeroU32,
    pub(super) try_timeout: Option<Duration>,
    pub(super) deadline: Option<Duration>,
    pub(super) max_pushback: Duration,
    pub(super) unsent: fn(&(dyn Error + 'static)) -> bool,
    /// Whether a request has to know when it came.
    pub(super) needs_time: bool,
}

impl Terms {
    /// Notes a request. When it came, where anything depends on that.
    #[inline]
    pub(super) fn begin(&self, slot: &mut SlotEnd) -> Option<Instant> {
        let came = self.rules.needs_time.then(Instant::now);
        if let (Some(budget), Some(now)) = (&self.budget, came) {
            budget.deposit_in(slot, now);
        }
        came
    }

    /// Whether an attempt that runs may have to be given up.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.rules.try_timeout.is_some() || self.rules.deadline.is_some()
    }

    /// When a request that came then is given up.
    pub(super) fn deadline(&self, came: Option<Instant>) -> Option<Instant> {
        Some(after(came?, self.rules.deadline?))
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
            .field("delay", &self.rules.delay)
            .field("max_attempts", &self.rules.max_attempts)
            .field("try_timeout", &self.rules.try_timeout)
            .field("deadline", &self.rules.deadline)
            .field("max_pushback", &self.rules.max_pushback)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// What all requests of a layer go by.
#[derive(Clone, Debug)]
pub(super) struct Settings<R, C> {
    pub(super) reissue: R,
    pub(super) classify: C,
    pub(super) terms: Terms,
}
