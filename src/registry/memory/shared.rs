//! The state and the task of one registry, shared by all its handles.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch as cell, task::AbortHandle};

use super::{
    faults::Injected,
    record::{Defaults, NewRecord, Position, Record},
    state::{MemoryState, now},
    store::Store,
    tend,
};
use crate::registry::Renewal;
#[cfg(feature = "rest")]
use crate::{
    instance::Host,
    registry::{
        Query,
        memory::record::{Lookup, Unresolved},
    },
};

/// The operations of clients on a [`MemoryState`]. Each of them starts the task if it is needed.
#[derive(Debug)]
pub(in crate::registry) struct MemoryShared {
    state: Arc<MemoryState>,
    task: Mutex<Option<AbortHandle>>,
}

impl MemoryShared {
    /// Creates the shared state. If `file` is set, every change is saved there.
    pub(super) fn new(
        name: Arc<str>,
        defaults: Defaults,
        store: Store,
        file: Option<PathBuf>,
    ) -> Arc<Self> {
        let shared = Self {
            state: Arc::new(MemoryState::new(name, defaults, store, file)),
            task: Mutex::new(None),
        };
        shared.tend();
        Arc::new(shared)
    }

    pub(in crate::registry) fn name(&self) -> &Arc<str> {
        &self.state.name
    }

    pub(in crate::registry) fn defaults(&self) -> Defaults {
        self.state.defaults
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.state.store()
    }

    /// Starts the task if there are instances and it does not run. It may not have started because there
    /// was no runtime, or may have ended with its runtime.
    pub(super) fn tend(&self) {
        let idle = self.state.store().is_empty();
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle && task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = tend::spawn(&self.state);
        }
    }

    pub(in crate::registry) fn register(&self, new: NewRecord) -> (Record, Position) {
        let (record, position, sooner) = {
            let mut store = self.state.store();
            let checks = store.checks;
            let (record, _) = store.register(new, now());
            let sooner = checks != store.checks || store.is_sooner(&record);
            (record, store.position(), sooner)
        };
        self.after(sooner);
        (record, position)
    }

    pub(in crate::registry) fn heartbeat(&self, id: &str) -> Renewal {
        let renewal = self.state.store().heartbeat(id, now());
        self.after(false);
        renewal
    }

    pub(in crate::registry) fn deregister(
        &self,
        id: &str,
        generation: Option<u64>,
    ) -> Option<(Record, Position)> {
        let removed = {
            let mut store = self.state.store();
            let removed = store.deregister(id, generation);
            removed.map(|record| (record, store.position()))
        };
        let checked = removed.as_ref().is_some_and(|(r, _)| r.check.is_some());
        self.after(checked);
        removed
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.state.set_paused(paused);
        self.after(true);
    }

    pub(super) fn wipe(&self) {
        self.state.store().wipe();
        self.after(true);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.faults.is_paused()
    }

    pub(super) fn fail_next(&self, operations: u32) {
        self.state.faults.fail_next(operations);
    }

    pub(super) fn drop_watchers(&self) {
        self.state.faults.drop_watchers();
    }

    /// Returns a receiver that changes when open watches must break.
    pub(super) fn drops(&self) -> cell::Receiver<u64> {
        self.state.faults.drops()
    }

    /// Waits while the registry is paused, then fails the operation if a test injected a fault.
    pub(in crate::registry) async fn admit(&self) -> Result<(), Injected> {
        self.state.faults.admit().await
    }

    /// Waits while the registry is paused.
    pub(in crate::registry) async fn open(&self) {
        self.state.faults.open().await;
    }

    /// Waits until a save of this position was tried; returns at once if there is no file.
    pub(in crate::registry) async fn saved(&self, position: Position) {
        self.state.saved(position).await;
    }

    fn after(&self, poke: bool) {
        self.tend();
        self.state.changed(poke);
    }
}

/// The operations of the REST server.
#[cfg(feature = "rest")]
impl MemoryShared {
    pub(in crate::registry) fn look(&self, query: &Query) -> Lookup {
        self.tend();
        self.state.store().look(query, Record::clone)
    }

    /// Waits until the position of the service differs from `position`, or open watches must break.
    pub(in crate::registry) async fn left(
        &self,
        service: &Arc<str>,
        position: Position,
    ) -> Result<(), Injected> {
        let mut drops = self.state.faults.drops();
        let mut cell = self.state.store().subscribe(service);
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
        self.state.store().resolve(name, host, port)
    }

    pub(in crate::registry) fn get(&self, id: &str) -> Option<Record> {
        self.state.store().get(id).cloned()
    }

    pub(in crate::registry) fn services(&self) -> (Position, Vec<(Arc<str>, usize)>) {
        let store = self.state.store();
        (store.position(), store.counts())
    }
}
