//! Tells whether any facts have changed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Acquire},
};

use crate::endpoint::Facts;

/// Tells whether any facts have changed: one count for each discovery that endpoints come from. Several,
/// where the user has merged discoveries.
#[derive(Default)]
pub(super) struct Revisions {
    counts: Vec<Arc<AtomicU64>>,
    /// Their sum when the facts were read last.
    seen: u64,
}

impl Revisions {
    pub(super) fn add(&mut self, facts: &Facts) {
        let Some(count) = facts.count() else {
            return;
        };
        // A count that no one else holds never moves.
        if Arc::strong_count(count) > 1 && !self.counts.iter().any(|c| Arc::ptr_eq(c, count)) {
            self.seen = self.seen.wrapping_add(count.load(Acquire));
            self.counts.push(Arc::clone(count));
        }
    }

    /// As counts only grow, their sum stays the same only when all of them do.
    fn sum(&self) -> u64 {
        let counts = self.counts.iter().map(|count| count.load(Acquire));
        counts.fold(0, u64::wrapping_add)
    }

    pub(super) fn have_moved(&self) -> bool {
        self.sum() != self.seen
    }

    pub(super) fn catch_up(&mut self) {
        // A discovery that is gone changes nothing any more.
        self.counts.retain(|count| Arc::strong_count(count) > 1);
        self.seen = self.sum();
    }
}
