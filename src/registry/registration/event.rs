//! The events and commands between a registration and its task.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::announcement::Announcement;
use crate::error::RegistryError;

/// An event in the life of a registration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationEvent {
    /// The registry holds the instance for the first time.
    Registered,
    /// An attempt to register the instance failed.
    #[non_exhaustive]
    RegisterFailed {
        /// The cause.
        error: RegistryError,
    },
    /// A heartbeat failed, or the check whether the registry still holds the instance.
    #[non_exhaustive]
    HeartbeatFailed {
        /// The cause.
        error: RegistryError,
    },
    /// Heartbeats succeed again.
    Recovered,
    /// The registry had lost the instance, and holds it again.
    Reregistered,
    /// The instance was updated.
    Updated,
    /// The instance was deregistered.
    Deregistered,
    /// The instance could not be deregistered; its check will expire.
    #[non_exhaustive]
    DeregisterFailed {
        /// The cause.
        error: RegistryError,
    },
}

/// An event, and the name of the registry that it concerns.
pub(super) type RegistryEvent = (Arc<str>, RegistrationEvent);

/// A command to the task of a registration.
pub(super) enum RegistrationCommand {
    Update(
        Box<Announcement>,
        oneshot::Sender<Result<(), RegistryError>>,
    ),
    Deregister(oneshot::Sender<Result<(), RegistryError>>),
}
