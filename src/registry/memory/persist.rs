//! State in a file: read once at the start, written whole after changes.
//!
//! A save writes a new file beside the old one, flushes it to the disk and renames it over the old, so
//! that a crash at any point leaves a whole file. Changes that come while one is being written are
//! written together by the next.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use serde_json::Value;
use tokio::{runtime::Handle, sync::watch as cell, task::AbortHandle};

use super::{
    Defaults, Shared,
    record::{Now, Position, Record},
    store::Store,
    wire,
};
use crate::error::{BoxError, Error, ErrorKind};

/// What a file holds.
pub(super) struct Document {
    /// The order of documents of one process, for a writer that comes late.
    order: u64,
    position: Position,
    records: Vec<Record>,
}

static ORDER: AtomicU64 = AtomicU64::new(1);

impl Document {
    pub(super) fn of(store: &Store) -> Self {
        Self {
            // Relaxed: documents of one store are made under its lock, which orders them.
            order: ORDER.fetch_add(1, Ordering::Relaxed),
            position: store.position(),
            records: store.all().cloned().collect(),
        }
    }

    /// Writes the file in one step: afterwards it is whole, and the old one or this.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        #[derive(Serialize)]
        struct Saved<T> {
            index: u64,
            instances: Vec<T>,
        }
        let bytes = serde_json::to_vec_pretty(&Saved {
            index: self.position.index,
            instances: self.records.iter().map(wire::saved).collect(),
        })?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        let written = (|| {
            let mut file = File::create(&beside)?;
            file.write_all(&bytes)?;
            // Before the rename: else a crash could leave the new name on an empty file.
            file.sync_all()?;
            std::fs::rename(&beside, path)?;
            sync_directory(path)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    }
}

/// Makes the rename itself durable, where directories can be opened.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Reads a saved state into a new store. A file that cannot be used is left as it is.
pub(super) fn read(
    path: &Path,
    missing_is_empty: bool,
    defaults: Defaults,
    now: Now,
) -> Result<Store, Error> {
    let mut store = Store::new();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if missing_is_empty && error.kind() == io::ErrorKind::NotFound => {
            return Ok(store);
        }
        Err(error) => return Err(failure(ErrorKind::Invalid, path, "cannot be read", error)),
    };
    fill(&mut store, &bytes, defaults, now).map_err(|error| {
        let what = "is not a saved registry and was left as it is; mend or remove it";
        failure(ErrorKind::Malformed, path, what, error)
    })?;
    Ok(store)
}

fn fill(store: &mut Store, bytes: &[u8], defaults: Defaults, now: Now) -> Result<(), BoxError> {
    let document: Value = serde_json::from_slice(bytes)?;
    let fields = wire::object(&document, "the state")?;
    let index = fields.get("index").unwrap_or(&Value::Null);
    let index = wire::whole(index, "index", 1, u64::MAX / 2)?.ok_or("index is missing")?;
    let instances = fields.get("instances").and_then(Value::as_array);
    for (place, record) in instances
        .ok_or("instances is missing or no list")?
        .iter()
        .enumerate()
    {
        let parsed = wire::parse(record, defaults)
            .map_err(|error| format!("instances[{place}]: {error}"))?;
        store.restore(parsed.entry, parsed.last_heartbeat, now);
    }
    store.resume_from(index);
    Ok(())
}

pub(super) fn failure(
    kind: ErrorKind,
    path: &Path,
    what: &str,
    source: impl Into<BoxError>,
) -> Error {
    let message = format!("state file {:?} {what}", path.display().to_string());
    Error::new(kind, "memory", "", message).with_source(source)
}

/// Keeps a file up to date.
#[derive(Debug)]
pub(super) struct Saver {
    file: Arc<StateFile>,
    /// What ought to be saved, and what a save was last tried for.
    wanted: cell::Sender<Position>,
    tried: cell::Sender<Position>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    /// The order of the newest document written: a writer that comes late must not undo it.
    newest: Mutex<u64>,
}

impl StateFile {
    fn write(&self, document: &Document) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if document.order <= *newest {
            return;
        }
        match document.write(&self.path) {
            Ok(()) => *newest = document.order,
            // Goes on without: heartbeats bring instances back, but no file brings back a registry
            // that stopped.
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%path, %error, "the state of the registry could not be saved");
            }
        }
    }
}

impl Saver {
    pub(super) fn new(path: PathBuf, restored: Position) -> Self {
        Self {
            file: Arc::new(StateFile {
                path,
                newest: Mutex::new(0),
            }),
            wanted: cell::channel(restored).0,
            tried: cell::channel(restored).0,
            task: Mutex::new(None),
        }
    }

    /// Notes that the state is now at `position`, which is to be saved.
    pub(super) fn want(&self, shared: &Weak<Shared>, position: Position) {
        let changed = self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != position;
            *wanted = position;
            changed
        });
        if changed {
            self.ensure_running(shared);
        }
    }

    fn ensure_running(&self, shared: &Weak<Shared>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let mut wanted = self.wanted.subscribe();
            // What made this necessary is news to the task.
            wanted.mark_changed();
            let work = run(Weak::clone(shared), wanted);
            *task = Some(runtime.spawn(work).abort_handle());
        }
    }

    /// Waits until a save of `position` or of a later state was tried.
    pub(super) async fn tried(&self, shared: &Weak<Shared>, position: Position) {
        self.ensure_running(shared);
        let mut tried = self.tried.subscribe();
        // Cannot fail: the sender is behind `self`.
        let _ = tried
            .wait_for(|tried| tried.epoch != position.epoch || tried.index >= position.index)
            .await;
    }

    /// Saves what is not yet saved, when the last handle goes.
    pub(super) fn finish(&self, store: &Store) {
        if *self.tried.borrow() != store.position() {
            self.file.write(&Document::of(store));
        }
    }
}

async fn run(registry: Weak<Shared>, mut wanted: cell::Receiver<Position>) {
    while wanted.changed().await.is_ok() {
        let (document, file) = {
            let Some(shared) = registry.upgrade() else {
                return;
            };
            let Some(saver) = &shared.saver else { return };
            wanted.mark_unchanged();
            let document = Document::of(&shared.store());
            (document, Arc::clone(&saver.file))
        };
        let position = document.position;
        let written = tokio::task::spawn_blocking(move || file.write(&document));
        if written.await.is_err() {
            return;
        }
        if let Some(saver) = registry.upgrade().as_ref().and_then(|r| r.saver.as_ref()) {
            saver.tried.send_replace(position);
        }
    }
}
