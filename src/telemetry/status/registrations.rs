//! Whether this process itself is registered.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::task::AbortHandle;

use super::record::Noted;
use crate::{
    registry::{RegistrationEvent, RegistrationHandle},
    sync::lock,
};

/// How many events are kept.
const KEPT: usize = 20;

/// One registration of this process, with its last error.
#[derive(Debug)]
pub(super) struct Announced {
    handle: RegistrationHandle,
    notes: Arc<Mutex<Notes>>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Notes {
    error: Option<String>,
    ended: bool,
    events: Vec<Noted>,
}

/// A registration as the page shows it.
#[derive(Debug, Serialize)]
pub(super) struct ShownRegistration<'a> {
    service: &'a str,
    id: &'a str,
    address: String,
    registered: bool,
    registries: Vec<ShownHolder<'a>>,
    error: Option<String>,
}

/// A registry, and whether it holds the instance.
#[derive(Debug, Serialize)]
struct ShownHolder<'a> {
    registry: &'a str,
    registered: bool,
}

impl Announced {
    /// Follows the registration until this is dropped.
    pub(super) fn follow(handle: RegistrationHandle) -> Self {
        let notes = Arc::<Mutex<Notes>>::default();
        let (mut events, shared) = (handle.clone(), Arc::clone(&notes));
        let task = tokio::spawn(async move {
            while let Some((registry, event)) = events.event_of().await {
                lock(&shared).hear(&event, &registry, events.instance().id());
            }
            lock(&shared).ended = true;
        });
        Self {
            handle,
            notes,
            task: task.abort_handle(),
        }
    }

    pub(super) fn shown(&self) -> ShownRegistration<'_> {
        let notes = lock(&self.notes);
        let instance = self.handle.instance();
        ShownRegistration {
            service: &instance.service,
            id: instance.id(),
            address: instance.address.to_string(),
            registered: self.handle.is_registered() && !notes.ended,
            registries: self
                .handle
                .registries()
                .map(|(registry, holds)| ShownHolder {
                    registry,
                    registered: holds && !notes.ended,
                })
                .collect(),
            error: notes.error.clone(),
        }
    }

    pub(super) fn events(&self) -> Vec<Noted> {
        lock(&self.notes).events.clone()
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Notes {
    fn hear(&mut self, event: &RegistrationEvent, registry: &str, id: &str) {
        let (event, error) = match event {
            RegistrationEvent::Registered => ("registered", None),
            RegistrationEvent::RegisterFailed { error } => ("register_failed", Some(error)),
            RegistrationEvent::HeartbeatFailed { error } => ("heartbeat_failed", Some(error)),
            RegistrationEvent::Recovered => ("recovered", None),
            RegistrationEvent::Reregistered => ("registered_again", None),
            RegistrationEvent::Updated => ("updated", None),
            RegistrationEvent::Deregistered => ("deregistered", None),
            RegistrationEvent::DeregisterFailed { error } => ("deregister_failed", Some(error)),
        };
        self.error = error.map(|error| error.to_chain());
        // A registry that is down fails each heartbeat: the last failure stands for all.
        if let Some(last) = self.events.last_mut()
            && last.event == event
        {
            last.more += 1;
            return;
        }
        if self.events.len() == KEPT {
            self.events.remove(0);
        }
        let text = match &self.error {
            Some(error) => format!("{id} of this process in {registry}: {error}"),
            None => format!("{id} of this process in {registry}"),
        };
        self.events.push(Noted::new(event, None, text));
    }
}
