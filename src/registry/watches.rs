//! The watches of one registry, so that equal queries share one watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use tokio::sync::watch as cell;

use super::{query::Query, view::View};
use crate::sync::lock;

/// By query, the sender to which the task of each watch publishes. The task owns the sender, so its
/// subscribers see when it ends, for whatever cause.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<Query, Weak<cell::Sender<View>>>>);

impl Watches {
    /// Follows a watch that runs already.
    pub(super) fn get(&self, query: &Query) -> Option<cell::Receiver<View>> {
        let sender = self.lock().get(query).and_then(Weak::upgrade)?;
        Some(sender.subscribe())
    }

    /// Follows a watch that runs already, or else the one that `start` makes. Runs `start` under the
    /// lock, so it must run no code of a backend.
    pub(super) fn get_or_start(
        &self,
        query: &Query,
        start: impl FnOnce() -> Arc<cell::Sender<View>>,
    ) -> cell::Receiver<View> {
        let mut watches = self.lock();
        if let Some(sender) = watches.get(query).and_then(Weak::upgrade) {
            return sender.subscribe();
        }
        let sender = start();
        watches.insert(query.clone(), Arc::downgrade(&sender));
        sender.subscribe()
    }

    /// Forgets a watch that has no follower, and returns whether it did. No follower can be added at
    /// the same time.
    pub(super) fn forget_unused(&self, query: &Query, sender: &cell::Sender<View>) -> bool {
        let mut watches = self.lock();
        let unused = sender.receiver_count() == 0;
        if unused {
            watches.remove(query);
        }
        unused
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Query, Weak<cell::Sender<View>>>> {
        // The map is consistent wherever the holder of the lock could panic.
        lock(&self.0)
    }
}
