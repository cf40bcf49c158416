//! Faults that tests inject, to test the code above a registry.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch as cell;

/// The failure of an operation that a test injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Injected;

#[derive(Debug)]
pub(in crate::registry) struct Faults {
    paused: cell::Sender<bool>,
    failing: AtomicU32,
    /// Incremented to break all open watches.
    drops: cell::Sender<u64>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            paused: cell::channel(false).0,
            failing: AtomicU32::new(0),
            drops: cell::channel(0).0,
        }
    }

    /// Returns whether the state has changed.
    pub(super) fn set_paused(&self, paused: bool) -> bool {
        self.paused.send_replace(paused) != paused
    }

    pub(super) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    pub(super) fn fail_next(&self, operations: u32) {
        // Relaxed: the counter publishes no other memory.
        self.failing.store(operations, Ordering::Relaxed);
    }

    pub(super) fn drop_watchers(&self) {
        self.drops.send_modify(|drops| *drops += 1);
    }

    /// Returns a receiver that changes when open watches must break.
    pub(super) fn drops(&self) -> cell::Receiver<u64> {
        self.drops.subscribe()
    }

    /// Waits while the registry is paused.
    pub(in crate::registry) async fn open(&self) {
        let mut paused = self.paused.subscribe();
        // Cannot fail: `self` owns the sender.
        let _ = paused.wait_for(|paused| !paused).await;
    }

    /// Admits an operation: waits while the registry is paused, then fails it if a fault is left.
    pub(in crate::registry) async fn admit(&self) -> Result<(), Injected> {
        self.open().await;
        // Relaxed: see `fail_next`.
        let taken = self
            .failing
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        match taken {
            Ok(_) => Err(Injected),
            Err(_) => Ok(()),
        }
    }
}
