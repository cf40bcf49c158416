//! The registries that discovery follows: what it has no word for.

use std::{fmt, hash::Hash, sync::Arc};

use tokio::time::Instant;
use tower::discover::Discover;

use super::Driver;
use crate::{
    balance::{handle::Event, policy::Policy, registry::RegistryStatus},
    registry::{State, Watch, first},
};

/// The watches that discovery follows, and how they stood last.
pub(in crate::balance) struct Registries {
    /// Those that discovery has told of since the last look.
    pub(super) new: Vec<Watch>,
    /// The user's first, then those of discovery.
    pub(super) followed: Vec<Followed>,
    /// How many the user gave.
    given: usize,
    /// Whether any of them may stand otherwise than at the last look.
    pub(super) stirred: bool,
    began: Instant,
}

impl Registries {
    pub(in crate::balance) fn new(watch: Option<Watch>, now: Instant) -> Self {
        Self {
            given: watch.iter().len(),
            new: watch.into_iter().collect(),
            followed: Vec::new(),
            stirred: false,
            began: now,
        }
    }
}

/// A registry, and how it stood at the last look.
pub(super) type Followed = (Watch, RegistryStatus);

/// Waits until one of them says something new. For ever, when there is none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(super) async fn changed(followed: &mut [Followed]) {
    let lasting = followed.iter_mut().filter(|(_, known)| !known.ended);
    first(lasting.map(|(watch, _)| watch.stirs())).await;
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
        if !registries.stirred && registries.new.is_empty() {
            return;
        }
        registries.stirred = false;
        let mut events = Vec::new();
        for (watch, known) in &mut registries.followed {
            let status = RegistryStatus::of(watch, registries.began);
            if !status.is_like(known) {
                events.push(Event::Registry(status.clone()));
            }
            *known = status;
        }
        for watch in registries.new.drain(..) {
            if registries
                .followed
                .iter()
                .any(|(known, _)| known.is_same(&watch))
            {
                continue;
            }
            let status = RegistryStatus::of(&watch, registries.began);
            events.push(Event::Registry(status.clone()));
            registries.followed.push((watch, status));
        }
        if self.discover.is_none() {
            // Nobody uses what they say.
            registries.followed.truncate(registries.given);
        }
        let known = registries.followed.iter().map(|(_, known)| known.clone());
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
