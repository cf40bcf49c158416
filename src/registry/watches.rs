//! The watches of one registry, so that equal queries share one watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch as cell;

use super::{query::Query, view::View};

/// By query, the sender to which the task of each watch publishes. The task owns the sender, so its
/// subscribers see when it ends, for whatever cause.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<Query, Weak<cell::Sender<View>>>>);

impl Watches {
    /// Subscribes to the watch of this query, or to the one that `start` creates if there is none.
    ///
    /// # Errors
    /// The error of `start`.
    pub(super) fn follow<E>(
        &self,
        query: &Query,
        start: impl FnOnce() -> Result<Arc<cell::Sender<View>>, E>,
    ) -> Result<cell::Receiver<View>, E> {
        let mut watches = self.lock();
        if let Some(cell) = watches.get(query).and_then(Weak::upgrade) {
            return Ok(cell.subscribe());
        }
        let cell = start()?;
        watches.insert(query.clone(), Arc::downgrade(&cell));
        Ok(cell.subscribe())
    }

    /// Removes a watch without receivers; returns whether it had none. The lock keeps
    /// [`follow`](Self::follow) from subscribing meanwhile.
    pub(super) fn forget_unused(&self, query: &Query, cell: &cell::Sender<View>) -> bool {
        let mut watches = self.lock();
        let unused = cell.receiver_count() == 0;
        if unused {
            watches.remove(query);
        }
        unused
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Query, Weak<cell::Sender<View>>>> {
        // The map is consistent wherever the holder of the lock could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
