//! The operations of clients. Each of them starts the task of the registry if it is needed.

#[cfg(feature = "rest")]
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

#[cfg(feature = "rest")]
use super::{
    faults::Injected,
    record::{Lookup, Unresolved},
};
use super::{
    limits::Full,
    record::{NewRecord, Position, Record},
    shared::{MemoryShared, now},
};
#[cfg(feature = "rest")]
use crate::instance::Host;
use crate::registry::Renewal;

impl MemoryShared {
    pub(in crate::registry) fn register(&self, new: NewRecord) -> Result<(Record, Position), Full> {
        let (record, position, poke) = {
            let mut store = self.store();
            let (record, changed) = store.register(new, &self.limits, now())?;
            let checked = changed && record.check.is_some();
            let poke = checked || store.is_sooner(&record);
            (record, store.position(), poke)
        };
        self.after(poke);
        Ok((record, position))
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
            let removed = store.deregister(id, generation, Instant::now());
            removed.map(|record| (record, store.position()))
        };
        self.after(false);
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

    fn after(&self, poke: bool) {
        self.tend();
        self.changed(poke);
    }
}

/// The operations of the REST server.
#[cfg(feature = "rest")]
impl MemoryShared {
    /// Returns the position of a service's last change.
    pub(in crate::registry) fn position_of(&self, service: &str) -> Position {
        self.tend();
        self.store().services.position_of(service)
    }

    /// Returns the records of a service.
    pub(in crate::registry) fn look(&self, service: &str) -> Lookup {
        self.store().look(service, Record::clone)
    }

    /// Waits until the position of the service differs from `position`, or open watches must break.
    pub(in crate::registry) async fn left(
        &self,
        service: &Arc<str>,
        position: Position,
    ) -> Result<(), Injected> {
        let mut drops = self.faults.drops();
        let mut cell = self.store().services.subscribe(service);
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
        (store.position(), store.services.counts())
    }

    /// Returns the numbers of services and of instances.
    pub(in crate::registry) fn totals(&self) -> (Position, (usize, usize)) {
        let store = self.store();
        (store.position(), store.totals())
    }
}
