//! The state of one registry, shared by its handles and tasks.
#![expect(
    clippy::disallowed_types,
    reason = "a state file outlives the process, whose clock starts anew"
)]

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch as cell, task::AbortHandle, time::Instant};

use super::{
    faults::Faults,
    limits::MemoryLimits,
    persist::StateFile,
    record::{Defaults, Now, Position},
    saver::Saver,
    store::Store,
};
use crate::sync::lock;

/// One registry.
#[derive(Debug)]
pub(in crate::registry) struct MemoryShared {
    pub(in crate::registry) name: Arc<str>,
    pub(in crate::registry) defaults: Defaults,
    pub(in crate::registry) limits: MemoryLimits,
    pub(in crate::registry) faults: Faults,
    store: Arc<Mutex<Store>>,
    saver: Option<Saver>,
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

    /// Waits until a save of this position was tried. Returns whether the file holds it; `None` if there is
    /// no file.
    pub(in crate::registry) async fn saved(&self, position: Position) -> Option<bool> {
        match &self.saver {
            Some(saver) => Some(saver.saved(position).await),
            None => None,
        }
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
