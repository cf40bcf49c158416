//! The registries that discovery follows: what a `Discover` cannot say.

use tokio::time::Instant;

use crate::{
    balance::registry::RegistryStatus,
    registry::{Followed, Watch},
    task::first_of,
};

/// The watches that discovery follows, and how they stood last.
pub(super) struct Registries {
    /// The user's first, then those of discovery.
    known: Vec<Known>,
    /// Those that were not looked at yet.
    new: Vec<Followed>,
    /// Whether any of them may stand otherwise than at the last look.
    stirred: bool,
    began: Instant,
}

/// A registry, and how it stood at the last look.
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

    /// Waits until one of them says something new. For ever, when there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn changed(&mut self) {
        let known = self.known.iter_mut();
        let lasting = known.filter(|(_, known)| !known.ended);
        first_of(lasting.map(|(followed, _)| followed.watch.stirs())).await;
        self.stirred = true;
    }

    /// Looks at them, and at those that discovery has `found` since. Returns those that stand otherwise now;
    /// `None` when nothing may have changed.
    pub(super) fn look(&mut self, found: Vec<Followed>) -> Option<Vec<RegistryStatus>> {
        self.new.extend(found);
        let over = || self.known.iter().any(|(followed, _)| followed.is_over());
        if !self.stirred && self.new.is_empty() && !over() {
            return None;
        }
        self.stirred = false;
        let mut changed = Vec::new();
        // A registry whose discovery was dropped is not followed any more. A user may switch between several.
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

    /// How they stand.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &RegistryStatus> {
        self.known.iter().map(|(_, status)| status)
    }
}
