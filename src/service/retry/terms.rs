//! The settings that do not depend on the type of the request, and how requests hold them.

use std::{
    cell::Cell,
    error::Error,
    fmt,
    num::NonZeroU32,
    ops::Deref,
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
        f.debug_struct("Settings")
            .field("delay", &self.delay)
            .field("max_attempts", &self.max_attempts)
            .field("try_timeout", &self.try_timeout)
            .field("deadline", &self.deadline)
            .field("max_pushback", &self.max_pushback)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

thread_local! {
    static SPARE: Cell<Option<Arc<Terms>>> = const { Cell::new(None) };
}

/// One request's hold on its terms.
///
/// Only requests that fail need them, while to count the others is two atomic operations for each, on
/// one counter for all threads. So a request that ends leaves its reference to the next one of its
/// thread, which thereby keeps the terms of one layer beyond their time. Not where no clock is read:
/// then counting costs one thread less than looking for a spare.
pub(super) struct Lease(Option<Arc<Terms>>);

impl Lease {
    #[inline]
    pub(super) fn new(terms: &Arc<Terms>) -> Self {
        if terms.needs_time {
            if let Ok(Some(spare)) = SPARE.try_with(Cell::take) {
                if Arc::ptr_eq(&spare, terms) {
                    return Self(Some(spare));
                }
            }
        }
        Self(Some(terms.clone()))
    }
}

impl Deref for Lease {
    type Target = Terms;

    #[inline]
    fn deref(&self) -> &Terms {
        self.0.as_ref().expect("held until it is dropped")
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if self.0.as_ref().is_some_and(|terms| terms.needs_time) {
            // A thread that ends keeps nothing.
            let _ = SPARE.try_with(|spare| drop(spare.replace(self.0.take())));
        }
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use super::*;
    use crate::service::retry::RetryLayer;

    fn terms() -> Arc<Terms> {
        RetryLayer::default().settings.terms
    }

    #[test]
    fn a_request_leaves_its_hold_to_the_next() {
        let terms = terms();
        drop(Lease::new(&terms));
        assert_eq!(Arc::strong_count(&terms), 2);
        let [first, second] = [Lease::new(&terms), Lease::new(&terms)];
        assert_eq!(Arc::strong_count(&terms), 3);
        drop((first, second));
        assert_eq!(Arc::strong_count(&terms), 2, "a thread keeps one");
    }

    #[test]
    fn a_thread_keeps_the_terms_of_one_layer() {
        let [one, other] = [terms(), terms()];
        drop(Lease::new(&one));
        let lease = Lease::new(&other);
        assert!(std::ptr::eq(&*lease, &*other));
        drop(lease);
        assert_eq!([&one, &other].map(Arc::strong_count), [1, 2]);
    }
}
