//! One registry, behind all its handles.
#![expect(
    clippy::disallowed_types,
    reason = "a state file outlives the process, whose clock starts anew"
)]

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch as cell, task::AbortHandle, time::Instant};

use super::{
    Defaults,
    faults::{Faults, Injected},
    persist::Saver,
    record::{Entry, Now, Position, Record},
    store::Store,
    tend,
};
use crate::registry::Renewal;
#[cfg(feature = "rest")]
use crate::{
    instance::Host,
    registry::{
        Query,
        memory::record::{Look, Unresolved},
    },
};

#[derive(Debug)]
pub(in crate::registry) struct Shared {
    pub(in crate::registry) name: Arc<str>,
    pub(in crate::registry) defaults: Defaults,
    pub(super) faults: Faults,
    pub(super) saver: Option<Saver>,
    store: Mutex<Store>,
    /// Wakes the task before its deadline; closed when the last handle goes.
    poke: cell::Sender<()>,
    task: Mutex<Option<AbortHandle>>,
    this: Weak<Shared>,
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

impl Shared {
    pub(super) fn new(
        name: Arc<str>,
        defaults: Defaults,
        store: Store,
        saver: Option<Saver>,
    ) -> Arc<Self> {
        let shared = Arc::new_cyclic(|this| Self {
            name,
            defaults,
            faults: Faults::new(),
            saver,
            store: Mutex::new(store),
            poke: cell::channel(()).0,
            task: Mutex::new(None),
            this: Weak::clone(this),
        });
        shared.tend();
        shared
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        // No operation of the store panics between changes that belong together.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the task runs where there is something for it to do: it may not have started
    /// for want of a runtime, or have ended with one.
    pub(super) fn tend(&self) {
        let idle = self.store().is_empty();
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if idle || task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Some(shared) = self.this.upgrade() {
            *task = tend::spawn(&shared, self.poke.subscribe());
        }
    }

    pub(in crate::registry) fn register(&self, entry: Entry) -> (Record, Position) {
        let (record, position, sooner) = {
            let mut store = self.store();
            let checks = store.checks;
            let (record, _) = store.register(entry, now());
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

    /// Takes the outcome of a check; returns whether that registration is still held.
    pub(super) fn checked(&self, id: &str, serial: u64, passed: bool, at: Instant) -> bool {
        if self.faults.is_paused() {
            return true;
        }
        let outcome = self.store().checked(id, serial, passed, at);
        if outcome == Some(true) {
            // A critical instance has a deadline.
            self.after(true);
        }
        outcome.is_some()
    }

    pub(super) fn set_paused(&self, paused: bool) {
        // Under the lock: the task must not expire anything between the two.
        let mut store = self.store();
        if self.faults.set_paused(paused) && !paused {
            store.grant(Instant::now(), Duration::MAX);
        }
        drop(store);
        self.after(true);
    }

    pub(super) fn wipe(&self) {
        self.store().wipe();
        self.after(true);
    }

    /// Lets an operation in: waits while paused, then fails it when a test asked for that.
    pub(in crate::registry) async fn admit(&self) -> Result<(), Injected> {
        self.faults.admit().await
    }

    fn after(&self, poke: bool) {
        self.persist_changes();
        self.tend();
        if poke {
            self.poke.send_replace(());
        }
    }

    /// Asks for a save of what changed since the last.
    pub(super) fn persist_changes(&self) {
        if let Some(saver) = &self.saver {
            saver.want(&self.this, self.store().position());
        }
    }

    /// Waits until a save of this position was tried, where a file is kept.
    pub(in crate::registry) async fn saved(&self, position: Position) {
        if let Some(saver) = &self.saver {
            saver.tried(&self.this, position).await;
        }
    }
}

/// What the REST front needs.
#[cfg(feature = "rest")]
impl Shared {
    pub(in crate::registry) fn look(&self, query: &Query) -> Look {
        self.tend();
        self.store().look(query, Record::clone)
    }

    /// Waits until the service has left this position, or an open watch shall break.
    pub(in crate::registry) async fn left(
        &self,
        service: &Arc<str>,
        position: Position,
    ) -> Result<(), Injected> {
        let mut drops = self.faults.drops();
        let mut cell = self.store().subscribe(service);
        // Neither fails: the senders are behind `self`.
        tokio::select! {
            biased;
            _ = drops.changed() => Err(Injected),
            left = cell.wait_for(|now| *now != position) => {
                drop(left);
                Ok(())
            }
        }
    }

    /// Waits while paused.
    pub(in crate::registry) async fn open(&self) {
        self.faults.open().await;
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

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(saver) = self.saver.take() {
            saver.finish(&self.store());
        }
    }
}
