//! The embedded registry: instances held in the memory of one process.
//!
//! For tests, demos, one machine, and the edge. It is one process: when it stops, nobody registers and
//! nothing expires until it is back (its state can be kept in a file), and two of them know nothing of
//! each other. **Beyond one machine Consul, etcd or ZooKeeper is the registry**; the code that uses
//! [`Registry`](super::Registry) stays as it is when the URL changes.
//!
//! ```text
//! Memory ─┬─ a handle is a client: Registry::new(memory), connect("memory:"), the REST front
//!         ├─ store    records, services, a position (epoch, index); one lock, held for lookups only
//!         ├─ tend     one task: the earliest deadline, and the checks that the registry makes
//!         └─ saver    the state in a file, when asked for
//! ```
//!
//! **Watching** hands over the latest state, through a cell for each service and never a queue: a
//! thousand slow watchers cost a thousand cells of two numbers. A change after a quiet time is seen at
//! once, and changes that go on are seen together, ten times a second, as with every other registry:
//! a list is compared as a whole, so seeing each change of a rollout would cost the square of it. The `index` grows with each change of
//! the whole registry; the `epoch` is random for each start, so that a restart is recognised even when
//! the index has caught up.
//!
//! **Heartbeats.** An instance with a heartbeat interval is removed after `interval × max_failures`
//! without one, and that is published like any other change; a [`Health::Ttl`](super::Health::Ttl)
//! removes it after exactly that time. When the process of the registry was itself suspended (its timer
//! wakes late by more than half of an instance's interval) that instance gets one more interval instead.
//!
//! **Checks.** With [`Health::Http`](super::Health::Http) or [`Health::Tcp`](super::Health::Tcp) the
//! registry asks the instance: a request of a path, which passes with any status from 200 to 299, or a
//! connection. After `max_failures` failures in a row the instance is critical: it is kept and gets
//! no traffic. One success brings it back; after the announcement's `reap_after` it is removed. A check
//! goes to the host and port of the instance and nowhere else, and gRPC checks are not supported.
//!
//! **Ids** are unique in the whole registry, as they are on a Consul agent: registering one under
//! another service moves it. Registering an id again raises its generation, unless it comes from the
//! same registration (a repetition, or an [`update`](super::Registration::update)).
//!
//! **A service exists** from its first registration until the registry stops, whether an instance of
//! it is left or not; see [`ViewState::Missing`](super::ViewState::Missing).
//!
//! **As a fake** it fails on demand, below the same supervision that real registries get:
//! [`pause`](Memory::pause), [`fail_next`](Memory::fail_next),
//! [`drop_watchers`](Memory::drop_watchers), [`wipe`](Memory::wipe).
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

mod backend;
mod builder;
mod entry;
mod faults;
mod named;
mod persist;
mod probe;
mod record;
mod saver;
mod shared;
mod state;
mod store;
mod tend;
pub(super) mod wire;

pub use self::builder::MemoryBuilder;
#[cfg(feature = "rest")]
pub(super) use self::{
    entry::renew_every,
    record::{Lookup, NewRecord, Position, Unresolved},
};
pub(super) use self::{
    entry::{Sessions, new_record},
    record::Defaults,
    shared::MemoryShared,
};

use std::{fmt, path::Path, sync::Arc};

use self::store::Store;
use super::{Announcement, Renewal};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
};

/// A handle to an embedded registry.
///
/// Cloning gives another client of the same registry. The registry ends with its last handle, and
/// with it its tasks; a registration and a watch hold one each.
pub struct Memory {
    pub(super) shared: Arc<MemoryShared>,
    sessions: Sessions,
}

impl Memory {
    /// Creates an empty registry with default settings.
    pub fn new() -> Self {
        Self::with_store(Store::new())
    }

