//! Saves the state to a file: read once at the start, written as a whole after changes.
//!
//! A save writes a new file beside the old one, flushes it to the disk, and renames it over the old one.
//! So a crash at any point leaves a complete file. Changes during a write are written together by the
//! next one.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use serde_json::Value;

use super::{
    record::{Defaults, Now, Position, Record},
    store::Store,
    wire,
};
use crate::error::{BoxError, ErrorKind, RegistryError};

/// The content of a state file.
pub(super) struct Document {
    /// The order of documents within one process, so that a late write does not replace a newer
    /// document.
    pub(super) order: u64,
    pub(super) position: Position,
    records: Vec<Record>,
}

static ORDER: AtomicU64 = AtomicU64::new(1);

impl Document {
    pub(super) fn of(store: &Store) -> Self {
        Self {
            // Relaxed: documents of one store are created under its lock, which orders them.
            order: ORDER.fetch_add(1, Ordering::Relaxed),
            position: store.position(),
            records: store.all().cloned().collect(),
        }
    }

    /// Writes the file atomically: afterwards it is either the old document or this one, and complete.
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
            // Before the rename: otherwise a crash could leave an empty file under the new name.
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

/// Makes the rename durable, on systems where a directory can be opened.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Reads a saved state into a new store. A file that cannot be used is not changed.
pub(super) fn read(
    path: &Path,
    missing_is_empty: bool,
    defaults: Defaults,
    now: Now,
) -> Result<Store, RegistryError> {
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
        store.restore(parsed.record, parsed.last_heartbeat, now);
    }
    store.resume_from(index);
    Ok(())
}

pub(super) fn failure(
    kind: ErrorKind,
    path: &Path,
    what: &str,
    source: impl Into<BoxError>,
) -> RegistryError {
    let message = format!("state file {:?} {what}", path.display().to_string());
    let error = RegistryError::new(kind, message).with_source(source);
    error.about("memory", "")
}
