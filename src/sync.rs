//! What lock-free code is made of: the standard parts, or loom's while a model runs, which tries every
//! interleaving.
//!
//! Models run with `RUSTFLAGS="--cfg roster_loom" cargo test --lib --release -- model`. The flag has a
//! name of its own because `--cfg loom` would reach tokio too, and change what it does.

use std::cell::Cell;

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

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The number of this thread. Threads are numbered as they come, so that they spread evenly over what has
/// a part for each.
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

/// A lock that nobody waits for, in a model.
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
