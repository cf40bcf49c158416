//! The building blocks of lock-free code: the standard ones, or loom's while a model runs, which tries
//! every interleaving.
//!
//! Models run with `RUSTFLAGS="--cfg roster_loom" cargo test --lib --release -- model`. The flag has its
//! own name because `--cfg loom` would also change tokio.

use std::{
    cell::Cell,
    sync::{Mutex, MutexGuard, PoisonError},
};

#[cfg(all(test, roster_loom))]
pub(crate) use loom::{
    sync::{Arc, MutexGuard as Locked, atomic},
    thread::yield_now,
};
#[cfg(not(all(test, roster_loom)))]
pub(crate) use std::{
    sync::{Arc, atomic},
    thread::yield_now,
};
#[cfg(not(all(test, roster_loom)))]
pub(crate) use try_lock::{Locked, TryLock};

pub(crate) use atomic::{AtomicU8, AtomicU64, Ordering};

/// Locks a mutex. A poisoned one is used as it is: each panic of a holder leaves the data whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Returns the number of this thread. Threads are numbered in the order of their first call, so that they
/// spread evenly over the parts of a structure that has a part per thread.
#[inline]
pub(crate) fn thread_number() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            // Relaxed: the numbers only have to differ.
            number.set(NEXT.fetch_add(1, Relaxed) & (usize::MAX >> 1));
        }
        number.get()
    })
}

/// The model's version of a lock that no thread waits for.
#[cfg(all(test, roster_loom))]
pub(crate) struct TryLock<T>(loom::sync::Mutex<T>);

#[cfg(all(test, roster_loom))]
impl<T> TryLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn try_lock(&self) -> Option<Locked<'_, T>> {
        self.0.try_lock().ok()
    }
}
