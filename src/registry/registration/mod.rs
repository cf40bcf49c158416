//! Keeps an instance registered: the guard, its heartbeat, and a graceful end.
//!
//! One task for each registration, apart from the application's load. It registers, confirms at
//! once, renews, registers again when the registry lost the instance, and never gives up: a first
//! registration that fails is tried again like any later one.
//!
//! ```text
//! register ──ok──▶ renew ──▶ wait ──▶ renew ──▶ …      stop or drop at any point
//!    ▲  │err         │Lost              │err                     │
//!    │  └─ backoff   │                  └─ backoff, renew        ▼
//!    └───────────────┘                                   finish what is open, deregister
//! ```
//!
//! To leave without a lost request: [`Registration::deregister`] first, go on serving for as long
//! as watchers need to notice, then stop accepting and finish what is in flight.

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

use self::{event::RegistrationCommand, keeper::Keeper};
use super::{contract::Backend, settings::WatchSettings};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
};

/// Keeps an instance registered for as long as it lives.
///
/// Dropping it deregisters in the background, within 5 s and while the runtime runs;
/// [`deregister`](Self::deregister) waits for that and tells how it went.
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
        runtime.spawn(keeper.run(received));
        Ok(Self {
            commands,
            events,
            registered,
            instance,
        })
    }

    /// The instance as it was last given.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Waits until the registry holds the instance.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        if registered.wait_for(|stands| *stands).await.is_err() {
            // The task is gone with its runtime: it will never be registered.
            std::future::pending().await
        }
    }

    /// Whether the registry holds the instance, as far as is known.
    pub fn is_registered(&self) -> bool {
        *self.registered.borrow()
    }

    /// Waits for the next event; `None` when there will be none. A reader that is 64 events late
    /// misses the oldest.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn event(&mut self) -> Option<RegistrationEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Registers other data (weight, tags, address, check) under the same service and id.
    ///
    /// # Errors
    /// When service or id differ or the registry refuses the data, and then what stood before
    /// stands; or when the registry failed, and then it is tried again in the background.
    ///
    /// # Cancel safety
    /// A dropped future may still take effect, and [`instance`](Self::instance) then tells the data
    /// from before.
    pub async fn update(
        &mut self,
        announcement: impl Into<Announcement>,
    ) -> Result<(), RegistryError> {
        let announcement = announcement.into();
        let new = announcement.instance().clone();
        if new.service != self.instance.service || new.key != self.instance.key {
            return Err(RegistryError::new(
                ErrorKind::Invalid,
                "registration",
                Arc::clone(&self.instance.service),
                format!(
                    "an update cannot turn {} of {:?} into {} of {:?}",
                    self.instance.key, self.instance.service, new.key, new.service
                ),
            ));
        }
        let (reply, result) = oneshot::channel();
        let command = RegistrationCommand::Update(Box::new(announcement), reply);
        let sent = self.commands.send(command).await.is_ok();
        let outcome = if sent { result.await.ok() } else { None };
        let outcome = outcome.unwrap_or_else(|| Err(self.ended()));
        if outcome.is_ok() {
            self.instance = new;
        }
        outcome
    }

    /// Stops the heartbeat and takes the instance out, within 5 s.
    ///
    /// # Errors
    /// When the registry could not be told in that time; the instance's check then expires.
    pub async fn deregister(self) -> Result<(), RegistryError> {
        let (reply, result) = oneshot::channel();
        let sent = self
            .commands
            .send(RegistrationCommand::Deregister(reply))
            .await
            .is_ok();
        let outcome = if sent { result.await.ok() } else { None };
        outcome.unwrap_or_else(|| Err(self.ended()))
    }

    fn ended(&self) -> RegistryError {
        RegistryError::new(
            ErrorKind::Internal,
            "registration",
            Arc::clone(&self.instance.service),
            "its task has ended with its runtime",
        )
    }
}
