//! What a backend is to the rest: [`Backend`], and the two things that it makes.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

#[cfg(doc)]
use super::Registry;
use super::{Announcement, Limit, query::Query};
use crate::{catalog::Listing, error::RegistryError};

/// A boxed future, as backends return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

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
    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError>;

    /// Prepares to register an instance.
    ///
    /// # Errors
    /// When this backend cannot hold such an instance or check.
    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError>;
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
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>>;

    /// Waits until the state may have changed since the last answer, then reads it. It need not be
    /// right about that, but must answer now and then, because an answer confirms the copy.
    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>>;

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
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Sends a heartbeat, or looks whether the registration still stands.
    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>>;

    /// Takes the instance out; done already counts as success.
    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// The time between renewals.
    fn renew_every(&self) -> Duration;
}
