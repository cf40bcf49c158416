//! What a [`Registry`](super::Registry) reads from and registers in: one backend, or two registries.

use std::{fmt, sync::Arc};

use tokio::sync::{Notify, watch as cell};

use super::{
    contract::BoxFuture,
    query::Query,
    registration::{Announcement, Prepared},
    supervise,
    view::View,
};
#[cfg(feature = "server")]
use crate::instance::Address;
use crate::{
    error::{ErrorKind, RegistryError},
    registry::{contract::Backend, settings::WatchSettings},
};

/// What a registry reads from and registers in. The methods do no I/O; [`Registry`](super::Registry) adds
/// the names to their errors.
pub(super) trait Origin: fmt::Debug + Send + Sync {
    /// Returns the name for errors and logs.
    fn name(&self) -> Arc<str>;

    /// Returns the address of the server that registrations are sent to, if it is known.
    #[cfg(feature = "server")]
    fn address(&self) -> Option<Address>;

    /// Prepares the task of a watch. `again` asks it for another look at the registry.
    fn watch(&self, query: &Query, again: &Arc<Notify>) -> Result<Work, RegistryError>;

    /// Prepares the registration in each registry.
    fn register(&self, announcement: &Announcement) -> Result<Vec<Prepared>, RegistryError>;
}

/// The work of the task of a watch. It publishes to the cell until it is dropped.
pub(super) type Work = Box<dyn FnOnce(Arc<cell::Sender<View>>) -> BoxFuture<'static, ()> + Send>;

/// One backend.
#[derive(Debug)]
pub(super) struct OneBackend {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) settings: WatchSettings,
}

impl Origin for OneBackend {
    fn name(&self) -> Arc<str> {
        self.backend.name()
    }

    #[cfg(feature = "server")]
    fn address(&self) -> Option<Address> {
        self.backend.address()
    }

    fn watch(&self, query: &Query, again: &Arc<Notify>) -> Result<Work, RegistryError> {
        let sources = self.backend.watch(query)?;
        if sources.is_empty() {
            let what = "the backend has no source for this query";
            return Err(RegistryError::new(ErrorKind::Internal, what));
        }
        let job = supervise::WatchJob {
            query: query.clone(),
            settings: self.settings.clone(),
            backend: self.name(),
            again: Arc::clone(again),
        };
        Ok(Box::new(move |cell| {
            Box::pin(async move { supervise::all(sources, &job, &cell).await })
        }))
    }

    fn register(&self, announcement: &Announcement) -> Result<Vec<Prepared>, RegistryError> {
        let backend = Arc::clone(&self.backend);
        Ok(vec![Prepared::new(backend, announcement, &self.settings)?])
    }
}
