//! The state of one registry, shared by its handles and tasks.
#![expect(
    clippy::disallowed_types,
    reason = "a state file outlives the process, whose clock starts anew"
)]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch as cell, task::AbortHandle, time::Instant};

use super::{
    faults::Faults,
    record::{Defaults, NewRecord, Now, Position, Record},
    saver::Saver,
    store::{Store, lock},
    tend,
};
#[cfg(feature = "rest")]
use super::{
    faults::Injected,
    record::{Lookup, Unresolved},
};
use crate::registry::Renewal;
#[cfg(feature = "rest")]
use crate::{instance::Host, registry::Query};

/// One registry. The operations of clients start its task if it is needed.
#[derive(Debug)]
pub(in crate::registry) struct MemoryShared {
    pub(in crate::registry) name: Arc<str>,
    pub(in crate::registry) defaults: Defaults,
    pub(in crate::registry) faults: Faults,
    store: Arc<Mutex<Store>>,
    saver: Option<Saver>,
    /// Wakes the [tending](super::tend) task before its deadline; closed when the last handle is
    /// dropped.
    poke: cell::Sender<()>,
    task: Mutex<Option<AbortHandle>>,
    /// What the task holds.
    this: Weak<Self>,
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
        store: Store,
        file: Option<PathBuf>,
    ) -> Arc<Self> {
        let store = Arc::new(Mutex::new(store));
        let shared = Arc::new_cyclic(|this| Self {
            name,
            defaults,
            faults: Faults::new(),
            saver: file.map(|path| Saver::new(path, Arc::clone(&store))),
            store,
            poke: cell::channel(()).0,
            task: Mutex::new(None),
            this: Weak::clone(this),
        });
        shared.tend();
        shared
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Starts the task if there are instances and it does not run. It may not have started because there
    /// was no runtime, or may have ended with its runtime.
    pub(super) fn tend(&self) {
        let idle = self.store().is_empty();
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle && task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = tend::spawn(Weak::clone(&self.this), self.poke.subscribe());
        }
    }

    pub(in crate::registry) fn register(&self, new: NewRecord) -> (Record, Position) {
        let (record, position, sooner) = {
            let mut store = self.store();
            let checks = store.checks;
            let (record, _) = store.register(new, now());
            let sooner = checks != store.checks || store.is_sooner(&record);
            (record, store.position(), sooner)
        };
        self.after(sooner);
        (record, position)
    }

    pub(in crate::registry) fn heartbeat(&self, id: &str) -> Renewal {
        let renewal = self.store().heartbeat(id, now());
        self.after(false);
        renewal
    }

    pub(in crate::registry) fn deregister(
        &self,
        id: &str,
        generation: Option<u64>,
    ) -> Option<(Record, Position)> {
        let removed = {
            let mut store = self.store();
            let removed = store.deregister(id, generation);
            removed.map(|record| (record, store.position()))
        };
        let checked = removed.as_ref().is_some_and(|(r, _)| r.check.is_some());
        self.after(checked);
        removed
    }

    pub(super) fn set_paused(&self, paused: bool) {
        {
            // Under the lock: the task must not expire an instance between the two steps.
            let mut store = self.store();
            if self.faults.set_paused(paused) && !paused {
                store.grant(Instant::now(), Duration::MAX);
            }
        }
        self.after(true);
    }

    pub(super) fn wipe(&self) {
        self.store().wipe();
        self.after(true);
    }

    /// Applies the result of a check. Returns whether the registration still exists.
    pub(super) fn checked(&self, id: &str, serial: u64, passed: bool, at: Instant) -> bool {
        if self.faults.is_paused() {
            return true;
        }
        let outcome = self.store().checked(id, serial, passed, at);
        if outcome == Some(true) {
            // A critical instance has a deadline, so the task must run.
            self.changed(true);
        }
        outcome.is_some()
    }

    /// Waits until a save of this position was tried; returns at once if there is no file.
    pub(in crate::registry) async fn saved(&self, position: Position) {
        if let Some(saver) = &self.saver {
            saver.tried(position).await;
        }
    }

    fn after(&self, poke: bool) {
        self.tend();
        self.changed(poke);
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

/// The operations of the REST server.
#[cfg(feature = "rest")]
impl MemoryShared {
    pub(in crate::registry) fn look(&self, query: &Query) -> Lookup {
        self.tend();
        self.store().look(query, Record::clone)
    }

    /// Waits until the position of the service differs from `position`, or open watches must break.
    pub(in crate::registry) async fn left(
        &self,
        service: &Arc<str>,
        position: Position,
    ) -> Result<(), Injected> {
        let mut drops = self.faults.drops();
        let mut cell = self.store().subscribe(service);
        // Neither can fail: `self` owns the senders.
        tokio::select! {
            biased;
            _ = drops.changed() => Err(Injected),
            left = cell.wait_for(|now| *now != position) => {
                drop(left);
                Ok(())
            }
        }
    }

    pub(in crate::registry) fn resolve(
        &self,
        name: &str,
        host: Option<&Host>,
        port: Option<u16>,
    ) -> Result<Arc<str>, Unresolved> {
        self.store().resolve(name, host, port)
    }

    pub(in crate::registry) fn get(&self, id: &str) -> Option<Record> {
        self.store().get(id).cloned()
    }

    pub(in crate::registry) fn services(&self) -> (Position, Vec<(Arc<str>, usize)>) {
        let store = self.store();
        (store.position(), store.counts())
    }
}
