//! The atomics of lock-free code: std's, or loom's under `--cfg loom`, which tries every interleaving.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

pub(crate) use std::sync::atomic::Ordering;
