//! A shared reference whose clones are counted in several places.
//!
//! A server clones its balancer for each request. If one `Arc` counted all clones, every core would write
//! to the same cache line twice for each request, and would wait for it longer than all other work of the
//! balancer takes. So a reference that is cloned often gets its own counter, in its own cache line, for its
//! clones:
//!
//! ```text
//! first ──┬── a task's ──┬── a request's        counted by the task's
//!         │              └── a request's
//!         └── a task's ─── …                     counted by the first
//! ```
//!
//! A reference that is cloned only a few times shares the counter that counts the reference itself. The
//! reference of a request is an example, which the layers around it may clone; so no request allocates. The
//! value is dropped with the last reference, as with an `Arc`: each counter holds one reference to it.

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// Number of clones after which a reference gets its own counter.
const OFTEN: u32 = 8;

pub(crate) struct BalanceShared<T> {
    /// Counts this reference.
    counter: Arc<Counter<T>>,
    /// Counts the clones of this reference once there are many.
    own: OnceLock<Arc<Counter<T>>>,
    /// The number of clones while there are few. Relaxed: it orders no other memory, and an approximate
    /// number is enough.
    clones: AtomicU32,
}

/// A reference that is held and not cloned, in one word.
pub(crate) struct BalanceHeld<T>(Arc<Counter<T>>);

/// Aligned so that it shares neither its cache line nor the one that the processor prefetches with it.
#[repr(align(128))]
struct Counter<T>(Arc<T>);

impl<T> BalanceShared<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self::counted_by(Arc::new(Counter(value)))
    }

    #[inline]
    fn counted_by(counter: Arc<Counter<T>>) -> Self {
        Self {
            counter,
            own: OnceLock::new(),
            clones: AtomicU32::new(0),
        }
    }

    /// A reference for one request, counted as a clone is.
    #[inline]
    pub(crate) fn hold(&self) -> BalanceHeld<T> {
        BalanceHeld(Arc::clone(self.next()))
    }

    #[inline]
    fn next(&self) -> &Arc<Counter<T>> {
        self.own.get().unwrap_or_else(|| self.counter())
    }

    /// The counter for the next clone while this reference has no own counter.
    #[cold]
    fn counter(&self) -> &Arc<Counter<T>> {
        let clones = self.clones.load(Relaxed);
        if clones < OFTEN {
            self.clones.store(clones + 1, Relaxed);
            return &self.counter;
        }
        let own = || Arc::new(Counter(Arc::clone(&self.counter.0)));
        self.own.get_or_init(own)
    }
}

impl<T> Clone for BalanceShared<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self::counted_by(Arc::clone(self.next()))
    }
}

impl<T> Deref for BalanceShared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.counter.0
    }
}

impl<T> Deref for BalanceHeld<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &(self.0).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_goes_with_the_last_clone_wherever_it_is_counted() {
        let value = Arc::new(());
        let first = BalanceShared::new(Arc::clone(&value));
        let tasks: Vec<_> = (0..3 * OFTEN).map(|_| first.clone()).collect();
        let requests: Vec<_> = tasks
            .iter()
            .flat_map(|task| (0..2 * OFTEN).map(|_| task.clone()))
            .collect();
        drop((first, tasks));
        assert!(Arc::strong_count(&value) > 1);
        drop(requests);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn who_is_cloned_often_has_a_counter_and_others_have_none() {
        let first = BalanceShared::new(Arc::new(()));
        let request = first.clone();
        let layers: Vec<_> = (0..OFTEN).map(|_| request.clone()).collect();
        assert!(request.own.get().is_none());
        assert!(
            layers
                .iter()
                .all(|it| Arc::ptr_eq(&it.counter, &first.counter))
        );
        let more: Vec<_> = (0..2 * OFTEN).map(|_| first.clone()).collect();
        assert!(!Arc::ptr_eq(&more[OFTEN as usize].counter, &first.counter));
    }
}
