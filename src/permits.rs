//! A changing number of permits, while calls hold some of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

#[derive(Debug)]
pub(crate) struct Permits {
    semaphore: Arc<Semaphore>,
    /// Permits that are removed when they are returned. Relaxed: this is only a count, and the
    /// semaphore orders what permits protect.
    owed: AtomicUsize,
}

/// One permit. Dropping it returns it.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    permits: Arc<Permits>,
}

impl Permits {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(count)),
            owed: AtomicUsize::new(0),
        }
    }

    /// Takes a permit if one is free and no call waits for it.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        match Arc::clone(&self.semaphore).try_acquire_owned() {
            Ok(permit) => Some(self.permit(permit)),
            Err(TryAcquireError::NoPermits) => None,
            Err(TryAcquireError::Closed) => unreachable!("the semaphore is never closed"),
        }
    }

    /// Waits for a permit, first come, first served.
    pub(crate) async fn acquire(self: Arc<Self>) -> Permit {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await;
        self.permit(permit.expect("the semaphore is never closed"))
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Permit {
        Permit {
            permit: Some(permit),
            permits: Arc::clone(self),
        }
    }

    /// Changes the number of permits, without waiting. Permits that calls hold stay valid.
    pub(crate) fn change(&self, from: usize, to: usize) {
        if to >= from {
            let more = to - from;
            let owed = self
                .owed
                .fetch_update(Relaxed, Relaxed, |owed| Some(owed.saturating_sub(more)));
            let (Ok(owed) | Err(owed)) = owed;
            self.semaphore.add_permits(more.saturating_sub(owed));
        } else {
            let fewer = from - to;
            let gone = self.semaphore.forget_permits(fewer);
            self.owed.fetch_add(fewer - gone, Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let owed = self
            .permits
            .owed
            .fetch_update(Relaxed, Relaxed, |owed| owed.checked_sub(1));
        if let (Ok(_), Some(permit)) = (owed, self.permit.take()) {
            permit.forget();
        }
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use std::thread;

    use super::*;

    fn available(permits: &Arc<Permits>) -> usize {
        std::iter::from_fn(|| permits.try_acquire())
            .collect::<Vec<_>>()
            .len()
    }

    #[test]
    fn a_smaller_number_holds_when_permits_come_back() {
        let permits = Arc::new(Permits::new(5));
        let mut out: Vec<_> = (0..4).filter_map(|_| permits.try_acquire()).collect();
        permits.change(5, 2);
        assert_eq!(available(&permits), 0);
        out.truncate(2); // two are returned, and both are removed
        assert_eq!(available(&permits), 0);
        out.truncate(1);
        assert_eq!(available(&permits), 1);
        out.clear();
        assert_eq!(available(&permits), 2);
    }

    #[test]
    fn a_larger_number_pays_what_is_owed_first() {
        let permits = Arc::new(Permits::new(4));
        let out: Vec<_> = (0..4).filter_map(|_| permits.try_acquire()).collect();
        permits.change(4, 1);
        permits.change(1, 3);
        assert_eq!(available(&permits), 0);
        drop(out);
        assert_eq!(available(&permits), 3);
    }

    #[test]
    fn threads_keep_the_number() {
        let permits = Arc::new(Permits::new(8));
        thread::scope(|scope| {
            for _ in 0..7 {
                scope.spawn(|| (0..20_000).for_each(|_| drop(permits.try_acquire())));
            }
            scope.spawn(|| {
                for _ in 0..5_000 {
                    permits.change(8, 2);
                    permits.change(2, 8);
                }
            });
        });
        assert_eq!(available(&permits), 8);
    }
}
