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
use crate::sync::lock;

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

impl Tried {
    /// Whether the save had what was there at a position.
    fn includes(&self, position: Position) -> bool {
        self.position.epoch != position.epoch || self.position.index >= position.index
    }
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
        // Cannot fail: `self` owns the sender.
        let tried = tried.wait_for(|tried| tried.includes(position)).await;
        tried.is_ok_and(|tried| tried.saved)
    }
}

impl Drop for Saver {
    /// Saves the changes that were not saved yet.
    fn drop(&mut self) {
        let store = lock(&self.store);
        let tried = *self.tried.borrow();
        if tried.position != store.position() || !tried.saved {
            self.file.write(&Document::of(&store));
        }
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
        let written = tokio::task::spawn_blocking(move || file.write(&document));
        let Ok(saved) = written.await else { return };
        failed = !saved;
        tried.send_replace(Tried { position, saved });
        // At least as long as the save took, so that a large state which changes all the time occupies
        // the disk for half of the time.
        sleep(pause.max(start.elapsed())).await;
    }
}
