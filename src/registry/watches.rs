//! The watches of one registry, so that equal queries share one watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use tokio::sync::{Notify, watch as cell};

use super::{query::Query, view::View};
use crate::sync::lock;

/// By query, the watches that run.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<Query, Running>>);

/// A watch that runs.
#[derive(Debug)]
struct Running {
    /// The sender to which its task publishes. The task owns it, so that subscribers see when the task
    /// ends, for whatever cause.
    sender: Weak<cell::Sender<View>>,
    again: Arc<Notify>,
}

impl Running {
    fn follow(&self) -> Option<Follower> {
        let receiver = self.sender.upgrade()?.subscribe();
        Some((receiver, Arc::clone(&self.again)))
    }
}

/// What a handle of a watch has: its views, and the signal to look again soon.
pub(super) type Follower = (cell::Receiver<View>, Arc<Notify>);

impl Watches {
    /// Follows a watch that runs already.
    pub(super) fn get(&self, query: &Query) -> Option<Follower> {
        self.lock().get(query)?.follow()
    }

    /// Follows a watch that runs already, or else the one that `start` makes, which hears `again`. Runs
    /// `start` under the lock, so it must run no code of a backend.
    pub(super) fn get_or_start(
        &self,
        query: &Query,
        again: Arc<Notify>,
        start: impl FnOnce() -> Arc<cell::Sender<View>>,
    ) -> Follower {
        let mut watches = self.lock();
        if let Some(running) = watches.get(query).and_then(Running::follow) {
            return running;
        }
        let sender = start();
        let running = Running {
            sender: Arc::downgrade(&sender),
            again: Arc::clone(&again),
        };
        watches.insert(query.clone(), running);
        (sender.subscribe(), again)
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Query, Running>> {
        // The map is consistent wherever the holder of the lock could panic.
        lock(&self.0)
    }
}
