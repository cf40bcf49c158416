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

/// Why a file that appeared after the start is not replaced.
const NOT_READ: &str = "it appeared after the start and was not read; start again, or move it away";

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
            keep_mode(path, &file)?;
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

/// Creates a file in the same folder, which only its owner can read.
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
    Ok((options.open(&beside)?, beside))
}

/// Gives a file the mode of the file that it will replace.
fn keep_mode(path: &Path, file: &File) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(old) if old.is_file() => file.set_permissions(old.permissions()),
        _ => Ok(()),
    }
}

/// Removes what [`create_beside`] made for a process that was killed before its end. Failures are harmless.
fn remove_left_beside(path: &Path) {
    let own = path.file_name().unwrap_or_default().to_string_lossy();
    let is_left = |name: &str| {
        let rest = name.strip_prefix('.')?.strip_prefix(&*own)?;
        let random = rest.strip_prefix('.')?.strip_suffix(".tmp")?;
        (random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit())).then_some(())
    };
    let files = std::fs::read_dir(folder(path)).into_iter().flatten();
    for file in files.flatten() {
        if is_left(&file.file_name().to_string_lossy()).is_some() {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
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
    /// Whether this registry has read or written the file. Another one, such as in a folder that was
    /// mounted late, may have instances that this registry does not know.
    known: bool,
    /// Whether it was logged that the file is not replaced.
    refused: bool,
}

impl StateFile {
    /// Takes the file for one registry.
    pub(super) fn new(path: PathBuf) -> Result<Self, RegistryError> {
        let lock = match lock_beside(&path) {
            Ok(lock) => {
                remove_left_beside(&path);
                Some(lock)
            }
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
        let newest = Mutex::new(Newest {
            order: 0,
            lock,
            known: false,
            refused: false,
        });
        Ok(Self { path, newest })
    }

    /// Reads the state, which is empty if the file does not exist.
    pub(super) fn read(&self, defaults: Defaults, now: Now) -> Result<Store, RegistryError> {
        let found = find(&self.path, defaults, now)?;
        crate::sync::lock(&self.newest).known = found.is_some();
        Ok(found.unwrap_or_else(Store::new))
    }

    /// Writes a document, unless a newer one is written. Afterwards the file holds it.
    ///
    /// The registry continues without the file after an error, which is logged. Instances register again
    /// after a loss of state, but a registry that stopped would serve no clients.
    pub(super) fn write(&self, document: &Document) -> Result<(), RegistryError> {
        let mut newest = crate::sync::lock(&self.newest);
        if document.order <= newest.order {
            return Ok(());
        }
        let written = (|| {
            if newest.lock.is_none() {
                newest.lock = Some(lock_beside(&self.path)?);
                remove_left_beside(&self.path);
            }
            if !newest.known && std::fs::symlink_metadata(&self.path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, NOT_READ));
            }
            document.write(&self.path)
        })();
        let Err(error) = written else {
            (newest.order, newest.known, newest.refused) = (document.order, true, false);
            return Ok(());
        };
        let refused = error.kind() == io::ErrorKind::AlreadyExists;
        if !(refused && newest.refused) {
            let (path, error) = (self.path.display().to_string(), error.to_string());
            tracing::error!(
                ?path,
                ?error,
                "the state of the registry could not be saved"
            );
        }
        newest.refused = refused;
        Err(failure(
            ErrorKind::Unavailable,
            &self.path,
            "cannot be written",
            error,
        ))
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
        File::open(folder(path))?.sync_all()?;
    }
    Ok(())
}

/// Reads a saved state into a new store. A file that cannot be used is not changed.
pub(super) fn read(path: &Path, defaults: Defaults, now: Now) -> Result<Store, RegistryError> {
    find(path, defaults, now)?.ok_or_else(|| {
        let error = io::Error::from(io::ErrorKind::NotFound);
        failure(ErrorKind::Invalid, path, "cannot be read", error)
    })
}

/// Like [`read`], but returns `None` if there is no file.
fn find(path: &Path, defaults: Defaults, now: Now) -> Result<Option<Store>, RegistryError> {
    // Opening a FIFO would wait until another process writes to it.
    if std::fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        let error = io::Error::other("it is no regular file");
        return Err(failure(ErrorKind::Invalid, path, "cannot be read", error));
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failure(ErrorKind::Invalid, path, "cannot be read", error)),
    };
    let mut store = Store::new();
    fill(&mut store, &bytes, defaults, now).map_err(|error| {
        let what = "is not a saved registry and was left as it is; mend or remove it";
        failure(ErrorKind::Malformed, path, what, error)
    })?;
    Ok(Some(store))
}

fn fill(store: &mut Store, bytes: &[u8], defaults: Defaults, now: Now) -> Result<(), BoxError> {
    let document: Value = serde_json::from_slice(bytes)?;
    let fields = wire::object(&document, "the state")?;
    let index = fields.get("index").unwrap_or(&Value::Null);
    let index = wire::whole(index, "index", 1, u64::MAX / 2)?.ok_or("index is missing")?;
    // First: each restored record is a change after it. A client that waits without an epoch would else
    // take an index from before the restart for one of now.
    store.services.resume_from(index);
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
