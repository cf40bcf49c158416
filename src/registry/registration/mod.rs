//! Keeps an instance registered: heartbeats, new registrations after a loss, and deregistration. One
//! task runs for each registration and registry; the handle of all is [`Registration`].

mod announcement;
mod event;
mod handle;
mod keeper;

pub(super) use self::keeper::Prepared;
pub use self::{
    announcement::{Announcement, Health},
    event::RegistrationEvent,
    handle::RegistrationHandle,
};

use std::sync::Arc;

use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot, watch as cell},
};
use tracing::Instrument;

use self::{
    event::{RegistrationCommand, RegistryEvent},
    keeper::Keeper,
};
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
/// In two registries ([`Merge`](super::Merge), [`Failover`](super::Failover)) each has such a task of its own,
/// so one that cannot be reached delays nothing in the other.
///
/// To stop a server without losing requests, first deregister. Then go on serving for as long as the
/// watches of the clients need to notice. Then stop accepting requests, and finish those in flight.
#[derive(Debug)]
pub struct Registration {
    kept: Vec<Kept>,
    events: broadcast::Receiver<RegistryEvent>,
    instance: Instance,
}

/// The handle to the task for one registry.
#[derive(Debug)]
struct Kept {
    registry: Arc<str>,
    commands: mpsc::Sender<RegistrationCommand>,
    stands: cell::Receiver<bool>,
}

type Outcome = Result<(), RegistryError>;

impl Registration {
    pub(super) fn spawn(
        runtime: &Handle,
        prepared: Vec<Prepared>,
        announcement: Announcement,
    ) -> Self {
        let (sender, events) = broadcast::channel(64);
        let instance = announcement.instance().clone();
        let (service, id) = (&instance.service, instance.id());
        let keep = |prepared: Prepared| {
            let (commands, received) = mpsc::channel(4);
            let (stood, stands) = cell::channel(false);
            let registry = prepared.backend.name();
            // The span gives service and id to every event of this task. It has the level of errors, so that
            // a filter by level does not remove it from the events that pass.
            let span = tracing::error_span!(
                "registration",
                service = %Escaped(service),
                id = %Escaped(id),
                backend = %Escaped(&registry),
            );
            let keeper = Keeper::new(prepared, service, sender.clone(), stood);
            runtime.spawn(keeper.run(received).instrument(span));
            Kept {
                registry,
                commands,
                stands,
            }
        };
        Self {
            kept: prepared.into_iter().map(keep).collect(),
            events,
            instance,
        }
    }

    /// Returns a handle that reads the state of the registration, and does not keep it.
    pub fn handle(&self) -> RegistrationHandle {
        let kept = self.kept.iter();
        let kept = kept.map(|kept| (Arc::clone(&kept.registry), kept.stands.clone()));
        let events = self.events.resubscribe();
        RegistrationHandle::new(self.instance.clone(), kept.collect(), events)
    }

    /// Returns the instance with the data of the last successful update.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Waits until the registry holds the instance; of two registries, until both do. Never completes if
    /// the runtime shuts down before.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the registration.
    pub async fn registered(&self) {
        while !self.is_registered() {
            for kept in &self.kept {
                let mut stands = kept.stands.clone();
                if stands.wait_for(|stands| *stands).await.is_err() {
                    // The runtime has shut down and the task has ended: the instance will never be
                    // registered.
                    std::future::pending().await
                }
            }
        }
    }

    /// Whether the registry holds the instance, according to the last response; of two, whether both do.
    pub fn is_registered(&self) -> bool {
        self.registries().all(|(_, holds)| holds)
    }

    /// Returns the names of the registries (usually one), and whether each holds the instance, according
    /// to its last response.
    pub fn registries(&self) -> impl Iterator<Item = (&str, bool)> {
        let kept = self.kept.iter();
        kept.map(|kept| (&*kept.registry, *kept.stands.borrow()))
    }

    /// Waits for the next event; `None` when the task has ended. The last 64 events are kept; a slower
    /// reader misses the oldest.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn event(&mut self) -> Option<RegistrationEvent> {
        self.event_of().await.map(|(_, event)| event)
    }

    /// Waits as [`event`](Self::event) does, and also returns the name of the registry that the event
    /// concerns.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn event_of(&mut self) -> Option<(Arc<str>, RegistrationEvent)> {
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
    /// Also when the registry failed: the update is then retried in the background. Each of two registries
    /// gets the update, also if the other one fails; the error is that of the first.
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
        let update = |reply| RegistrationCommand::Update(Box::new(announcement.clone()), reply);
        let outcome = self.command(update).await;
        if outcome.is_ok() {
            self.instance = new;
        }
        outcome
    }

    /// Stops the heartbeats and deregisters the instance, within 5 s; in two registries at the same time.
    ///
    /// # Errors
    /// When a registry did not confirm that in time. The instance's check then expires there.
    pub async fn deregister(self) -> Result<(), RegistryError> {
        self.command(RegistrationCommand::Deregister).await
    }

    /// Sends a command to all tasks, and then waits for all. Returns the first error.
    async fn command(
        &self,
        command: impl Fn(oneshot::Sender<Outcome>) -> RegistrationCommand,
    ) -> Outcome {
        let mut results = Vec::new();
        for kept in &self.kept {
            let (reply, result) = oneshot::channel();
            // If the task has ended, the reply is dropped with the command.
            let _ = kept.commands.send(command(reply)).await;
            results.push(result);
        }
        let mut outcome = Ok(());
        for result in results {
            let ended = "its task has ended with its runtime";
            let result = result.await;
            let result = result.unwrap_or_else(|_| Err(self.error(ErrorKind::Internal, ended)));
            outcome = outcome.and(result);
        }
        outcome
    }

    fn error(&self, kind: ErrorKind, message: &str) -> RegistryError {
        RegistryError::new(kind, message).about("registration", &self.instance.service)
    }
}
