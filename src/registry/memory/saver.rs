//! Saves the state in the background; changes during a save are saved by the next one.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
};

use tokio::{runtime::Handle, sync::watch as cell, task::AbortHandle};

use super::{persist::Document, record::Position, store::Store};
use crate::sync::lock;

/// Keeps a file up to date with a store.
#[derive(Debug)]
pub(super) struct Saver {
    store: Arc<Mutex<Store>>,
    file: Arc<StateFile>,
    /// The newest position to save.
    wanted: cell::Sender<Position>,
    /// The newest position that the task tried to save, whether or not it succeeded.
    tried: Arc<cell::Sender<Position>>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    /// The order of the newest document written. An older document that is written late must not replace
    /// it.
    newest: Mutex<u64>,
}

impl StateFile {
    fn write(&self, document: &Document) {
        let mut newest = lock(&self.newest);
        if document.order <= *newest {
            return;
        }
        match document.write(&self.path) {
            Ok(()) => *newest = document.order,
            // The registry continues without the file. Instances register again after a loss of state,
            // but a registry that stopped would serve no clients.
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%path, %error, "the state of the registry could not be saved");
            }
        }
    }
}

impl Saver {
    /// Creates a saver that writes the changes of `store` to `path`. `store` holds the state read from
    /// there.
    pub(super) fn new(path: PathBuf, store: Arc<Mutex<Store>>) -> Self {
        let restored = lock(&store).position();
        Self {
            store,
            file: Arc::new(StateFile {
                path,
                newest: Mutex::new(0),
            }),
            wanted: cell::channel(restored).0,
            tried: Arc::new(cell::channel(restored).0),
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
            let work = run(store, file, wanted, Arc::clone(&self.tried));
            *task = Some(runtime.spawn(work).abort_handle());
        }
    }

    /// Waits until a save of `position`, or of a later state, was tried.
    pub(super) async fn tried(&self, position: Position) {
        self.ensure_running();
        let mut tried = self.tried.subscribe();
        // Cannot fail: `self` owns the sender.
        let _ = tried
            .wait_for(|tried| tried.epoch != position.epoch || tried.index >= position.index)
            .await;
    }
}

impl Drop for Saver {
    /// Saves the changes that were not saved yet.
    fn drop(&mut self) {
        let store = lock(&self.store);
        if *self.tried.borrow() != store.position() {
            self.file.write(&Document::of(&store));
        }
    }
}

/// Saves until the registry is dropped, and with it the store and the sender of `wanted`.
async fn run(
    store: Weak<Mutex<Store>>,
    file: Arc<StateFile>,
    mut wanted: cell::Receiver<Position>,
    tried: Arc<cell::Sender<Position>>,
) {
    while wanted.changed().await.is_ok() {
        let Some(store) = store.upgrade() else { return };
        wanted.mark_unchanged();
        let document = Document::of(&lock(&store));
        drop(store);
        let position = document.position;
        let file = Arc::clone(&file);
        let written = tokio::task::spawn_blocking(move || file.write(&document));
        if written.await.is_err() {
            return;
        }
        tried.send_replace(position);
    }
}
