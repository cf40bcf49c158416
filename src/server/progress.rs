//! What an announced server is doing.

use std::sync::Arc;

use crate::{error::RegistryError, instance::Instance};

/// What an announced server is doing. Each state comes after those before it; a server that is not registered,
/// or ends early, skips some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ServerState {
    /// The registry does not hold the instance yet.
    Starting,
    /// The registry holds the instance. If it loses it later, it is registered again in the background.
    Announced,
    /// It was told to leave: it is being deregistered, and still serves.
    Leaving,
    /// It is deregistered, or that failed, and still serves until all clients have noticed.
    Deregistered,
    /// It accepts no new connections, and finishes what is in flight.
    Finishing,
    /// It has ended.
    Ended,
}

/// What is known of a server.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) state: ServerState,
    /// The instance, once its address is known.
    pub(super) instance: Option<Arc<Instance>>,
    /// Why the registry refuses the registration.
    pub(super) refused: Option<RegistryError>,
    /// What became of the deregistration.
    pub(super) deregistered: Result<(), RegistryError>,
}

impl Progress {
    pub(super) fn new(instance: Option<Instance>) -> Self {
        Self {
            state: ServerState::Starting,
            instance: instance.map(Arc::new),
            refused: None,
            deregistered: Ok(()),
        }
    }
}
