//! What a registration and the task behind it tell each other.

use tokio::sync::oneshot;

use super::announcement::Announcement;
use crate::error::RegistryError;

/// What happens to a registration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationEvent {
    /// The registry holds the instance for the first time.
    Registered,
    /// The registry could not be asked to register the instance.
    #[non_exhaustive]
    RegisterFailed {
        /// Why.
        error: RegistryError,
    },
    /// A heartbeat, or a look whether the registration stands, failed.
    #[non_exhaustive]
    HeartbeatFailed {
        /// Why.
        error: RegistryError,
    },
    /// Heartbeats arrive again.
    Recovered,
    /// The registry had lost the instance, and holds it again.
    Reregistered,
    /// The instance was updated.
    Updated,
    /// The instance was taken out.
    Deregistered,
    /// The instance could not be taken out; its check will expire.
    #[non_exhaustive]
    DeregisterFailed {
        /// Why.
        error: RegistryError,
    },
}

/// What the task of a registration is told to do.
pub(super) enum RegistrationCommand {
    Update(
        Box<Announcement>,
        oneshot::Sender<Result<(), RegistryError>>,
    ),
    Deregister(oneshot::Sender<Result<(), RegistryError>>),
}
