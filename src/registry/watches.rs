//! The watches of one registry, so that equal queries share one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch as cell;

use super::{query::Query, view::View};

/// By query, where the task of each watch publishes. The sender belongs to that task, so that its end,
/// of whatever cause, is seen by those who watch.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<Query, Weak<cell::Sender<View>>>>);

impl Watches {
    /// Follows a watch that is there, or else the one that `start` makes.
    ///
    /// # Errors
    /// As `start`.
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

    /// Forgets a watch that nobody follows, and says whether that is so. Nobody begins to follow it at the
    /// same time.
    pub(super) fn forget_unused(&self, query: &Query, cell: &cell::Sender<View>) -> bool {
        let mut watches = self.lock();
        let unused = cell.receiver_count() == 0;
        if unused {
            watches.remove(query);
        }
        unused
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Query, Weak<cell::Sender<View>>>> {
        // The map is whole at every point where its holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
