//! Detects changes of facts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Acquire},
};

use crate::endpoint::Facts;

/// Detects changes of facts, with one counter for each discovery that endpoints come from. There are
/// several if the user has merged discoveries.
#[derive(Default)]
pub(super) struct Revisions {
    counts: Vec<Arc<AtomicU64>>,
    /// The sum of the counters when the facts were last read.
    seen: u64,
}

impl Revisions {
    pub(super) fn add(&mut self, facts: &Facts) {
        let Some(count) = facts.count() else {
            return;
        };
        // A counter without another owner never changes.
        if Arc::strong_count(count) > 1 && !self.counts.iter().any(|c| Arc::ptr_eq(c, count)) {
            self.seen = self.seen.wrapping_add(count.load(Acquire));
            self.counts.push(Arc::clone(count));
        }
    }

    /// Counters only grow, so the sum stays the same only if all of them do. Acquire: a reader that sees a
    /// count sees the facts that were released before it.
    fn sum(&self) -> u64 {
        let counts = self.counts.iter().map(|count| count.load(Acquire));
        counts.fold(0, u64::wrapping_add)
    }

    pub(super) fn have_moved(&self) -> bool {
        self.sum() != self.seen
    }

    pub(super) fn catch_up(&mut self) {
        // The counter of a dropped discovery never changes again.
        self.counts.retain(|count| Arc::strong_count(count) > 1);
        self.seen = self.sum();
    }
}
