//! What is due when, by key. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Keys in the order of their times. A key that is scheduled twice comes twice.
pub(super) struct Schedule<K> {
    due: BTreeMap<Due, K>,
    serial: u64,
}

/// Names one entry of a [`Schedule`]; the number tells entries of the same time apart.
pub(super) type Due = (Instant, u64);

impl<K> Schedule<K> {
    pub(super) fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            serial: 0,
        }
    }

    pub(super) fn add(&mut self, at: Instant, key: K) -> Due {
        self.serial += 1;
        let due = (at, self.serial);
        self.due.insert(due, key);
        due
    }

    pub(super) fn remove(&mut self, due: Due) {
        self.due.remove(&due);
    }

    /// The first time of all.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first key that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        self.next().filter(|at| *at <= now)?;
        self.due.pop_first().map(|(_, key)| key)
    }
}
