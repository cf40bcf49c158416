//! Tells what is below that an attempt is not the first, so that a request is deposited once.

use std::cell::Cell;

thread_local! {
    static AGAIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs the call of a later attempt.
pub(super) fn enter<T>(call: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            AGAIN.set(self.0);
        }
    }
    let _restore = Restore(AGAIN.replace(true));
    call()
}

/// Whether the call that runs now is that of a later attempt.
pub(crate) fn is_retry() -> bool {
    AGAIN.get()
}
