//! Collects what a page shows.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    record::Record, registrations::Announced, service::StatusService, settings::StatusSettings,
    shared::StatusShared, watched::Watched,
};
use crate::{
    client::Handles,
    error::{ConfigError, check_range},
    registry::RegistrationHandle,
    telemetry::Latencies,
};

/// How many services or registrations a page shows. Arbitrary, above what one process calls: each response
/// has the state of all.
const MOST: usize = 100;

/// Collects what a status page shows; see the [module](super).
#[derive(Clone, Debug, Default)]
#[must_use = "a page does nothing until it is built"]
pub struct StatusPage {
    services: Vec<(Arc<str>, Handles, Option<Latencies>)>,
    registrations: Vec<RegistrationHandle>,
    settings: StatusSettings,
}

impl StatusPage {
    /// A page that shows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows a service. The handles do not keep the client alive. A [`BalanceHandle`] alone will do.
    ///
    /// [`BalanceHandle`]: crate::balance::BalanceHandle
    pub fn service(mut self, name: impl Into<Arc<str>>, handles: impl Into<Handles>) -> Self {
        self.services.push((name.into(), handles.into(), None));
        self
    }

    /// Shows a service with the latencies of its endpoints, as its client
    /// [measures](crate::telemetry::Latencies) them.
    pub fn service_with_latencies(
        mut self,
        name: impl Into<Arc<str>>,
        handles: impl Into<Handles>,
        latencies: Latencies,
    ) -> Self {
        let service = (name.into(), handles.into(), Some(latencies));
        self.services.push(service);
        self
    }

    /// Shows whether this process itself is registered. The handle does not keep it registered.
    pub fn registration(mut self, handle: RegistrationHandle) -> Self {
        self.registrations.push(handle);
        self
    }

    /// Sets the settings.
    pub fn settings(mut self, settings: StatusSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Makes the service. From now on it notes the events of all services; this ends with its last clone.
    ///
    /// # Errors
    /// When a setting is out of its range, two services have the same name, or there are more than 100
    /// services or registrations.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<StatusService, ConfigError> {
        self.settings.validate()?;
        check_range("status.service", self.services.len(), ..=MOST)?;
        check_range("status.registration", self.registrations.len(), ..=MOST)?;
        let mut names = BTreeSet::new();
        if let Some((twice, ..)) = self.services.iter().find(|(name, ..)| !names.insert(name)) {
            let message = format!("there are two services with the name {twice:?}");
            return Err(ConfigError::new("status.service", message));
        }
        let services = self.services.into_iter();
        let services = services.map(|(name, handles, latencies)| Watched {
            record: Record::follow(&handles),
            name,
            handles,
            latencies,
        });
        let registrations = self.registrations.into_iter().map(Announced::follow);
        Ok(StatusService::new(StatusShared::new(
            self.settings,
            services.collect(),
            registrations.collect(),
        )))
    }
}
