//! The state of one registry, shared by its handles and tasks.
#![expect(
    clippy::disallowed_types,
    reason = "a state file outlives the process, whose clock starts anew"
)]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::watch as cell,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    faults::Faults,
    limits::MemoryLimits,
    persist::StateFile,
    record::{Defaults, Now, Position},
    saver::Saver,
    store::Store,
};
use crate::{error::RegistryError, instance::Address, sync::lock};

/// How long a client waits for the save of its registration, because a disk may hang. Our clients give up
/// after 4 s.
const SAVED_WITHIN: Duration = Duration::from_secs(2);

/// One registry.
#[derive(Debug)]
pub(in crate::registry) struct MemoryShared {
    pub(in crate::registry) name: Arc<str>,
    pub(in crate::registry) defaults: Defaults,
    pub(in crate::registry) limits: MemoryLimits,
    pub(in crate::registry) faults: Faults,
    store: Arc<Mutex<Store>>,
    saver: Option<Saver>,
    /// The host names that were warned of.
    elsewhere: Mutex<BTreeSet<String>>,
    /// Wakes the [tending](super::tend) task before its deadline; closed when the last handle is
    /// dropped.
    pub(super) poke: cell::Sender<()>,
    pub(super) task: Mutex<Option<AbortHandle>>,
    /// What the task holds.
    pub(super) this: Weak<Self>,
}

pub(super) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_ms = since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    Now {
        at: Instant::now(),
        unix_ms,
    }
}

impl MemoryShared {
    /// Creates the registry. If `file` is set, every change is saved there.
    pub(super) fn new(
        name: Arc<str>,
        defaults: Defaults,
        limits: MemoryLimits,
        store: Store,
        file: Option<StateFile>,
    ) -> Arc<Self> {
        let store = Arc::new(Mutex::new(store));
        Arc::new_cyclic(|this| Self {
            name,
            defaults,
            faults: Faults::new(),
            saver: file.map(|file| Saver::new(file, limits.save_pause, Arc::clone(&store))),
            limits,
            store,
            elsewhere: Mutex::default(),
            poke: cell::channel(()).0,
            task: Mutex::new(None),
            this: Weak::clone(this),
        })
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Applies the result of a check, and plans the next one.
    pub(super) fn checked(&self, id: &Arc<str>, serial: u64, passed: bool, at: Instant) {
        let changed = {
            let mut store = self.store();
            store.plan_check(id, serial, at);
            // A paused registry does nothing.
            !self.faults.is_paused() && store.checked(id, serial, passed, at).is_some()
        };
        if changed {
            self.changed(false);
        }
    }

    /// Warns of a host name whose addresses may not be checked, once for each name.
    pub(super) fn leads_elsewhere(&self, address: &Address) {
        /// How many names are warned of, because clients choose them. Arbitrary.
        const MOST: usize = 64;
        let host = address.host().to_string();
        // The set is consistent wherever the holder of the lock could panic.
        let mut elsewhere = lock(&self.elsewhere);
        if elsewhere.len() < MOST && elsewhere.insert(host.clone()) {
            drop(elsewhere);
            tracing::warn!(
                ?host,
                "this registry may check none of the addresses of a host name, so its checks fail"
            );
        }
    }

    /// Waits until a save of this position was tried, for at most [`SAVED_WITHIN`]. Returns whether the file
    /// holds it by then; `None` if there is no file.
    pub(in crate::registry) async fn saved(&self, position: Position) -> Option<bool> {
        let saved = self.saver.as_ref()?.saved(position);
        Some(timeout(SAVED_WITHIN, saved).await.unwrap_or(false))
    }

    /// Saves the changes that were not saved yet.
    pub(super) fn flush(&self) -> Result<(), RegistryError> {
        self.saver.as_ref().map_or(Ok(()), Saver::flush)
    }

    /// Called after each operation: requests a save of its changes and, if `poke` is set, wakes the
    /// task.
    pub(super) fn changed(&self, poke: bool) {
        if let Some(saver) = &self.saver {
            saver.save_changes();
        }
        if poke {
            self.poke.send_replace(());
        }
    }
}
