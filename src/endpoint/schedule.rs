//! A schedule of keys by time. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Keys in the order of their times. A key that is scheduled twice is returned twice.
pub(super) struct Schedule<K> {
    due: BTreeMap<Due, K>,
    serial: u64,
}

/// Identifies one entry of a [`Schedule`]. The number distinguishes entries of the same time.
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

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the earliest key that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        self.next().filter(|at| *at <= now)?;
        self.due.pop_first().map(|(_, key)| key)
    }
}
