//! Keeps an instance registered: heartbeats, new registrations after a loss, and deregistration. One
//! task runs for each registration; its handle is [`Registration`].

mod announcement;
mod event;
mod keeper;

pub use self::{
    announcement::{Announcement, Health},
    event::RegistrationEvent,
};

use std::sync::Arc;

use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot, watch as cell},
};
use tracing::Instrument;

use self::{event::RegistrationCommand, keeper::Keeper};
use super::{contract::Backend, settings::WatchSettings};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
    text::Escaped,
};

/// Keeps an instance registered for as long as it lives.
///
/// A task of its own registers the instance, confirms that at once, and sends heartbeats. If the
/// registry loses the instance, the task registers it again. It never gives up: a failed first
/// registration is retried like any later one.
///
/// ```text
/// register ──ok──▶ renew ──▶ wait ──▶ renew ──▶ …      deregister or drop at any point
///    ▲  │err         │Lost              │err                     │
///    │  └─ backoff   │                  └─ backoff, renew        ▼
///    └───────────────┘                          finish the open request, deregister
/// ```
///
/// Dropping it deregisters in the background, within 5 s and while the runtime runs;
/// [`deregister`](Self::deregister) waits for the result.
///
/// To stop a server without losing requests, first deregister. Then go on serving for as long as the
/// watches of the clients need to notice. Then stop accepting requests, and finish those in flight.
#[derive(Debug)]
pub struct Registration {
    commands: mpsc::Sender<RegistrationCommand>,
    events: broadcast::Receiver<RegistrationEvent>,
    registered: cell::Receiver<bool>,
    instance: Instance,
}

impl Registration {
    pub(super) fn spawn(
        runtime: &Handle,
        backend: Arc<dyn Backend>,
        announcement: Announcement,
        settings: &WatchSettings,
    ) -> Result<Self, RegistryError> {
        let lease = backend.register(&announcement)?;
        let (commands, received) = mpsc::channel(4);
        let (sender, events) = broadcast::channel(64);
        let (stands, registered) = cell::channel(false);
        let instance = announcement.instance().clone();
        let keeper = Keeper::new(backend, &instance, lease, settings, sender, stands);
        // The span gives service and id to every event of this task. It has the level of errors, so that a
        // filter by level does not remove it from the events that pass.
        let span = tracing::error_span!("registration", service = %Escaped(&instance.service), id = %Escaped(instance.id()));
        runtime.spawn(keeper.run(received).instrument(span));
        Ok(Self {
            commands,
            events,
            registered,
            instance,
        })
    }

    /// Returns the instance with the data of the last successful update.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Waits until the registry holds the instance. Never completes if the runtime shuts down before.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the registration.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        if registered.wait_for(|stands| *stands).await.is_err() {
            // The runtime has shut down and the task has ended: the instance will never be registered.
            std::future::pending().await
        }
    }

    /// Whether the registry holds the instance, according to the last response.
    pub fn is_registered(&self) -> bool {
        *self.registered.borrow()
    }

    /// Waits for the next event; `None` when the task has ended. The last 64 events are kept; a slower
    /// reader misses the oldest.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn event(&mut self) -> Option<RegistrationEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Registers new data (weight, tags, address, check) under the same service and id.
    ///
    /// # Errors
    /// When service or id differ, or the registry refuses the data: the former registration then stays.
    /// Also when the registry failed: the update is then retried in the background.
    ///
    /// # Cancel safety
    /// If the future is dropped, the update may still take effect, and [`instance`](Self::instance)
    /// returns the data from before.
    pub async fn update(
        &mut self,
        announcement: impl Into<Announcement>,
    ) -> Result<(), RegistryError> {
        let announcement = announcement.into();
        let new = announcement.instance().clone();
        if new.service != self.instance.service || new.key != self.instance.key {
            let what = format!(
                "an update cannot turn {} of {:?} into {} of {:?}",
                self.instance.key, self.instance.service, new.key, new.service
            );
            return Err(self.error(ErrorKind::Invalid, &what));
        }
        let (reply, result) = oneshot::channel();
        let command = RegistrationCommand::Update(Box::new(announcement), reply);
        let outcome = self.command(command, result).await;
        if outcome.is_ok() {
            self.instance = new;
        }
        outcome
    }

    /// Stops the heartbeats and deregisters the instance, within 5 s.
    ///
    /// # Errors
    /// When the registry did not confirm that in time. The instance's check then expires.
    pub async fn deregister(self) -> Result<(), RegistryError> {
        let (reply, result) = oneshot::channel();
        let command = RegistrationCommand::Deregister(reply);
        self.command(command, result).await
    }

    async fn command(
        &self,
        command: RegistrationCommand,
        result: oneshot::Receiver<Result<(), RegistryError>>,
    ) -> Result<(), RegistryError> {
        let sent = self.commands.send(command).await.is_ok();
        let outcome = if sent { result.await.ok() } else { None };
        let ended = "its task has ended with its runtime";
        outcome.unwrap_or_else(|| Err(self.error(ErrorKind::Internal, ended)))
    }

    fn error(&self, kind: ErrorKind, message: &str) -> RegistryError {
        RegistryError::new(kind, message).about("registration", &self.instance.service)
    }
}
