//! Passes values between layers that have no access to each other.
//!
//! A retry above the balancer must report the failed endpoints to it, and a discovery below the balancer
//! must report its watch. The user's layers and adaptors in between have no place for such a value. So
//! one side makes it the current value of the thread while it calls the other side, which reads or
//! changes it there.
//!
//! ```text
//! upper: during(&KEY, &mut value, || inner.call(request))
//!                                          │
//! lower:                                   └─ KEY.get(), KEY.set(…)
//! ```
//!
//! This costs a thread-local access on each side, and no allocation. If another task runs between the
//! two, such as a `tower::buffer::Buffer`, the value is not visible; each use documents its fallback.

use std::{cell::Cell, mem, thread::LocalKey};

/// Makes `value` the current value of `key` while `run` runs. Afterwards `value` holds the value that
/// `run` left there, and the former value is current again, even if `run` panics.
#[inline]
pub(crate) fn during<T: Default, R>(
    key: &'static LocalKey<Cell<T>>,
    value: &mut T,
    run: impl FnOnce() -> R,
) -> R {
    struct Restore<'a, T: Default + 'static> {
        key: &'static LocalKey<Cell<T>>,
        value: &'a mut T,
        former: T,
    }
    impl<T: Default> Drop for Restore<'_, T> {
        #[inline]
        fn drop(&mut self) {
            *self.value = self.key.replace(mem::take(&mut self.former));
        }
    }
    let former = key.replace(mem::take(value));
    let _restore = Restore { key, value, former };
    run()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    thread_local! {
        static CURRENT: Cell<u32> = const { Cell::new(0) };
    }

    #[test]
    fn values_nest_and_a_panic_restores_the_former_one() {
        let (mut outer, mut inner) = (1, 10);
        let result = catch_unwind(AssertUnwindSafe(|| {
            during(&CURRENT, &mut outer, || {
                CURRENT.set(CURRENT.get() + 1);
                during(&CURRENT, &mut inner, || {
                    CURRENT.set(CURRENT.get() + 1);
                    panic!("the closure panics");
                })
            })
        }));
        assert!(result.is_err());
        assert_eq!((outer, inner, CURRENT.get()), (2, 11, 0));
    }
}
