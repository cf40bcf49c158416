//! The registries that discovery follows: what it has no word for.

use std::{fmt, hash::Hash, sync::Arc};

use tokio::time::Instant;
use tower::discover::Discover;

use super::Driver;
use crate::{
    balance::{handle::Event, policy::Policy, registry::RegistryStatus},
    registry::{Followed, State, Watch},
    task::first_of,
};

/// The watches that discovery follows, and how they stood last.
pub(in crate::balance) struct Registries {
    /// Those that discovery has told of since the last look.
    pub(super) new: Vec<Followed>,
    /// The user's first, then those of discovery.
    pub(super) known: Vec<Known>,
    /// Whether any of them may stand otherwise than at the last look.
    pub(super) stirred: bool,
    began: Instant,
}

/// A registry, and how it stood at the last look.
pub(super) type Known = (Followed, RegistryStatus);

impl Registries {
    pub(in crate::balance) fn new(watch: Option<Watch>, now: Instant) -> Self {
        Self {
            new: watch.map(Followed::given).into_iter().collect(),
            known: Vec::new(),
            stirred: false,
            began: now,
        }
    }

    fn are_as_before(&self) -> bool {
        let over = || self.known.iter().any(|(followed, _)| followed.is_over());
        !self.stirred && self.new.is_empty() && !over()
    }
}

/// Waits until one of them says something new. For ever, when there is none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(super) async fn changed(known: &mut [Known]) {
    let lasting = known.iter_mut().filter(|(_, known)| !known.ended);
    first_of(lasting.map(|(followed, _)| followed.watch.stirs())).await;
}

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// Tells how the registries stand. After the endpoints that they told of, so that nobody takes a set
    /// that is on its way for an empty one.
    pub(super) fn look_at_registries(&mut self) {
        let registries = &mut self.registries;
        if registries.are_as_before() {
            return;
        }
        registries.stirred = false;
        let mut events = Vec::new();
        // Whose discovery has been dropped, by whoever switches between several, is nobody's any more.
        registries.known.retain(|(followed, _)| !followed.is_over());
        for (followed, known) in &mut registries.known {
            let status = RegistryStatus::of(&followed.watch, registries.began);
            if !status.is_like(known) {
                events.push(Event::Registry(status.clone()));
            }
            *known = status;
        }
        for new in std::mem::take(&mut registries.new) {
            let mut known = registries.known.iter_mut();
            if let Some((known, _)) = known.find(|(known, _)| known.watch.is_same(&new.watch)) {
                known.follow_with(&new);
                continue;
            }
            let status = RegistryStatus::of(&new.watch, registries.began);
            events.push(Event::Registry(status.clone()));
            registries.known.push((new, status));
        }
        let known = registries.known.iter().map(|(_, known)| known.clone());
        let known: Arc<[_]> = known.collect();
        self.status.send_modify(|status| {
            status.resolved |= known.iter().any(|known| known.state != State::Pending);
            status.registries = known;
        });
        for event in events {
            self.tell(event);
        }
    }
}