    /// Starts to configure a registry.
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder::default()
    }

    /// The registry of this process with that name (the empty one too), made with default settings when
    /// no handle to it is left. The URLs `memory:` and `memory:name` lead here.
    pub fn named(name: &str) -> Self {
        Self::over(named::find(name))
    }

    /// Creates a registry from a saved state, with default settings. Every instance gets its full time
    /// until it must send a heartbeat.
    ///
    /// # Errors
    /// When the file cannot be read or is no saved state; it is left as it is.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let store = persist::read(path.as_ref(), false, Defaults::default(), state::now())?;
        Ok(Self::with_store(store))
    }

    fn with_store(store: Store) -> Self {
        let defaults = Defaults::default();
        Self::over(MemoryShared::new("memory".into(), defaults, store, None))
    }

    fn over(shared: Arc<MemoryShared>) -> Self {
        Self {
            shared,
            sessions: Sessions::default(),
        }
    }

    /// Saves the state to a file, in one step: the file is whole at any time. Blocks for as long as
    /// the disk takes; [`MemoryBuilder::persist`] saves in the background.
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

    /// Registers an instance directly, without the guard and the heartbeats that
    /// [`Registry::register`](super::Registry::register) gives. Returns it as it is held.
    ///
    /// Expiry and checks need a tokio runtime; they start with the first operation inside one.
    ///
    /// # Errors
    /// When the instance or its check cannot be held.
    pub fn register(
        &self,
        announcement: impl Into<Announcement>,
    ) -> Result<Arc<Instance>, RegistryError> {
        let announcement = announcement.into();
        let (name, defaults) = (self.shared.name(), self.shared.defaults());
        announcement.validate(name)?;
        let new = new_record(&announcement, name, defaults, None)?;
        Ok(self.shared.register(new).0.instance)
    }

    /// Notes a sign of life of the instance with this id.
    pub fn heartbeat(&self, id: &str) -> Renewal {
        self.shared.heartbeat(id)
    }

    /// Takes the instance with this id out. Returns whether it was held.
    pub fn deregister(&self, id: &str) -> bool {
        self.shared.deregister(id, None).is_some()
    }

    /// The instances of a service in the order of their ids, whatever their status.
    pub fn instances(&self, service: &str) -> Vec<Arc<Instance>> {
        let store = self.shared.store();
        store.of(service).map(|r| Arc::clone(&r.instance)).collect()
    }

    /// The services that were ever held since the start, each with its number of instances.
    pub fn services(&self) -> Vec<(Arc<str>, usize)> {
        self.shared.store().counts()
    }

    /// The number of the last change. It starts anew with each start of the registry, unless its state
    /// was restored.
    pub fn index(&self) -> u64 {
        self.shared.store().position().index
    }

    /// A random number of this start of the registry.
    pub fn epoch(&self) -> u64 {
        self.shared.store().position().epoch
    }

    /// The number of open watches of a service, those of the REST front included.
    pub fn watchers(&self, service: &str) -> usize {
        self.shared.store().subscribers(service)
    }

    /// Freezes the registry, as if its process were suspended: every operation of a client waits until
    /// [`resume`](Self::resume), and nothing expires. The methods of this handle still work.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Ends a [`pause`](Self::pause). As after any suspension, every instance gets one more heartbeat
    /// interval.
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Makes the next `operations` of clients fail as unavailable: reads, the starts of waiting for a
    /// change, registrations, heartbeats, deregistrations, and requests to the REST front.
    pub fn fail_next(&self, operations: u32) {
        self.shared.fail_next(operations);
    }

    /// Breaks every open watch, as a connection that is reset. Watches come back by themselves.
    pub fn drop_watchers(&self) {
        self.shared.drop_watchers();
    }

    /// Forgets everything, as a restart without a saved state does: services, instances, the index, and
    /// the epoch is another one.
    pub fn wipe(&self) {
        self.shared.wipe();
    }
}

impl MemoryBuilder {
    /// Creates the registry.
    ///
    /// # Errors
    /// When a setting is out of its range, or the file of [`persist`](Self::persist) is there and
    /// cannot be read as a saved state; it is left as it is.
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
        // Another client: what it registers is another incarnation.
        Self::over(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("name", self.shared.name())
            .field("index", &self.index())
            .finish_non_exhaustive()
    }
}
