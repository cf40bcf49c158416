//! Reads the instances of services from registries, and registers this process.
//!
//! A *backend* is one adapter to an outside system. It reads the instances of a service, reports when
//! they may have changed, and sends registrations ([`Backend`], [`Source`], [`Lease`]). Everything else
//! is implemented once, here, and is the same for every backend:
//!
//! ```text
//!             ┌───────────────────────── Registry ─────────────────────────┐
//! Source ───▶ │ supervise: pace, backoff, deadlines   catalog: last good   │ ───▶ Watch ──▶ View
//! (a backend) │ one task for each distinct query      set, guard, grace    │      (latest state)
//! Lease  ◀─── │ registration: heartbeat, again after loss, deregister      │ ◀─── Registration
//!             └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Losing the registry is not losing the service: a [`View`] keeps the last good set, its age, and the
//! error that keeps it from being fresh. Three states that many clients confuse are kept apart: the
//! registry cannot be reached ([`ViewState::Stale`], with an error), it does not know the service
//! ([`ViewState::Missing`]), or the service has no instance that may get traffic ([`ViewState::Empty`]).
//! [`docs::faults`](crate::docs::faults) has what each failure of each registry costs a client, measured.

mod connect;
#[cfg(feature = "consul")]
pub mod consul;
mod contract;
#[cfg(any(feature = "_transport", feature = "zookeeper"))]
mod decoding;
#[cfg(feature = "dns")]
pub mod dns;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fixed;
mod follow;
#[cfg(feature = "_transport")]
mod http;
#[cfg(feature = "memory")]
pub mod memory;
mod origin;
mod pace;
mod pair;
mod publisher;
mod query;
#[cfg(feature = "_record")]
pub mod record;
mod redact;
mod registration;
#[cfg(feature = "rest")]
pub mod rest;
mod running;
mod settings;
mod supervise;
mod text;
#[cfg(any(feature = "consul", all(feature = "etcd", feature = "tls")))]
mod tls;
mod view;
mod warned;
mod watch;
mod watches;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub(crate) use self::follow::{Followed, Follower, followed};
pub use self::{
    connect::{Schemes, connect, connect_with},
    contract::{Answer, Backend, BoxFuture, Lease, Renewal, Source},
    pace::Limit,
    pair::{Failover, Merge},
    query::Query,
    registration::{Announcement, Health, Registration, RegistrationEvent, RegistrationHandle},
    settings::{WatchMode, WatchSettings},
    view::{View, ViewPart, ViewState},
    watch::{Closed, Watch},
};

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch as cell};

use self::{
    origin::{OneBackend, Origin},
    registration::Prepared,
    running::WatchTask,
    watches::Watches,
};
use crate::error::{ConfigError, ErrorKind, RegistryError};
#[cfg(feature = "server")]
use crate::instance::Address;

/// A handle to a registry. Cheap to clone; clones share their watches.
///
/// # Examples
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_roster::{Instance, registry};
///
/// // `consul://127.0.0.1:8500` here, and the rest stays as it is.
/// let registry = registry::connect("memory:")?;
///
/// let me = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?);
/// let registration = registry.register(me)?;
///
/// let mut watch = registry.watch("user-service")?;
/// let view = watch.wait_for(|view| !view.instances.is_empty()).await?;
/// assert_eq!(view.instances.iter().next().unwrap().id(), "user-1");
///
/// registration.deregister().await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "memory"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Registry(Arc<RegistryShared>);

struct RegistryShared {
    origin: Box<dyn Origin>,
    /// How long a watch continues without a handle.
    linger: Duration,
    watches: Arc<Watches>,
    /// Closed when the last handle is dropped; lingering watches then end at once.
    _alive: cell::Sender<()>,
    alive: cell::Receiver<()>,
}

impl Registry {
    /// Creates a registry from a backend, with default settings.
    pub fn new(backend: impl Backend) -> Self {
        Self::assemble(Arc::new(backend), WatchSettings::default())
    }

