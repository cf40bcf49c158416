//! What the registry holds: records, services, positions. No task, no clock: time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::RngExt;
use tokio::{sync::watch as cell, time::Instant};

#[cfg(feature = "rest")]
use super::record::Unresolved;
use super::record::{Lookup, NewRecord, Now, Position, Record};
#[cfg(feature = "rest")]
use crate::instance::Host;
use crate::{
    instance::Status,
    registry::{Query, Renewal},
};

#[derive(Debug)]
struct Service {
    /// The index of its last change.
    index: u64,
    ids: BTreeSet<Arc<str>>,
}

/// The state of a registry.
#[derive(Debug)]
pub(super) struct Store {
    epoch: u64,
    index: u64,
    records: HashMap<Arc<str>, Record>,
    /// Every service that was ever held since the start.
    services: BTreeMap<Arc<str>, Service>,
    /// One cell for each watched service.
    cells: HashMap<Arc<str>, cell::Sender<Position>>,
    /// Grows with each registration or removal of a checked instance.
    pub(super) checks: u64,
    serial: u64,
    /// The deadline that the timer sleeps until.
    pub(super) planned: Option<Instant>,
}

/// The index of what never changed; never 0, which means "no index" in a request.
const FIRST: u64 = 1;

/// The number of cells from which unused ones are swept.
const SWEEP_CELLS: usize = 64;

