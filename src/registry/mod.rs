//! Where instances come from, and how a process announces itself.
//!
//! A *backend* is one adapter to an outside system: it reads the instances of a service, tells when
//! they may have changed, and carries a registration. That is all ([`Backend`], [`Source`],
//! [`Lease`]). Everything else is written once, here, and holds for every backend:
//!
//! ```text
//!             ┌───────────────────────── Registry ─────────────────────────┐
//! Source ───▶ │ supervise: pace, backoff, deadlines   catalog: last good   │ ───▶ Watch ──▶ View
//! (a backend) │ one task for each distinct query      set, guard, grace    │      (latest state)
//! Lease  ◀─── │ registration: heartbeat, again after loss, deregister      │ ◀─── Registration
//!             └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Losing the registry is not losing the service: a [`View`] keeps the last good set, its age, and
//! the error that keeps it from being fresh. Three states that many clients mix up stay apart:
//! the registry cannot be reached ([`State::Stale`], with an error), it knows no such service
//! ([`State::Missing`]), and the service has no instance that may serve ([`State::Empty`]).

mod connect;
#[cfg(feature = "consul")]
pub mod consul;
pub mod fixed;
mod follow;
#[cfg(feature = "_transport")]
mod http;
#[cfg(feature = "memory")]
pub mod memory;
mod pace;
#[cfg(any(feature = "consul", feature = "rest"))]
mod redact;
mod registration;
#[cfg(feature = "rest")]
pub mod rest;
mod supervise;
mod view;
mod watch;

pub(crate) use self::follow::{Followed, Follower, followed};
pub use self::{
    connect::{connect, connect_with},
    pace::Limit,
    registration::{Announcement, Event, Health, Registration},
    view::{State, View},
    watch::{Closed, Watch},
};

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch as cell};

use crate::{
    backoff::Backoff,
    catalog::{EmptyGuard, Listing},
    error::{ConfigError, Error, ErrorKind},
};

/// A boxed future, as backends return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What to watch: a service, and which of its instances. Equal queries share one watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    service: Arc<str>,
    tags: Vec<String>,
    passing_only: bool,
}

impl Query {
    /// All instances of `service` that are passing or warning.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            tags: Vec::new(),
            passing_only: false,
        }
    }

    /// Only instances that carry this tag, and every other tag of the query.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Only instances all of whose checks pass; by default warning ones serve too, with their
    /// warning weight.
    #[must_use]
    pub fn passing_only(mut self) -> Self {
        self.passing_only = true;
        self
    }

    /// The service.
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// The tags that an instance must carry.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Whether `tags` holds every tag of the query.
    pub fn matches(&self, tags: &[String]) -> bool {
        self.tags.iter().all(|tag| tags.contains(tag))
    }
}

impl From<&str> for Query {
    fn from(service: &str) -> Self {
        Self::new(service)
    }
}

impl From<String> for Query {
    fn from(service: String) -> Self {
        Self::new(service)
    }
}

impl From<Arc<str>> for Query {
    fn from(service: Arc<str>) -> Self {
        Self::new(service)
    }
}

/// One adapter to a registry.
///
/// Implement this to bring another registry; [`Registry::new`] makes it usable. Neither method may
/// block or do I/O: they prepare what the supervising tasks then drive.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Its name in errors and logs, such as `consul http://127.0.0.1:8500`.
    fn name(&self) -> Arc<str>;

    /// Prepares to read the instances of a service: usually one source, else several in order of
    /// preference, of which the first with instances is used.
    ///
    /// # Errors
    /// When the query cannot be asked of this backend.
    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, Error>;

    /// Prepares to register an instance.
    ///
    /// # Errors
    /// When this backend cannot hold such an instance or check.
    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, Error>;
}

/// What a [`Source`] learned.
#[derive(Debug)]
pub enum Answer {
    /// The whole state.
    Listing(Listing),
    /// The registry confirmed that nothing changed.
    Unchanged,
    /// What was known of the registry's position no longer holds: [`Source::read`] must follow.
    Resync,
}

