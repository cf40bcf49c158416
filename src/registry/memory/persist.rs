//! Saves the state to a file: read once at the start, written as a whole after changes.
//!
//! A save writes a new file beside the old one, flushes it to the disk, and renames it over the old one.
//! So a crash at any point leaves a complete file.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::RngExt;
use serde::Serialize;
use serde_json::Value;

use super::{
    record::{Defaults, Now, Position, Record},
    store::Store,
    wire, written,
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
            instances: self.records.iter().map(written::saved).collect(),
        })?;
        let (mut file, beside) = create_beside(path)?;
        let written = (|| {
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

/// Creates a file in the same folder, with the mode of the file that it will replace.
///
/// Its name is random and must be free: whoever may write in the folder could have put a link or a FIFO
/// at a name that is known before.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random: u64 = rand::rng().random();
    let beside = path.with_file_name(format!(".{name}.{random:016x}.tmp"));
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&beside)?;
    let old = std::fs::symlink_metadata(path).ok();
    if let Some(old) = old.filter(std::fs::Metadata::is_file) {
        file.set_permissions(old.permissions())?;
    }
    Ok((file, beside))
}

/// The file that a registry keeps its state in. No other registry uses it meanwhile.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    newest: Mutex<Newest>,
}

#[derive(Debug)]
struct Newest {
    /// The order of the newest document written. An older document that is written late must not replace
    /// it.
    order: u64,
    /// Held until no more is written; `None` if the folder did not exist yet.
    lock: Option<File>,
}

impl StateFile {
    /// Takes the file for one registry.
    pub(super) fn new(path: PathBuf) -> Result<Self, RegistryError> {
        let lock = match lock_beside(&path) {
            Ok(lock) => Some(lock),
            // Saving fails as well until the folder exists.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let what = match error.kind() {
                    io::ErrorKind::WouldBlock => "is in use by another registry",
                    _ => "cannot be locked",
                };
                return Err(failure(ErrorKind::Invalid, &path, what, error));
            }
        };
        let newest = Mutex::new(Newest { order: 0, lock });
        Ok(Self { path, newest })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a document, unless a newer one is written. Returns whether the file now holds it.
    pub(super) fn write(&self, document: &Document) -> bool {
        let mut newest = crate::sync::lock(&self.newest);
        if document.order <= newest.order {
            return true;
        }
        let written = (|| {
            if newest.lock.is_none() {
                newest.lock = Some(lock_beside(&self.path)?);
            }
            document.write(&self.path)
        })();
        match written {
            Ok(()) => newest.order = document.order,
            // The registry continues without the file. Instances register again after a loss of state,
            // but a registry that stopped would serve no clients.
            Err(error) => {
                let (path, error) = (self.path.display().to_string(), error.to_string());
                tracing::error!(
                    ?path,
                    ?error,
                    "the state of the registry could not be saved"
                );
                return false;
            }
        }
        true
    }

    /// Ends the use of the file: a write that is still under way must not replace the state that the next
    /// registry writes.
    pub(super) fn close(&self) {
        let mut newest = crate::sync::lock(&self.newest);
        newest.order = u64::MAX;
        newest.lock = None;
    }
}

/// Locks a file beside `path`, for as long as the returned file is open. The system ends the lock with the
/// process, however that ends.
fn lock_beside(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = File::options();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    {
        use rustix::fs::{FlockOperation, OFlags, flock};
        use std::os::unix::fs::OpenOptionsExt;
        // A link is not followed, and a FIFO is not waited for. Nothing is written to the file.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        options.mode(0o600).custom_flags(flags as i32);
        let file = options.open(name)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }
    #[cfg(not(unix))]
    {
        #[cfg(windows)]
        std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0);
        options.open(name)
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
    // Opening a FIFO would wait until another process writes to it.
    if std::fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        let error = io::Error::other("it is no regular file");
        return Err(failure(ErrorKind::Invalid, path, "cannot be read", error));
    }
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
    store.services.resume_from(index);
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
