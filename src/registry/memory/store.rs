//! The data of the registry: records, services, positions. Pure: without a task or a clock; the caller
//! passes the time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

#[cfg(feature = "rest")]
use super::record::Unresolved;
use super::{
    agenda::Agenda,
    limits::{Full, MemoryLimits},
    record::{Lookup, NewRecord, Now, Position, Record},
    services::Services,
};
#[cfg(feature = "rest")]
use crate::instance::{Address, Host};
use crate::{instance::Status, registry::Renewal};

/// The state of a registry.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) services: Services,
    records: HashMap<Arc<str>, Record>,
    /// The size of all records.
    bytes: usize,
    /// Services, addresses and ids, to find the instance of a service at an address.
    places: BTreeSet<(Arc<str>, Box<str>, Arc<str>)>,
    /// When instances expire.
    expiries: Agenda,
    /// When instances are checked.
    checks: Agenda,
    serial: u64,
    /// The deadline that the task sleeps until.
    pub(super) planned: Option<Instant>,
}

/// The number of records below which a table is not made smaller.
const SMALL_TABLE: usize = 1_024;

impl Store {
    pub(super) fn new() -> Self {
        Self {
            services: Services::new(),
            records: HashMap::new(),
            bytes: 0,
            places: BTreeSet::new(),
            expiries: Agenda::default(),
            checks: Agenda::default(),
            serial: 0,
            planned: None,
        }
    }

    pub(super) fn position(&self) -> Position {
        self.services.position()
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

    #[cfg(feature = "rest")]
    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        let ids = self.services.all_ids();
        ids.filter_map(|id| self.records.get(id))
    }

