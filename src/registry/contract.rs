//! The interface of a backend: [`Backend`], and the [`Source`]s and [`Lease`]s that it creates.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

#[cfg(doc)]
use super::Registry;
use super::{Announcement, Limit, query::Query};
use crate::{catalog::Listing, error::RegistryError, instance::Address};

/// A boxed future, the return type of a backend's methods.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One adapter to a registry.
///
/// Implement it to add another registry, and pass it to [`Registry::new`]. The methods must not block or
/// do I/O: they create the objects that the supervising tasks drive. [`Registry`] adds the names of the
/// backend and of the service to every error.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the name for errors and logs, such as `consul http://127.0.0.1:8500`.
    fn name(&self) -> Arc<str>;

    /// Returns the address of the server that registrations are sent to, if it has one. An announced server
    /// that listens on all addresses takes the address of the interface that leads there. `None` by default.
    fn address(&self) -> Option<Address> {
        None
    }

    /// Creates the sources for the instances of a service. Usually there is one source; several are in
    /// order of preference, and the first with instances is used.
    ///
    /// # Errors
    /// When this backend does not support the query.
    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError>;

    /// Creates the lease for an instance.
    ///
    /// # Errors
    /// When this backend cannot hold such an instance or check.
    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError>;
}

/// A reply of a [`Source`].
#[derive(Debug)]
pub enum Answer {
    /// The complete state.
    Listing(Listing),
    /// The registry confirmed that nothing changed.
    Unchanged,
    /// A state that the registry could not confirm, and why: better than none. It is published as stale,
    /// and [`Source::read`] follows as after an error.
    Unconfirmed(Listing, RegistryError),
    /// The known position in the registry's history is void: [`Source::read`] must follow.
    Resync,
}

/// The age from which a set without confirmation is stale, unless its source or the user says otherwise:
/// a registry that confirms an idle set every 20 s may miss that by some seconds.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(30);

/// Reads one query of one registry. Dropping one of its futures ends the request that is open.
pub trait Source: Send + 'static {
    /// Reads the current state, without using a known position in the registry's history. It is the
    /// first call to a source, and the first after any error.
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>>;

    /// Waits until the state may have changed since the last reply, then reads it. It may also return
    /// without a change, and must do so from time to time, because each reply confirms the published
    /// set.
    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>>;

    /// Returns the age from which a set without confirmation is stale, if
    /// [`WatchSettings::stale_after`](super::WatchSettings::stale_after) does not set it; 30 s by default.
    /// It must be longer than [`next`](Self::next) takes to confirm an idle set.
    fn stale_after(&self) -> Duration {
        STALE_AFTER
    }

    /// Returns whether the registry removes instances whose heartbeats it misses; `true` by default. After
    /// it was away it may then remove instances that live, so a watch keeps them for a moment.
    fn expires(&self) -> bool {
        true
    }

    /// Whether [`next`](Self::next) notices changes late, because the registry can only be asked at
    /// intervals; `false` by default. Then [`read`](Self::read) follows early when an endpoint cannot be
    /// reached.
    fn polls(&self) -> bool {
        false
    }

    /// Returns the limit on the rate of requests.
    fn limit(&self) -> Limit {
        Limit::default()
    }
}

/// Whether the registry still holds a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The registry holds it.
    Kept,
    /// The registry has lost it: [`Lease::register`] must follow.
    Lost,
}

/// Sends the requests for one registration of one instance. Every future must complete in bounded time.
pub trait Lease: Send + 'static {
    /// Sends the complete registration; repeating it changes nothing.
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Sends a heartbeat, or checks whether the registry still holds the registration.
    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>>;

    /// Deregisters the instance; succeeds if it is not registered.
    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Returns the time between renewals.
    fn renew_every(&self) -> Duration;
}
