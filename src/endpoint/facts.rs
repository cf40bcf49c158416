//! The registry's data of an endpoint, shared with the discovery that updates it.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{
        AtomicU16, AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

use crate::instance::{Instance, Weight};

/// The facts of one instance. Every clone of its endpoint sees their updates.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Separate from the instance, because each pick reads it. Relaxed: it is read on its own and publishes
    /// no other memory.
    weight: AtomicU16,
    /// Locked only while an `Arc` is copied, and not on the path of a request.
    instance: RwLock<Arc<Instance>>,
    /// Counts the updates of all endpoints of one discovery, so that a reader of many endpoints need not
    /// check each of them. Release on write and Acquire on read: a reader that sees a count also sees the
    /// facts that were written before it. `None` if the facts are never updated.
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

    /// The counter of updates of all facts of the same discovery. Read it with Acquire, which pairs with
    /// the Release of the writer.
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
