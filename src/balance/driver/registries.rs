//! The registries that discovery follows. The `Discover` trait cannot report their state.

use tokio::time::Instant;

use crate::{
    balance::registry::RegistryStatus,
    registry::{Followed, Watch},
    task::first_of,
};

/// The watches that discovery follows, with their last known states.
pub(super) struct Registries {
    /// First the user's watch, then those of discovery.
    known: Vec<Known>,
    /// Watches that were not read yet.
    new: Vec<Followed>,
    /// Whether the state of any watch may have changed since the last reading.
    stirred: bool,
    began: Instant,
}

/// A watch, and its state at the last reading.
type Known = (Followed, RegistryStatus);

impl Registries {
    pub(super) fn new(watch: Option<Watch>, now: Instant) -> Self {
        Self {
            known: Vec::new(),
            new: watch.map(Followed::given).into_iter().collect(),
            stirred: false,
            began: now,
        }
    }

    /// Waits until a watch has changed. Never returns if there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn changed(&mut self) {
        let known = self.known.iter_mut();
        let lasting = known.filter(|(_, known)| !known.ended);
        first_of(lasting.map(|(followed, _)| followed.watch.stirs())).await;
        self.stirred = true;
    }

    /// Reads the states, also of the watches that discovery has `found` since. Returns the changed states;
    /// `None` when nothing may have changed.
    pub(super) fn look(&mut self, found: Vec<Followed>) -> Option<Vec<RegistryStatus>> {
        self.new.extend(found);
        let over = || self.known.iter().any(|(followed, _)| followed.is_over());
        if !self.stirred && self.new.is_empty() && !over() {
            return None;
        }
        self.stirred = false;
        let mut changed = Vec::new();
        // A watch whose discovery was dropped is not followed any more; a user may switch between several.
        self.known.retain(|(followed, _)| !followed.is_over());
        for (followed, known) in &mut self.known {
            let status = RegistryStatus::of(&followed.watch, self.began);
            if !status.is_like(known) {
                changed.push(status.clone());
            }
            *known = status;
        }
        for new in std::mem::take(&mut self.new) {
            let mut known = self.known.iter_mut();
            if let Some((known, _)) = known.find(|(known, _)| known.watch.is_same(&new.watch)) {
                known.follow_with(&new);
                continue;
            }
            let status = RegistryStatus::of(&new.watch, self.began);
            changed.push(status.clone());
            self.known.push((new, status));
        }
        Some(changed)
    }

    /// Asks all registries for another look, because an endpoint fails: it may be gone.
    pub(super) fn look_again(&self) {
        for (followed, _) in &self.known {
            followed.watch.look_again();
        }
    }

    /// The last known states.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &RegistryStatus> {
        self.known.iter().map(|(_, status)| status)
    }
}
