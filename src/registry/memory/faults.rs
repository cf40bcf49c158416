//! Faults on demand, for tests of what stands above a registry.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch as cell;

/// The failure of an operation that a test asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Injected;

#[derive(Debug)]
pub(super) struct Faults {
    paused: cell::Sender<bool>,
    failing: AtomicU32,
    /// Grows each time that open watches shall break.
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

    /// Returns whether that is a change.
    pub(super) fn set_paused(&self, paused: bool) -> bool {
        self.paused.send_replace(paused) != paused
    }

    pub(super) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    pub(super) fn fail_next(&self, operations: u32) {
        // Relaxed: the counter orders nothing but itself.
        self.failing.store(operations, Ordering::Relaxed);
    }

    pub(super) fn drop_watchers(&self) {
        self.drops.send_modify(|drops| *drops += 1);
    }

    /// Changes when open watches shall break.
    pub(super) fn drops(&self) -> cell::Receiver<u64> {
        self.drops.subscribe()
    }

    /// Waits while paused.
    pub(super) async fn open(&self) {
        let mut paused = self.paused.subscribe();
        // Cannot fail: the sender is behind `self`.
        let _ = paused.wait_for(|paused| !paused).await;
    }

    /// Lets an operation in: waits while paused, then fails it when its turn has come.
    pub(super) async fn admit(&self) -> Result<(), Injected> {
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