    /// Creates a registry from a backend and settings.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn with_settings(
        backend: impl Backend,
        settings: WatchSettings,
    ) -> Result<Self, ConfigError> {
        settings.validate()?;
        Ok(Self::assemble(Arc::new(backend), settings))
    }

    fn assemble(backend: Arc<dyn Backend>, settings: WatchSettings) -> Self {
        let linger = settings.linger;
        Self::of(Box::new(OneBackend { backend, settings }), linger)
    }

    fn of(origin: Box<dyn Origin>, linger: Duration) -> Self {
        let (_alive, alive) = cell::channel(());
        Self(Arc::new(RegistryShared {
            origin,
            linger,
            watches: Arc::default(),
            _alive,
            alive,
        }))
    }

    /// Returns the name of the backend, as it appears in errors.
    pub fn name(&self) -> Arc<str> {
        self.0.origin.name()
    }

    /// Watches a service. Equal queries share one request to the registry, which ends when their last
    /// [`Watch`] is dropped.
    ///
    /// # Errors
    /// When the service has no name, the backend does not support this query or cannot name the service
    /// in a request, or no tokio runtime runs.
    pub fn watch(&self, query: impl Into<Query>) -> Result<Watch, RegistryError> {
        let query = query.into();
        let service = Arc::clone(query.service());
        let watch = self.start_watch(query);
        watch.map_err(|error| error.about(&self.name(), &service))
    }

    fn start_watch(&self, query: Query) -> Result<Watch, RegistryError> {
        let runtime = runtime()?;
        let name = self.name();
        if let Some(follower) = self.0.watches.get(&query) {
            return Ok(Watch::new(query, name, follower));
        }
        query.validate()?;
        // Not under the lock of the watches: this is code of the backend.
        let again = Arc::default();
        let work = self.0.origin.watch(&query, &again)?;
        let task = WatchTask {
            query: query.clone(),
            registry: Arc::clone(&name),
            linger: self.0.linger,
            watches: Arc::downgrade(&self.0.watches),
            alive: self.0.alive.clone(),
        };
        let follower = self.0.watches.get_or_start(&query, again, || {
            let sender = Arc::new(cell::Sender::new(View::default()));
            task.spawn(&runtime, work, Arc::clone(&sender));
            sender
        });
        Ok(Watch::new(query, name, follower))
    }

    /// Registers an instance and keeps it registered, through every failure of the registry, until the
    /// [`Registration`] is deregistered or dropped.
    ///
    /// # Errors
    /// When this backend cannot hold the instance or its check, or no tokio runtime runs. A registry
    /// that cannot be reached is not an error: the registration is retried until it succeeds.
    pub fn register(
        &self,
        announcement: impl Into<Announcement>,
    ) -> Result<Registration, RegistryError> {
        let announcement = announcement.into();
        let prepared = self.prepare(&announcement)?;
        let runtime = runtime()
            .map_err(|error| error.about(&self.name(), &announcement.instance().service))?;
        Ok(Registration::spawn(&runtime, prepared, announcement))
    }

    /// Prepares a registration in this registry.
    fn prepare(&self, announcement: &Announcement) -> Result<Vec<Prepared>, RegistryError> {
        let valid = announcement.validate();
        let prepared = valid.and_then(|()| self.0.origin.register(announcement));
        prepared.map_err(|error| error.about(&self.name(), &announcement.instance().service))
    }

    /// Returns the address of the server that registrations are sent to, if the backend tells it.
    #[cfg(feature = "server")]
    pub(crate) fn address(&self) -> Option<Address> {
        self.0.origin.address()
    }

    /// Checks that the registry can hold an instance and its check. It sends nothing.
    #[cfg(feature = "server")]
    pub(crate) fn can_hold(&self, announcement: &Announcement) -> Result<(), RegistryError> {
        self.prepare(announcement)?;
        let runs = runtime().map(drop);
        runs.map_err(|error| error.about(&self.name(), &announcement.instance().service))
    }
}

fn runtime() -> Result<Handle, RegistryError> {
    Handle::try_current().map_err(|error| {
        let what = "a registry needs a tokio runtime";
        RegistryError::new(ErrorKind::Invalid, what).with_source(error)
    })
}

impl_debug!(Registry: |this| origin = this.0.origin);
