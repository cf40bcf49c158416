//! Saves the state in the background; changes during a save, and in the pause after it, are saved by the
//! next one.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch as cell,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    persist::{Document, StateFile},
    record::Position,
    store::Store,
};
use crate::{error::RegistryError, sync::lock};

/// How long after a failed save the next one is tried, if nothing changes before.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Keeps a file up to date with a store.
#[derive(Debug)]
pub(super) struct Saver {
    store: Arc<Mutex<Store>>,
    file: Arc<StateFile>,
    pause: Duration,
    /// The newest position to save.
    wanted: cell::Sender<Position>,
    tried: Arc<cell::Sender<Tried>>,
    task: Mutex<Option<AbortHandle>>,
}

/// The last save.
#[derive(Clone, Copy, Debug)]
struct Tried {
    position: Position,
    /// Whether the file holds that position.
    saved: bool,
}

impl Saver {
    /// Creates a saver that writes the changes of `store` to `file`. `store` holds the state read from
    /// there. There is a pause between two saves.
    pub(super) fn new(file: StateFile, pause: Duration, store: Arc<Mutex<Store>>) -> Self {
        let restored = lock(&store).position();
        let tried = Tried {
            position: restored,
            saved: true,
        };
        Self {
            store,
            file: Arc::new(file),
            pause,
            wanted: cell::channel(restored).0,
            tried: Arc::new(cell::channel(tried).0),
            task: Mutex::new(None),
        }
    }

    /// Requests a save of the changes since the last one.
    pub(super) fn save_changes(&self) {
        let position = lock(&self.store).position();
        let changed = self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != position;
            *wanted = position;
            changed
        });
        if changed {
            self.ensure_running();
        }
    }

    fn ensure_running(&self) {
        let mut task = lock(&self.task);
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let mut wanted = self.wanted.subscribe();
            // The new task must see the change that started it.
            wanted.mark_changed();
            let (store, file) = (Arc::downgrade(&self.store), Arc::clone(&self.file));
            let work = run(store, file, self.pause, wanted, Arc::clone(&self.tried));
            *task = Some(runtime.spawn(work).abort_handle());
        }
    }

    /// Waits until a save of `position`, or of a later state, was tried. Returns whether the file holds
    /// it.
    pub(super) async fn saved(&self, position: Position) -> bool {
        self.ensure_running();
        let mut tried = self.tried.subscribe();
        loop {
            let last = *tried.borrow_and_update();
            let same_epoch = last.position.epoch == position.epoch;
            if same_epoch && last.position.index >= position.index {
                return last.saved;
            }
            if !same_epoch && lock(&self.store).position().epoch != position.epoch {
                // The state was wiped since, so the next save does not have it.
                return false;
            }
            // Cannot fail: `self` owns the sender.
            if tried.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Saves the changes that were not saved yet.
    pub(super) fn flush(&self) -> Result<(), RegistryError> {
        let store = lock(&self.store);
        let position = store.position();
        let tried = *self.tried.borrow();
        if tried.position == position && tried.saved {
            return Ok(());
        }
        let document = Document::of(&store);
        drop(store);
        let written = self.file.write(&document);
        let saved = written.is_ok();
        self.tried.send_replace(Tried { position, saved });
        written
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // A failure is logged.
        let _ = self.flush();
        self.file.close();
    }
}

/// Saves until the registry is dropped, and with it the store and the sender of `wanted`.
async fn run(
    store: Weak<Mutex<Store>>,
    file: Arc<StateFile>,
    pause: Duration,
    mut wanted: cell::Receiver<Position>,
    tried: Arc<cell::Sender<Tried>>,
) {
    let mut failed = false;
    loop {
        let change = match failed {
            true => timeout(TRY_AGAIN, wanted.changed()).await.unwrap_or(Ok(())),
            false => wanted.changed().await,
        };
        let Some(store) = store.upgrade().filter(|_| change.is_ok()) else {
            return;
        };
        wanted.mark_unchanged();
        let start = Instant::now();
        let document = Document::of(&lock(&store));
        drop(store);
        let position = document.position;
        let file = Arc::clone(&file);
        let written = tokio::task::spawn_blocking(move || file.write(&document).is_ok());
        let Ok(saved) = written.await else { return };
        failed = !saved;
        tried.send_replace(Tried { position, saved });
        // At least as long as the save took, so that a large state which changes all the time occupies
        // the disk for half of the time.
        sleep(pause.max(start.elapsed())).await;
    }
}