/// Reads one query of one registry. Dropping a future of it ends the request behind it.
pub trait Source: Send + 'static {
    /// Reads the state now. Whatever position in the registry's history was known is forgotten
    /// first: this is how a source starts, and how it goes on after any error.
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, Error>>;

    /// Waits until the state may have changed since the last answer, then reads it. It need not be
    /// right about that, but must answer now and then, because an answer confirms the copy.
    fn next(&mut self) -> BoxFuture<'_, Result<Answer, Error>>;

    /// How often it may be asked, whatever the answers are.
    fn limit(&self) -> Limit {
        Limit::default()
    }
}

/// Whether a registration still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It stands.
    Kept,
    /// The registry does not know it: [`Lease::register`] must follow.
    Lost,
}

/// Carries one registration of one instance. Every future must end in bounded time.
pub trait Lease: Send + 'static {
    /// Registers in full; repeating it changes nothing.
    fn register(&mut self) -> BoxFuture<'_, Result<(), Error>>;

    /// Sends a heartbeat, or looks whether the registration still stands.
    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, Error>>;

    /// Takes the instance out; done already counts as success.
    fn deregister(&mut self) -> BoxFuture<'_, Result<(), Error>>;

    /// The time between renewals.
    fn renew_every(&self) -> Duration;
}

/// How changes are learned of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Keep a request open that the registry answers when something changes.
    #[default]
    Watch,
    /// Ask again and again, with this time between (± 10 % jitter), for places where a long request
    /// cannot be held.
    Poll(Duration),
}

impl Mode {
    /// Polling every 5 s.
    pub const POLL: Self = Self::Poll(Duration::from_secs(5));
}

/// How a [`Registry`] treats its backend. Every default has its reason in its setter.
#[derive(Clone, Debug)]
pub struct Settings {
    mode: Mode,
    stale_after: Duration,
    backoff: Backoff,
    empty_guard: EmptyGuard,
    removal_grace: Duration,
    linger: Duration,
    seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Watch,
            stale_after: Duration::from_secs(30),
            backoff: Backoff::known(50, 750),
            empty_guard: EmptyGuard::default(),
            removal_grace: Duration::ZERO,
            linger: Duration::ZERO,
            seed: None,
        }
    }
}

impl Settings {
    /// How changes are learned of; [`Mode::Watch`] by default.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The age from which a copy that the registry did not confirm is reported stale; 30 s by
    /// default. It only changes what is reported: a stale set serves on. Must be longer than a
    /// backend takes to confirm an idle watch (Consul: 21.25 s by default).
    #[must_use]
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = age;
        self
    }

    /// The delay before a registry that failed is asked again; from 50 ms to 750 ms by default,
    /// with full jitter. The cap is this low because it bounds how long a healed registry goes
    /// unnoticed, and asking a local agent twice a second costs nothing; for many clients on remote
    /// servers raise it.
    /// What only people can mend (a refused request) is retried ten times as slowly.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What happens with a reply that would empty the set; see [`EmptyGuard`].
    #[must_use]
    pub fn empty_guard(mut self, guard: EmptyGuard) -> Self {
        self.empty_guard = guard;
        self
    }

    /// How long an instance stays after it is no longer listed; zero by default. With a grace, one
    /// that re-registers at once is not disturbed, and one that is gone gets requests for longer.
    #[must_use]
    pub fn removal_grace(mut self, grace: Duration) -> Self {
        self.removal_grace = grace;
        self
    }

    /// How long a watch goes on after its last [`Watch`] was dropped, while the [`Registry`] lives;
    /// zero by default. Consul holds a cancelled query's connection until its wait ends, so clients that
    /// often drop and repeat the same watch should let it linger.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Makes every jitter repeat itself, for tests; random by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if let Mode::Poll(every) = self.mode {
            if every < Duration::from_millis(10) {
                return Err(ConfigError::new(
                    "mode",
                    format!("a poll every {every:?} is below 10 ms"),
                ));
            }
            if every > self.stale_after {
                return Err(ConfigError::new(
                    "mode",
                    format!(
                        "a poll every {every:?} lets each copy go stale, which is after {:?}",
                        self.stale_after
                    ),
                ));
            }
        }
        if self.stale_after.is_zero() {
            return Err(ConfigError::new("stale_after", "must be above zero"));
        }
        Ok(())
    }
}

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
pub struct Registry(Arc<Shared>);

