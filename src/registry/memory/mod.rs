//! The embedded registry: it holds the instances in the memory of one process.
//!
//! It is meant for tests, demos, a single machine, and the edge. When its process stops, no instance can
//! register and none expires until it runs again; its state can be kept in a file. Two embedded
//! registries do not share their state. **Beyond one machine, the registry should be Consul, etcd or
//! ZooKeeper**; code that uses [`Registry`](super::Registry) stays the same, only its URL changes.
//!
//! ```text
//! Memory ─┬─ a handle is a client: Registry::new(memory), connect("memory:"), the REST server
//!         ├─ store    records, services, a position (epoch, index); one lock, held for lookups only
//!         ├─ tend     one task: the earliest deadline, and the checks whose turn it is
//!         └─ saver    saves the state to a file, if one is set
//! ```
//!
//! **Watches** get the latest state, not a queue of changes: each watched service has one cell of two
//! numbers, which a slow watch reads later. A change after a quiet time is seen at once. Changes in quick
//! succession are seen together, ten times a second, as with every other registry. (Each reply is
//! compared as a whole, so seeing each change of a rollout would take time quadratic in their number.)
//! The `index` grows with each change in the registry. The `epoch` is a random number for each start, so
//! that a restart is detected even if the index has caught up.
//!
//! **Heartbeats.** An instance with a heartbeat interval is removed after `interval × max_failures`
//! without a heartbeat, and the removal is published like any other change. With
//! [`Health::Ttl`](super::Health::Ttl) it is removed after exactly that time. If the process of the
//! registry was itself suspended (its timer is late by more than half of an instance's interval), that
//! instance gets one more interval instead.
//!
//! **Checks.** With [`Health::Http`](super::Health::Http) or [`Health::Tcp`](super::Health::Tcp) the
//! registry checks the instance. It requests a path, which passes with any status from 200 to 299, or it
//! opens a connection. After `max_failures` failures in a row the instance is critical: it stays
//! registered and gets no traffic. One success restores its registered status; without a success it is
//! removed after the announcement's `reap_after`. A check connects to the host and port of the instance
//! only. gRPC checks are not supported.
//!
//! **Ids** are unique in the whole registry, as on a Consul agent: registering an id under another
//! service moves the instance. Registering an id again increases its generation, unless the same
//! registration repeats itself or is [updated](super::Registration::update).
//!
//! **Names are exact:** `Web` and `web` are two services, and two ids. Consul does not tell them apart, so a
//! program whose names differ in case only works with one of the two; with exact names, its tests on an
//! embedded registry show it.
//!
//! **A service exists** from its first registration until an hour after its last instance left, or for as
//! long as it is watched; see [`ViewState::Missing`](super::ViewState::Missing). Of the services without
//! an instance, the last 256 are known.
//!
//! **Limits.** What clients can make it hold and do is bounded by [`MemoryLimits`];
//! [`docs::registry`](crate::docs::registry) has the table, and what registering means.
//!
//! **In tests** it fails on demand, below the same supervision that all registries have:
//! [`pause`](Memory::pause), [`fail_next`](Memory::fail_next), [`drop_watchers`](Memory::drop_watchers),
//! [`wipe`](Memory::wipe).
//!
//! # Examples
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tower_roster::{Instance, Registry, registry::memory::Memory};
//!
//! let memory = Memory::new();
//! let registry = Registry::new(memory.clone());
//! let mut watch = registry.watch("user-service")?;
//! let me = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?);
//! let registration = registry.register(me)?;
//! watch.wait_for(|view| view.instances.len() == 1).await?;
//!
//! // As if the registry hung: the set stays, and is reported stale after 30 s.
//! memory.pause();
//! let view = watch.wait_for(|view| !view.is_fresh()).await?;
//! assert_eq!(view.instances.len(), 1);
//! memory.resume();
//! # drop(registration);
//! # Ok(())
//! # }
//! ```

mod agenda;
mod backend;
mod builder;
mod entry;
mod faults;
mod limits;
mod named;
mod operations;
mod persist;
mod probe;
mod record;
mod saver;
mod services;
mod shared;
mod store;
mod tend;
pub(super) mod wire;
pub(super) mod written;

pub use self::{
    builder::MemoryBuilder,
    limits::{MemoryLimits, Network},
};
#[cfg(feature = "rest")]
pub(super) use self::{
    entry::renew_every,
    record::{Lookup, Position, Record, Unresolved},
};
pub(super) use self::{
    entry::{Sessions, new_record},
    record::{Defaults, NewRecord},
    shared::MemoryShared,
};

use std::{path::Path, sync::Arc};

use self::store::Store;
use super::{Announcement, Renewal};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
};

/// A handle to an embedded registry.
///
/// A clone is another client of the same registry. The registry and its tasks end when the last handle
/// is dropped; each registration and each watch holds one.
pub struct Memory {
    pub(super) shared: Arc<MemoryShared>,
    sessions: Sessions,
}

impl Memory {
    /// Creates an empty registry with default settings.
    pub fn new() -> Self {
        Self::with_store(Store::new())
    }