/// Locks a store that is shared.
pub(super) fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    // No operation of the store panics between changes that belong together.
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_epoch() -> u64 {
    // Zero would look like none; 53 bits survive readers that take JSON numbers for floats.
    rand::rng().random_range(1..1 << 53)
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            epoch: random_epoch(),
            index: FIRST,
            records: HashMap::new(),
            services: BTreeMap::new(),
            cells: HashMap::new(),
            checks: 0,
            serial: 0,
            planned: None,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            index: self.index,
        }
    }

    /// The position of a service's last change.
    pub(super) fn position_of(&self, service: &str) -> Position {
        Position {
            epoch: self.epoch,
            index: self.services.get(service).map_or(FIRST, |s| s.index),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the record is due before the timer would look.
    pub(super) fn is_sooner(&self, record: &Record) -> bool {
        match (record.expires, self.planned) {
            (Some(due), Some(planned)) => due < planned,
            (due, None) => due.is_some(),
            (None, _) => false,
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        let ids = self.services.values().flat_map(|service| &service.ids);
        ids.filter_map(|id| self.records.get(id))
    }

    pub(super) fn of<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Record> {
        let ids = self.services.get(service).into_iter().flat_map(|s| &s.ids);
        ids.filter_map(|id| self.records.get(id))
    }

    /// The id that a client means: an id, or a service of which one instance listens there.
    #[cfg(feature = "rest")]
    pub(super) fn resolve(
        &self,
        name: &str,
        host: Option<&Host>,
        port: Option<u16>,
    ) -> Result<Arc<str>, Unresolved> {
        if let Some((id, _)) = self.records.get_key_value(name) {
            return Ok(Arc::clone(id));
        }
        let mut found = self.of(name).filter(|record| {
            let address = &record.instance.address;
            host.is_none_or(|host| address.host() == host)
                && port.is_none_or(|port| address.port() == port)
        });
        match (found.next(), found.next()) {
            (None, _) => Err(Unresolved::Unknown),
            (Some(one), None) => Ok(one.instance.id().into()),
            (Some(_), Some(_)) => Err(Unresolved::Several),
        }
    }

    /// What there is of a service. Only what is wanted of each record is copied: a watch of thousands
    /// looks often.
    pub(super) fn look<T>(&self, query: &Query, wanted: impl Fn(&Record) -> T) -> Lookup<T> {
        let records = self.of(query.service());
        let records = records.filter(|record| query.matches(&record.instance.tags));
        Lookup {
            position: self.position_of(query.service()),
            exists: self.services.contains_key(query.service()),
            records: records.map(wanted).collect(),
        }
    }

    /// Names and numbers of instances.
    pub(super) fn counts(&self) -> Vec<(Arc<str>, usize)> {
        let services = self.services.iter();
        services
            .map(|(name, service)| (Arc::clone(name), service.ids.len()))
            .collect()
    }

    /// Takes a registration. Returns the record, and whether anything changed that shows.
    pub(super) fn register(&mut self, mut new: NewRecord, now: Now) -> (Record, bool) {
        let id: Arc<str> = new.instance.id().into();
        // Ids are unique in the whole registry, so a scope would only hide equal ones.
        new.instance.key = crate::instance::Key::new(Arc::clone(&id), "");
        let expires = new.beat.and_then(|beat| now.at.checked_add(beat.ttl));
        if let Some(known) = self.records.get_mut(&id) {
            let same_session = known.session == new.session;
            new.instance.generation = known.instance.generation;
            if same_session && known.is_renewed_by(&new) {
                known.last_heartbeat = now.unix_ms;
                if new.beat.is_some() {
                    known.expires = expires;
                }
                return (known.clone(), false);
            }
            if new.session.is_none() || !same_session {
                new.instance.generation += 1;
            }
        } else {
            new.instance.generation = 1;
        }
        (self.insert(id, new, expires, now.unix_ms), true)
    }

    /// Takes a record of a saved state as it stands.
    pub(super) fn restore(&mut self, new: NewRecord, last_heartbeat: u64, now: Now) {
        let expires = new.beat.and_then(|beat| now.at.checked_add(beat.ttl));
        let id = new.instance.id().into();
        self.insert(id, new, expires, last_heartbeat);
    }

    /// Goes on from the index of a saved state.
    pub(super) fn resume_from(&mut self, index: u64) {
        self.index = self.index.max(index);
    }

    fn insert(
        &mut self,
        id: Arc<str>,
        new: NewRecord,
        expires: Option<Instant>,
        last_heartbeat: u64,
    ) -> Record {
        let NewRecord {
            instance,
            beat,
            check,
            session,
        } = new;
        self.serial += 1;
        let service = Arc::clone(&instance.service);
        let record = Record {
            announced: instance.status,
            instance: Arc::new(instance),
            beat,
            check,
            session,
            last_heartbeat,
            serial: self.serial,
            failures: 0,
            expires,
        };
        self.checks += u64::from(record.check.is_some());
        if let Some(old) = self.records.insert(Arc::clone(&id), record.clone()) {
            self.checks += u64::from(old.check.is_some());
            if old.instance.service != service {
                // The id moved, as it does on a Consul agent.
                if let Some(left) = self.services.get_mut(&old.instance.service) {
                    left.ids.remove(&id);
                }
                self.changed(&old.instance.service);
            }
        }
        let service = self.services.entry(service).or_insert_with(|| Service {
            index: FIRST,
            ids: BTreeSet::new(),
        });
        service.ids.insert(id);
        self.changed(&record.instance.service);
        record
    }

    pub(super) fn heartbeat(&mut self, id: &str, now: Now) -> Renewal {
        let Some(record) = self.records.get_mut(id) else {
            return Renewal::Lost;
        };
        record.last_heartbeat = now.unix_ms;
        if let Some(beat) = record.beat {
            record.expires = now.at.checked_add(beat.ttl);
        }
        Renewal::Kept
    }

    /// Takes an instance out; with a generation, only while that one is held.
    pub(super) fn deregister(&mut self, id: &str, generation: Option<u64>) -> Option<Record> {
        let held = self.records.get(id)?.instance.generation;
        if generation.is_some_and(|generation| generation != held) {
            return None;
        }
        self.remove(id)
    }

    fn remove(&mut self, id: &str) -> Option<Record> {
        let record = self.records.remove(id)?;
        self.checks += u64::from(record.check.is_some());
        if let Some(service) = self.services.get_mut(&record.instance.service) {
            service.ids.remove(id);
        }
        self.changed(&record.instance.service);
        Some(record)
    }

    /// Takes the outcome of a check. `None` when that registration is no longer held; else whether
    /// anything changed.
    pub(super) fn checked(
        &mut self,
        id: &str,
        serial: u64,
        passed: bool,
        now: Instant,
    ) -> Option<bool> {
        let record = self.records.get_mut(id).filter(|r| r.serial == serial)?;
        let check = Arc::clone(record.check.as_ref()?);
        record.failures = if passed { 0 } else { record.failures + 1 };
        let status = if passed {
            record.announced
        } else if record.failures >= check.max_failures.get() {
            Status::Critical
        } else {
            return Some(false);
        };
        if record.instance.status == status {
            return Some(false);
        }
        Arc::make_mut(&mut record.instance).status = status;
        if record.beat.is_none() {
            let reap = check.reap_after.and_then(|after| now.checked_add(after));
            record.expires = reap.filter(|_| !passed);
        }
        let service = Arc::clone(&record.instance.service);
        self.changed(&service);
        Some(true)
    }

    /// Removes what is due. Returns the records.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Record> {
        let due = |record: &&Record| record.expires.is_some_and(|at| at <= now);
        let ids: Vec<Arc<str>> = self
            .records
            .values()
            .filter(due)
            .map(|r| r.instance.id().into())
            .collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Grants at least one more heartbeat interval from now to every instance half of whose interval
    /// is shorter than `late`. Returns their number.
    pub(super) fn grant(&mut self, now: Instant, late: Duration) -> usize {
        let mut granted = 0;
        for record in self.records.values_mut() {
            if let Some(beat) = record.beat.filter(|beat| late > beat.interval / 2) {
                record.expires = record.expires.max(now.checked_add(beat.interval));
                granted += 1;
            }
        }
        granted
    }

    /// The next time at which [`expire`](Self::expire) may have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.records.values().filter_map(|r| r.expires).min()
    }

    /// Forgets everything, as a restart without a file does.
    pub(super) fn wipe(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        let serial = self.serial;
        let checks = self.checks + 1;
        *self = Self {
            cells,
            serial,
            checks,
            ..Self::new()
        };
        for cell in self.cells.values() {
            cell.send_replace(Position {
                epoch: self.epoch,
                index: FIRST,
            });
        }
    }

    /// A receiver of the position of a service.
    pub(super) fn subscribe(&mut self, service: &Arc<str>) -> cell::Receiver<Position> {
        if let Some(cell) = self.cells.get(service) {
            return cell.subscribe();
        }
        if self.cells.len() >= SWEEP_CELLS {
            self.cells.retain(|_, cell| cell.receiver_count() > 0);
        }
        let (cell, receiver) = cell::channel(self.position_of(service));
        self.cells.insert(Arc::clone(service), cell);
        receiver
    }

    pub(super) fn subscribers(&self, service: &str) -> usize {
        let cell = self.cells.get(service);
        cell.map_or(0, cell::Sender::receiver_count)
    }

    fn changed(&mut self, service: &Arc<str>) {
        self.index += 1;
        if let Some(state) = self.services.get_mut(service) {
            state.index = self.index;
        }
        if let Some(cell) = self.cells.get(service) {
            cell.send_replace(Position {
                epoch: self.epoch,
                index: self.index,
            });
        }
    }
}
