//! What all clones of a failfast share.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) wait: Duration,
    /// A wait was over, and no clone has found the inner service ready since. Relaxed: it publishes
    /// nothing, and each clone asks its own inner service first.
    pub(super) failing: AtomicBool,
}