    /// Creates a builder with default settings.
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder::default()
    }

    /// Returns the registry of this process with that name, which may be empty. It is created with
    /// default settings if no handle to it exists. The URLs `memory:` and `memory:name` use it.
    pub fn named(name: &str) -> Self {
        Self::over(named::find(name))
    }

    /// Creates a registry from a saved state, with default settings. Every instance gets its full time
    /// until it must send a heartbeat.
    ///
    /// # Errors
    /// When the file cannot be read or is no saved state. The file is not changed.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let store = persist::read(path.as_ref(), Defaults::default(), shared::now())?;
        Ok(Self::with_store(store))
    }

    fn with_store(store: Store) -> Self {
        let defaults = Defaults::default();
        let limits = MemoryLimits::default();
        let name = "memory".into();
        Self::over(MemoryShared::new(name, defaults, limits, store, None))
    }

    fn over(shared: Arc<MemoryShared>) -> Self {
        // A restored registry has instances already.
        shared.tend();
        Self {
            shared,
            sessions: Sessions::default(),
        }
    }

    /// Saves the state to a file, atomically: the file is complete at any time. It blocks until the disk
    /// has written it; [`MemoryBuilder::persist`] saves in the background.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), RegistryError> {
        let path = path.as_ref();
        let document = persist::Document::of(&self.shared.store());
        document.write(path).map_err(|error| {
            persist::failure(ErrorKind::Unavailable, path, "cannot be written", error)
        })
    }

    /// Saves what the file of [`MemoryBuilder::persist`] does not have yet, if there is one. It blocks until
    /// the disk has written it. Dropping the last handle saves as well, but cannot say that it failed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&self) -> Result<(), RegistryError> {
        self.shared.flush()
    }

    /// Registers an instance directly, without the [`Registration`](super::Registration) and the
    /// heartbeats of [`Registry::register`](super::Registry::register). Returns the instance as stored.
    ///
    /// Expiry and checks need a tokio runtime; they start with the first operation inside a runtime.
    ///
    /// # Errors
    /// When the registry cannot hold the instance or its check.
    pub fn register(
        &self,
        announcement: impl Into<Announcement>,
    ) -> Result<Arc<Instance>, RegistryError> {
        let announcement = announcement.into();
        let registered = announcement
            .validate()
            .and_then(|()| self.admitted(&announcement, None))
            .and_then(|new| self.shared.put(new));
        let (record, _) = registered
            .map_err(|error| error.about(&self.shared.name, &announcement.instance().service))?;
        Ok(record.instance)
    }

    /// Converts an announcement into a record that is within the limits.
    fn admitted(
        &self,
        announcement: &Announcement,
        session: Option<Arc<str>>,
    ) -> Result<NewRecord, RegistryError> {
        let mut new = new_record(announcement, self.shared.defaults, session)?;
        let admitted = self.shared.limits.admit(&mut new);
        admitted.map_err(|why| RegistryError::new(ErrorKind::Invalid, why.to_string()))?;
        Ok(new)
    }

    /// Records a heartbeat of the instance with this id.
    pub fn heartbeat(&self, id: &str) -> Renewal {
        self.shared.heartbeat(id)
    }

    /// Removes the instance with this id. Returns whether it was registered.
    pub fn deregister(&self, id: &str) -> bool {
        self.shared.deregister(id, None).is_some()
    }

    /// Returns the instances of a service in the order of their ids, with any status.
    pub fn instances(&self, service: &str) -> Vec<Arc<Instance>> {
        let store = self.shared.store();
        store.of(service).map(|r| Arc::clone(&r.instance)).collect()
    }

    /// Returns the services, each with its current number of instances: those that have any, and those
    /// that have lost their last one within the last hour (at most 256, unless they are watched).
    pub fn services(&self) -> Vec<(Arc<str>, usize)> {
        self.shared.store().services.counts()
    }

    /// Returns the number of the last change. Each start of the registry counts from the beginning,
    /// unless its state was restored.
    pub fn index(&self) -> u64 {
        self.shared.store().position().index
    }

    /// Returns the random number of this start of the registry.
    pub fn epoch(&self) -> u64 {
        self.shared.store().position().epoch
    }

    /// Returns the number of open watches of a service, including those of the REST server.
    pub fn watchers(&self, service: &str) -> usize {
        self.shared.store().services.subscribers(service)
    }

    /// Pauses the registry, as if its process were suspended: every operation of a client waits until
    /// [`resume`](Self::resume), and nothing expires. The methods of this handle still work.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Ends a [`pause`](Self::pause). As after any suspension, every instance gets one more heartbeat
    /// interval.
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Makes the next `operations` of clients fail as unavailable: reads, starts of waiting for a
    /// change, registrations, heartbeats, deregistrations, and requests to the REST server.
    pub fn fail_next(&self, operations: u32) {
        self.shared.faults.fail_next(operations);
    }

    /// Breaks every open watch, like a reset connection. Watches reconnect by themselves.
    pub fn drop_watchers(&self) {
        self.shared.faults.drop_watchers();
    }

    /// Clears the whole state, like a restart without a saved state: services, instances and the index.
    /// The epoch changes.
    pub fn wipe(&self) {
        self.shared.wipe();
    }
}

impl MemoryBuilder {
    /// Creates the registry.
    ///
    /// # Errors
    /// When a setting is out of its range, or the file of [`persist`](Self::persist) exists and cannot
    /// be read as a saved state, or another registry uses it. The file is not changed.
    pub fn build(self) -> Result<Memory, RegistryError> {
        Ok(Memory::over(self.open()?))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        // A clone is another client: its registrations are new incarnations.
        Self::over(Arc::clone(&self.shared))
    }
}

impl_debug!(Memory: |this| name = this.shared.name, index = this.index());
