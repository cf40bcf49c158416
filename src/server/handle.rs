//! Follows an announced server from other tasks.

use std::{fmt, sync::Arc};

use tokio::sync::watch as cell;

use super::progress::{Progress, ServerState};
#[cfg(feature = "_hyper")]
use super::readiness::Readiness;
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
    registry::Registry,
};

/// Follows an announced server from other tasks. Cheap to clone; it does not keep the server alive.
#[derive(Clone)]
pub struct ServerHandle {
    registry: Registry,
    service: Arc<str>,
    progress: cell::Receiver<Progress>,
}

impl ServerHandle {
    pub(super) fn new(
        registry: Registry,
        service: Arc<str>,
        progress: cell::Receiver<Progress>,
    ) -> Self {
        Self {
            registry,
            service,
            progress,
        }
    }

    /// Returns what the server is doing.
    pub fn state(&self) -> ServerState {
        self.progress.borrow().state
    }

    /// Returns the instance that is announced; `None` until its address is known.
    pub fn instance(&self) -> Option<Arc<Instance>> {
        self.progress.borrow().instance.clone()
    }

    /// Waits until the address of the instance is known, and returns the instance; `None` if the server ends
    /// before.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the server.
    pub async fn located(&self) -> Option<Arc<Instance>> {
        let mut progress = self.progress.clone();
        let known = |progress: &Progress| progress.instance.is_some();
        progress.wait_for(known).await.ok()?.instance.clone()
    }

    /// Returns the answer to health checks.
    #[cfg(feature = "_hyper")]
    pub fn readiness(&self) -> Readiness {
        Readiness::new(self.progress.clone())
    }

    /// Waits until the server has reached a state, or is past it.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the server.
    pub async fn reached(&self, state: ServerState) {
        let mut progress = self.progress.clone();
        // An error means that the server was dropped, so it has ended.
        let _ = progress.wait_for(|progress| progress.state >= state).await;
    }

    /// Waits until the server has left the registry, while it still serves, or has ended.
    ///
    /// # Errors
    /// When the registry did not confirm it, or the server was dropped before that. The check of the instance then
    /// expires.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the server.
    pub async fn deregistered(&self) -> Result<(), RegistryError> {
        self.reached(ServerState::Deregistered).await;
        self.progress.borrow().deregistered.clone()
    }

    /// Waits until the registry lists the instance as one that may serve: from then on, clients send
    /// requests. It watches the service until then, so it sees what clients see.
    ///
    /// # Errors
    /// When the registry refuses the registration, which only a person can fix, and when the server leaves
    /// first. A registry that cannot be reached is waited for.
    ///
    /// # Cancel safety
    /// Dropping the future ends the watch, and has no effect on the server.
    pub async fn passing(&self) -> Result<(), RegistryError> {
        let mut progress = self.progress.clone();
        let settled = |progress: &Progress| {
            progress.refused.is_some() || progress.state > ServerState::Starting
        };
        let first = progress
            .wait_for(settled)
            .await
            .map(|progress| progress.clone());
        let instance = self.standing(first.ok())?;
        let mut watch = self.registry.watch(Arc::clone(&self.service))?;
        let listed = watch.wait_for(|view| {
            let mut instances = view.instances.iter();
            instances
                .any(|listed| listed.id() == instance.id() && listed.address == instance.address)
        });
        let fell = async {
            let fell = progress
                .wait_for(|now| now.refused.is_some() || now.state > ServerState::Announced);
            fell.await.map(|progress| progress.clone())
        };
        tokio::select! {
            listed = listed => {
                let ended = |error| self.error("its watch has ended").with_source(error);
                listed.map(drop).map_err(ended)
            }
            fell = fell => self.standing(fell.ok()).map(drop),
        }
    }

    /// The instance of a server that is announced.
    fn standing(&self, progress: Option<Progress>) -> Result<Arc<Instance>, RegistryError> {
        match progress {
            Some(Progress {
                refused: Some(error),
                ..
            }) => Err(error),
            Some(Progress {
                state: ServerState::Announced,
                instance: Some(instance),
                ..
            }) => Ok(instance),
            _ => Err(self.error("the server left before the registry listed it")),
        }
    }

    fn error(&self, what: &str) -> RegistryError {
        let error = RegistryError::new(ErrorKind::Invalid, what);
        error.about(&self.registry.name(), &self.service)
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("service", &self.service)
            .field("progress", &*self.progress.borrow())
            .finish_non_exhaustive()
    }
}