pub(crate) struct Shared {
    backend: Arc<dyn Backend>,
    settings: Settings,
    /// The sender belongs to the task, so that its end, of whatever cause, is seen by the watchers.
    watches: Mutex<HashMap<Query, Weak<cell::Sender<View>>>>,
    /// Closed when the last handle goes; lingering watches then end at once.
    _alive: cell::Sender<()>,
    alive: cell::Receiver<()>,
}

impl Shared {
    fn watches(&self) -> MutexGuard<'_, HashMap<Query, Weak<cell::Sender<View>>>> {
        // The map is whole at every point where its holder could panic.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Makes a backend usable, with default settings.
    pub fn new(backend: impl Backend) -> Self {
        Self::assemble(Arc::new(backend), Settings::default())
    }

    /// Makes a backend usable.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn with_settings(backend: impl Backend, settings: Settings) -> Result<Self, ConfigError> {
        settings.validate()?;
        Ok(Self::assemble(Arc::new(backend), settings))
    }

    fn assemble(backend: Arc<dyn Backend>, settings: Settings) -> Self {
        let (_alive, alive) = cell::channel(());
        Self(Arc::new(Shared {
            backend,
            settings,
            watches: Mutex::default(),
            _alive,
            alive,
        }))
    }

    /// The name of its backend, as it stands in errors.
    pub fn name(&self) -> Arc<str> {
        self.0.backend.name()
    }

    /// Watches a service. Equal queries share one request to the registry, which ends with the last
    /// [`Watch`] of it.
    ///
    /// # Errors
    /// When the backend cannot ask this query, or no tokio runtime runs.
    pub fn watch(&self, query: impl Into<Query>) -> Result<Watch, Error> {
        let query = query.into();
        let runtime = self.runtime(query.service())?;
        let mut watches = self.0.watches();
        if let Some(cell) = watches.get(&query).and_then(Weak::upgrade) {
            return Ok(Watch::new(query, cell.subscribe()));
        }
        let sources = self.0.backend.watch(&query)?;
        if sources.is_empty() {
            let (backend, service) = (self.name(), Arc::clone(query.service()));
            let what = "the backend has no source for this query";
            return Err(Error::new(ErrorKind::Internal, backend, service, what));
        }
        let (cell, receiver) = cell::channel(View::default());
        let cell = Arc::new(cell);
        watches.insert(query.clone(), Arc::downgrade(&cell));
        let job = supervise::Job {
            query: query.clone(),
            settings: self.0.settings.clone(),
            backend: self.0.backend.name(),
            registry: Arc::downgrade(&self.0),
            alive: self.0.alive.clone(),
        };
        supervise::spawn(&runtime, job, sources, cell);
        Ok(Watch::new(query, receiver))
    }

    /// Registers an instance and keeps it registered, through every failure of the registry, until
    /// the [`Registration`] is deregistered or dropped.
    ///
    /// # Errors
    /// When the instance or its check cannot be registered with this backend, or no tokio runtime
    /// runs. A registry that cannot be reached is not an error: it is tried again until it can be.
    pub fn register(&self, announcement: impl Into<Announcement>) -> Result<Registration, Error> {
        let announcement = announcement.into();
        let runtime = self.runtime(&announcement.instance().service)?;
        announcement.validate(&self.0.backend.name())?;
        Registration::spawn(
            &runtime,
            Arc::clone(&self.0.backend),
            announcement,
            &self.0.settings,
        )
    }

    fn runtime(&self, service: &Arc<str>) -> Result<Handle, Error> {
        Handle::try_current().map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                self.name(),
                Arc::clone(service),
                "a registry needs a tokio runtime",
            )
            .with_source(error)
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("backend", &self.0.backend)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}
