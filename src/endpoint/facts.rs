//! What the registry says of an endpoint now, shared with the discovery that updates it.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{
        AtomicU16, AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

use crate::instance::{Instance, Weight};

/// The facts of one instance. Updates are seen by every clone of its endpoint.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Apart from the instance, because each choice reads it. Relaxed: it is read for itself.
    weight: AtomicU16,
    /// Locked for as long as it takes to copy an `Arc`, and not on the path of a request.
    instance: RwLock<Arc<Instance>>,
    /// Counts the updates of all endpoints of one discovery, so that a reader of many need not look at
    /// each. Release when written and Acquire when read: a reader that sees the count sees the facts.
    /// `None` where they are never updated.
    revision: Option<Arc<AtomicU64>>,
}

impl Facts {
    pub(crate) fn new(instance: Arc<Instance>, revision: Option<Arc<AtomicU64>>) -> Self {
        Self {
            revision,
            weight: AtomicU16::new(instance.weight.into()),
            instance: RwLock::new(instance),
        }
    }

    pub(crate) fn update(&self, instance: Arc<Instance>) {
        self.weight.store(instance.weight.into(), Relaxed);
        *self
            .instance
            .write()
            .unwrap_or_else(PoisonError::into_inner) = instance;
        if let Some(revision) = &self.revision {
            revision.fetch_add(1, Release);
        }
    }

    /// Counts the updates of all facts of the same discovery. To be read with Acquire.
    pub(crate) fn count(&self) -> Option<&Arc<AtomicU64>> {
        self.revision.as_ref()
    }

    pub(crate) fn weight(&self) -> Weight {
        self.weight.load(Relaxed).into()
    }

    pub(crate) fn instance(&self) -> Arc<Instance> {
        let instance = self.instance.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&instance)
    }
}
