//! The data of the registry: records, services, positions. Pure: without a task or a clock; the caller
//! passes the time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
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
struct StoredService {
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
    /// Every service that was registered since the start.
    services: BTreeMap<Arc<str>, StoredService>,
    /// One cell for each watched service.
    cells: HashMap<Arc<str>, cell::Sender<Position>>,
    /// Incremented with each registration or removal of an instance with a check.
    pub(super) checks: u64,
    serial: u64,
    /// The deadline that the task sleeps until.
    pub(super) planned: Option<Instant>,
}

/// The index before the first change. It is not 0, which means "no index" in a request.
const FIRST: u64 = 1;

/// The number of cells above which unused ones are removed.
const SWEEP_CELLS: usize = 64;

fn random_epoch() -> u64 {
    // 0 means "no epoch". 53 bits are exact even for JSON readers that convert numbers to floats.
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

    /// Returns the position of a service's last change.
    pub(super) fn position_of(&self, service: &str) -> Position {
        Position {
            epoch: self.epoch,
            index: self.services.get(service).map_or(FIRST, |s| s.index),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the record expires before the deadline of the task.
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

    /// Returns the id that a request refers to: by an id, or by a service with one instance at that host
    /// and port.
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

    /// Returns the records of a service. `wanted` selects the data to copy of each record, because a
    /// watch of thousands of instances reads often.
    pub(super) fn look<T>(&self, query: &Query, wanted: impl Fn(&Record) -> T) -> Lookup<T> {
        let records = self.of(query.service());
        let records = records.filter(|record| query.matches(&record.instance.tags));
        Lookup {
            position: self.position_of(query.service()),
            exists: self.services.contains_key(query.service()),
            records: records.map(wanted).collect(),
        }
    }

    /// Returns the services with their numbers of instances.
    pub(super) fn counts(&self) -> Vec<(Arc<str>, usize)> {
        let services = self.services.iter();
        services
            .map(|(name, service)| (Arc::clone(name), service.ids.len()))
            .collect()
    }

    /// Applies a registration. Returns the record, and whether it has changed for watches.
    pub(super) fn register(&mut self, mut new: NewRecord, now: Now) -> (Record, bool) {
        let id: Arc<str> = new.instance.id().into();
        // Ids are unique in the whole registry, so keys have no scope.
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

    /// Inserts a record of a saved state unchanged.
    pub(super) fn restore(&mut self, new: NewRecord, last_heartbeat: u64, now: Now) {
        let expires = new.beat.and_then(|beat| now.at.checked_add(beat.ttl));
        let id = new.instance.id().into();
        self.insert(id, new, expires, last_heartbeat);
    }

    /// Continues from the index of a saved state.
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
                // The id moved to another service, as on a Consul agent.
                if let Some(left) = self.services.get_mut(&old.instance.service) {
                    left.ids.remove(&id);
                }
                self.changed(&old.instance.service);
            }
        }
        let service = self
            .services
            .entry(service)
            .or_insert_with(|| StoredService {
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

    /// Removes an instance. If `generation` is set, only an instance of that generation is removed.
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

    /// Applies the result of a check. Returns `None` if the registration no longer exists, else whether
    /// it changed the record.
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

    /// Removes the expired records and returns them.
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

    /// Gives instances at least one more heartbeat interval from now on, if `late` is more than half of
    /// their interval. Returns their number.
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

    /// Returns the earliest time at which [`expire`](Self::expire) may remove a record.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.records.values().filter_map(|r| r.expires).min()
    }

    /// Clears the whole state, like a restart without a file.
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

    /// Returns a receiver of the position of a service.
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