    pub(super) fn of<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Record> + use<'a> {
        let ids = self.services.ids(service);
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
        let mut found: Box<dyn Iterator<Item = &Arc<str>>> = match (host, port) {
            (Some(host), Some(port)) => {
                let address = Address::new(host.clone(), port.into());
                let place = address.map_err(|_| Unresolved::Unknown)?.to_string();
                let (name, place): (Arc<str>, Box<str>) = (name.into(), place.into());
                let from = (Arc::clone(&name), place.clone(), Arc::from(""));
                let at = self.places.range(from..);
                let at = at.take_while(move |(s, p, _)| *s == name && *p == place);
                Box::new(at.map(|(_, _, id)| id))
            }
            // A host or a port alone does not choose one of several: to look for it would be a pass over
            // all of them.
            _ => Box::new(self.services.ids(name)),
        };
        let (first, second) = (found.next(), found.next());
        let first = first.ok_or(Unresolved::Unknown)?;
        if second.is_some() {
            return Err(Unresolved::Several);
        }
        let record = self.records.get(first).ok_or(Unresolved::Unknown)?;
        let address = &record.instance.address;
        let fits = host.is_none_or(|host| address.host() == host)
            && port.is_none_or(|port| address.port() == port);
        fits.then(|| Arc::clone(first)).ok_or(Unresolved::Unknown)
    }

    /// Returns the records of a service. `wanted` selects the data to copy of each record, because a
    /// watch of thousands of instances reads often. Tags are compared later, without the lock.
    pub(super) fn look<T>(&self, service: &str, wanted: impl Fn(&Record) -> T) -> Lookup<T> {
        Lookup {
            position: self.services.position_of(service),
            exists: self.services.exists(service),
            records: self.of(service).map(wanted).collect(),
        }
    }

    /// Returns the numbers of services and of instances.
    #[cfg(feature = "rest")]
    pub(super) fn totals(&self) -> (usize, usize) {
        (self.services.len(), self.records.len())
    }

    /// Applies a registration. Returns the record, and whether it has changed for watches.
    pub(super) fn register(
        &mut self,
        mut new: NewRecord,
        limits: &MemoryLimits,
        now: Now,
    ) -> Result<(Record, bool), Full> {
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
                    self.expiries.shift(&id, known.expires, expires);
                    known.expires = expires;
                }
                return Ok((known.clone(), false));
            }
            if new.session.is_none() || !same_session {
                new.instance.generation += 1;
            }
        } else if self.records.len() >= limits.instances {
            return Err(Full::Instances);
        } else {
            new.instance.generation = 1;
        }
        let replaced = self.records.get(&id).map_or(0, |known| known.size);
        if self.bytes - replaced + new.size() > limits.bytes {
            return Err(Full::Bytes);
        }
        Ok((self.insert(id, new, expires, now.unix_ms, now.at), true))
    }

    /// Inserts a record of a saved state unchanged.
    pub(super) fn restore(&mut self, new: NewRecord, last_heartbeat: u64, now: Now) {
        let expires = new.beat.and_then(|beat| now.at.checked_add(beat.ttl));
        let id = new.instance.id().into();
        self.insert(id, new, expires, last_heartbeat, now.at);
    }

    fn insert(
        &mut self,
        id: Arc<str>,
        new: NewRecord,
        expires: Option<Instant>,
        last_heartbeat: u64,
        now: Instant,
    ) -> Record {
        // An id may move to another service, as on a Consul agent.
        self.take_out(&id, Some(&new.instance.service), now);
        let size = new.size();
        let NewRecord {
            instance,
            beat,
            check,
            session,
        } = new;
        self.serial += 1;
        let service = Arc::clone(&instance.service);
        let check_at = check.as_ref().and_then(|check| check.first_at(now));
        let record = Record {
            announced: instance.status,
            instance: Arc::new(instance),
            beat,
            check,
            session,
            last_heartbeat,
            serial: self.serial,
            size,
            failures: 0,
            expires,
            check_at,
        };
        self.bytes += size;
        self.expiries.shift(&id, None, expires);
        self.checks.shift(&id, None, check_at);
        let place = record.instance.address.to_string();
        self.places
            .insert((Arc::clone(&service), place.into(), Arc::clone(&id)));
        self.records.insert(Arc::clone(&id), record.clone());
        self.services.put(&service, &id);
        record
    }

    /// Removes a record with all that leads to it. `stays` is a service that gets the id again.
    fn take_out(&mut self, id: &str, stays: Option<&Arc<str>>, now: Instant) -> Option<Record> {
        let (id, record) = self.records.remove_entry(id)?;
        self.bytes -= record.size;
        self.expiries.shift(&id, record.expires, None);
        self.checks.shift(&id, record.check_at, None);
        let service = Arc::clone(&record.instance.service);
        let place = record.instance.address.to_string();
        self.places
            .remove(&(Arc::clone(&service), place.into(), Arc::clone(&id)));
        if stays == Some(&service) {
            return Some(record);
        }
        self.services.remove(&service, &id, now);
        // A table does not become smaller by itself.
        if self.records.capacity() > SMALL_TABLE && self.records.len() < self.records.capacity() / 8
        {
            self.records.shrink_to(self.records.len() * 2);
        }
        Some(record)
    }

    pub(super) fn heartbeat(&mut self, id: &str, now: Now) -> Renewal {
        let Some(record) = self.records.get_mut(id) else {
            return Renewal::Lost;
        };
        record.last_heartbeat = now.unix_ms;
        if let Some(beat) = record.beat {
            let expires = now.at.checked_add(beat.ttl);
            let name = id.into();
            self.expiries.shift(&name, record.expires, expires);
            record.expires = expires;
        }
        Renewal::Kept
    }

    /// Removes an instance. If `generation` is set, only an instance of that generation is removed.
    pub(super) fn deregister(
        &mut self,
        id: &str,
        generation: Option<u64>,
        now: Instant,
    ) -> Option<Record> {
        let held = self.records.get(id)?.instance.generation;
        if generation.is_some_and(|generation| generation != held) {
            return None;
        }
        self.take_out(id, None, now)
    }

    /// Returns when the next check is due.
    pub(super) fn next_check(&self) -> Option<Instant> {
        self.checks.first().map(|(at, _)| *at)
    }

    /// Returns the record whose check is due first. It is not due again until it was
    /// [`checked`](Self::checked).
    pub(super) fn begin_check(&mut self) -> Option<&Record> {
        let (at, id) = self.checks.first()?.clone();
        self.checks.shift(&id, Some(at), None);
        let record = self.records.get_mut(&id)?;
        record.check_at = None;
        Some(record)
    }

    /// Plans the next check of a registration after one that ended.
    pub(super) fn plan_check(&mut self, id: &Arc<str>, serial: u64, now: Instant) {
        let record = self.records.get_mut(id).filter(|r| r.serial == serial);
        let Some(record) = record else { return };
        let interval = record.check.as_ref().map(|check| check.interval);
        let next = interval.and_then(|interval| now.checked_add(interval));
        self.checks.shift(id, record.check_at, next);
        record.check_at = next;
    }

    /// Plans the checks that began and will not end. No check may be running.
    pub(super) fn plan_cut_off(&mut self, now: Instant) {
        for (id, record) in &mut self.records {
            if record.check_at.is_none() {
                let check = record.check.as_ref();
                record.check_at = check.and_then(|check| check.first_at(now));
                self.checks.shift(id, None, record.check_at);
            }
        }
    }

    /// Applies the result of a check, if the registration still exists.
    pub(super) fn checked(
        &mut self,
        id: &Arc<str>,
        serial: u64,
        passed: bool,
        now: Instant,
    ) -> Option<()> {
        let record = self.records.get_mut(id).filter(|r| r.serial == serial)?;
        let check = Arc::clone(record.check.as_ref()?);
        record.failures = if passed { 0 } else { record.failures + 1 };
        let status = if passed {
            record.announced
        } else if record.failures >= check.max_failures.get() {
            Status::Critical
        } else {
            return None;
        };
        if record.instance.status == status {
            return None;
        }
        Arc::make_mut(&mut record.instance).status = status;
        if record.beat.is_none() {
            let reap = check.reap_after.and_then(|after| now.checked_add(after));
            let expires = reap.filter(|_| !passed);
            self.expiries.shift(id, record.expires, expires);
            record.expires = expires;
        }
        let service = Arc::clone(&record.instance.service);
        self.services.changed(&service);
        Some(())
    }

    /// Removes at most `most` expired records, and returns them.
    pub(super) fn expire(&mut self, now: Instant, most: usize) -> Vec<Record> {
        let mut expired = Vec::new();
        while let Some((at, id)) = self.expiries.first().cloned() {
            if at > now || expired.len() >= most {
                break;
            }
            expired.extend(self.take_out(&id, None, now));
        }
        expired
    }

    /// Gives instances at least one more heartbeat interval from now on, if `late` is more than half of
    /// their interval. Returns their number.
    pub(super) fn grant(&mut self, now: Instant, late: Duration) -> usize {
        let mut granted = 0;
        for (id, record) in &mut self.records {
            if let Some(beat) = record.beat.filter(|beat| late > beat.interval / 2) {
                let expires = record.expires.max(now.checked_add(beat.interval));
                self.expiries.shift(id, record.expires, expires);
                record.expires = expires;
                granted += 1;
            }
        }
        granted
    }

    /// Returns the earliest time at which [`expire`](Self::expire) may remove a record.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Clears the whole state, like a restart without a file.
    pub(super) fn wipe(&mut self) {
        let mut services = std::mem::replace(&mut self.services, Services::new());
        services.wipe();
        *self = Self {
            services,
            serial: self.serial,
            ..Self::new()
        };
    }
}
