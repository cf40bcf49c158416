//! What a registration and the task behind it tell each other.

use tokio::sync::oneshot;

use super::announcement::Announcement;
use crate::error::Error;

/// What happens to a registration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The registry holds the instance for the first time.
    Registered,
    /// The registry could not be asked to register the instance.
    RegisterFailed(Error),
    /// A heartbeat, or a look whether the registration stands, failed.
    HeartbeatFailed(Error),
    /// Heartbeats arrive again.
    Recovered,
    /// The registry had lost the instance, and holds it again.
    Reregistered,
    /// The instance was updated.
    Updated,
    /// The instance was taken out.
    Deregistered,
    /// The instance could not be taken out; its check will expire.
    DeregisterFailed(Error),
}

/// What the task of a registration is told to do.
pub(super) enum Command {
    Update(Box<Announcement>, oneshot::Sender<Result<(), Error>>),
    Deregister(oneshot::Sender<Result<(), Error>>),
}
