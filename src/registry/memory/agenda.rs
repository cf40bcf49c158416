//! Names in the order of a time that each of them has.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

/// Finds the earliest name in logarithmic time, whatever the number of names. A pass over all of them, at
/// each deadline and under the lock, would let many instances with short intervals stop the registry.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Instant, Arc<str>)>);

impl Agenda {
    /// Moves a name from one time to another; `None` is no time.
    pub(super) fn shift(&mut self, name: &Arc<str>, from: Option<Instant>, to: Option<Instant>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.0.remove(&(from, Arc::clone(name)));
        }
        if let Some(to) = to {
            self.0.insert((to, Arc::clone(name)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn first(&self) -> Option<&(Instant, Arc<str>)> {
        self.0.first()
    }
}
