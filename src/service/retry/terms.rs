//! The settings that do not depend on the type of the request.

use std::{
    error::Error,
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
    alarm::Alarms,
    attempt,
    backoff::{Backoff, after},
    deadline::Deadline,
    rng::small_rng,
};

/// The rules of retries.
///
/// Each request has a copy. Counting references to shared rules would cost two atomic operations,
/// which is more than the rest of the work for a request whose first attempt succeeds.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) rules: Rules,
    /// `None` unless there is a budget, a limit or a seed, or requests may have a deadline.
    pub(super) shared: Option<Arc<RetryShared>>,
}

/// What all requests of a layer share.
pub(super) struct RetryShared {
    pub(super) budget: Option<RetryBudget>,
    pub(super) seed: Option<AtomicU64>,
    pub(super) alarms: Arc<Alarms>,
}

impl RetryShared {
    pub(super) fn new(budget: Option<RetryBudget>, seed: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            seed: seed.map(AtomicU64::new),
            alarms: Alarms::new(),
        })
    }
}

/// The part that is copied for each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) delay: Backoff,
    pub(super) max_attempts: NonZeroU32,
    pub(super) try_timeout: Option<Duration>,
    pub(super) deadline: Option<Duration>,
    pub(super) max_pushback: Duration,
    pub(super) unsent: fn(&(dyn Error + 'static)) -> bool,
    /// Whether the start of a request must be known.
    pub(super) needs_time: bool,
}

impl Terms {
    /// The start of a request, if the rules need it.
    #[inline]
    pub(super) fn begin(&self) -> Option<Instant> {
        self.rules.needs_time.then(attempt::now)
    }

    /// Deposits for a request that is about to be sent.
    #[inline]
    pub(super) fn deposit(&self, slot: &mut SlotEnd, came: Option<Instant>) {
        if let (Some(budget), Some(now)) = (self.budget(), came) {
            budget.deposit_in(slot, now);
        }
    }

    #[inline]
    pub(super) fn budget(&self) -> Option<&RetryBudget> {
        self.shared.as_ref()?.budget.as_ref()
    }

    /// Whether an attempt or a request has a time limit.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.rules.try_timeout.is_some() || self.rules.deadline.is_some()
    }

    /// The deadline of a request that started at `came`.
    pub(super) fn deadline(&self, came: Option<Instant>) -> Option<Instant> {
        Some(after(came?, self.rules.deadline?))
    }

    /// The limits of a request that has a deadline of its own: the earlier of that and the layer's.
    pub(super) fn limits(&self, came: Option<Instant>, own: Deadline) -> RequestLimits {
        let came = came.unwrap_or_else(Instant::now);
        let own = own.instant().saturating_duration_since(came);
        let time = self.rules.deadline.map_or(own, |time| time.min(own));
        RequestLimits { came, time }
    }

    /// A new generator for one delay. A request does not keep one, because most requests are not
    /// retried.
    pub(super) fn rng(&self) -> SmallRng {
        // Relaxed: the seeds only have to differ.
        let seed = self.shared.as_ref().and_then(|it| it.seed.as_ref());
        small_rng(seed.map(|seed| seed.fetch_add(1, Relaxed)))
    }
}

/// The limits of a request that has a deadline of its own.
#[derive(Clone, Copy)]
pub(super) struct RequestLimits {
    /// When it came.
    pub(super) came: Instant,
    /// How long all its attempts may take.
    pub(super) time: Duration,
}

impl RequestLimits {
    /// Whether there is no time for an attempt.
    pub(super) fn is_over(self) -> bool {
        self.time.is_zero()
    }

    pub(super) fn end(self) -> Deadline {
        Deadline::at(after(self.came, self.time))
    }
}

impl_debug!(Terms: |this|
    delay = this.rules.delay,
    max_attempts = this.rules.max_attempts,
    try_timeout = this.rules.try_timeout,
    deadline = this.rules.deadline,
    max_pushback = this.rules.max_pushback,
    budget = this.budget(),
);

/// All settings of a layer.
#[derive(Clone, Debug)]
pub(super) struct RetryParts<R, C> {
    pub(super) reissue: R,
    pub(super) classify: C,
    pub(super) terms: Terms,
}
