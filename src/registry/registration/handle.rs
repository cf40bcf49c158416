//! A handle to a registration, for those who only read.

use std::sync::Arc;

use tokio::sync::{broadcast, watch as cell};

use super::event::{RegistrationEvent, RegistryEvent};
use crate::instance::Instance;

/// Reads the state of a [`Registration`](super::Registration). It does not keep the instance registered.
/// Each clone gets the events from its creation on.
#[derive(Debug)]
pub struct RegistrationHandle {
    instance: Instance,
    /// The names of the registries, and whether each holds the instance.
    kept: Vec<(Arc<str>, cell::Receiver<bool>)>,
    events: broadcast::Receiver<RegistryEvent>,
}

impl RegistrationHandle {
    pub(super) fn new(
        instance: Instance,
        kept: Vec<(Arc<str>, cell::Receiver<bool>)>,
        events: broadcast::Receiver<RegistryEvent>,
    ) -> Self {
        Self {
            instance,
            kept,
            events,
        }
    }

    /// Returns the instance as it was when the handle was made.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Whether the registry holds the instance, according to the last response; of two, whether both do.
    pub fn is_registered(&self) -> bool {
        self.registries().all(|(_, holds)| holds)
    }

    /// Returns the names of the registries (usually one), and whether each holds the instance, according
    /// to its last response.
    pub fn registries(&self) -> impl Iterator<Item = (&str, bool)> {
        self.kept
            .iter()
            .map(|(registry, stands)| (&**registry, *stands.borrow()))
    }

    /// Waits for the next event, and returns it with the name of the registry that it concerns; `None` when
    /// the registration has ended. A reader that is more than 64 events behind misses the oldest.
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
}

impl Clone for RegistrationHandle {
    fn clone(&self) -> Self {
        let events = self.events.resubscribe();
        Self::new(self.instance.clone(), self.kept.clone(), events)
    }
}
