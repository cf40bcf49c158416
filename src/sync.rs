//! What lock-free code is made of: the standard parts, or loom's while a model runs, which tries every
//! interleaving.
//!
//! Models run with `RUSTFLAGS="--cfg roster_loom" cargo test --lib --release -- model`. The flag has a
//! name of its own because `--cfg loom` would reach tokio too, and change what it does.

#[cfg(all(test, roster_loom))]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};
#[cfg(not(all(test, roster_loom)))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

pub(crate) use atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
