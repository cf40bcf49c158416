//! What all clones of a failfast share.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

#[derive(Debug)]
pub(super) struct FailFastShared {
    pub(super) name: Arc<str>,
    pub(super) wait: Duration,
    /// Whether a wait was over, and no clone has found the inner service ready since. Relaxed: it
    /// publishes no other memory, and each clone polls its own inner service first.
    pub(super) failing: AtomicBool,
}
