//! Endpoints that are not listed any more: their requests in flight, and what is known of them.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::member::Member;
use crate::{
    attempt::EndpointId,
    backoff::after,
    balance::{event::BalanceEvent, pick::state::Held},
    endpoint::{Age, eject::History},
    instance::{Address, Key, Weight},
};

/// How many endpoints are remembered at a time after they left, which takes some 20 MiB, and how many
/// orders by hand. Arbitrary: more than leave within the grace where names are not made up without end.
const REMEMBERED: usize = 65_536;

/// How often the requests of endpoints that left are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// Endpoints that are not listed any more.
pub(super) struct Departed<K, S, L> {
    grace: Duration,
    drain: Duration,
    /// For when they come back.
    remembered: HashMap<K, Remembered<L>>,
    /// When the first of them is to be forgotten, or earlier.
    forget_at: Option<Instant>,
    /// What was ordered by hand, whenever they left.
    orders: HashMap<Key, ByHand>,
    /// Those that left with requests in flight. Their services are kept until the deadline.
    draining: HashMap<EndpointId, Draining<S, L>>,
    /// When those are looked at next, while there are any.
    drain_at: Option<Instant>,
}

/// What is known of an endpoint that left.
pub(super) struct Known<L> {
    pub(super) state: Held<L>,
    pub(super) address: Option<Address>,
    /// How often its id had been registered, where the registry says so.
    pub(super) generation: u64,
    /// How far it was in slow start, if it was not warm.
    pub(super) age: Option<Age>,
    /// What the ejector knew of it.
    pub(super) history: Option<History>,
    pub(super) requests: u64,
}

struct Remembered<L> {
    gone: Known<L>,
    until: Instant,
}

/// What was ordered by hand of an endpoint.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ByHand {
    pub(super) weight: Option<Weight>,
    pub(super) ejected: bool,
}

struct Draining<S, L> {
    state: Held<L>,
    _service: Arc<S>,
    deadline: Instant,
}

impl<K: Eq + Hash, S, L> Departed<K, S, L> {
    pub(super) fn new(grace: Duration, drain: Duration) -> Self {
        Self {
            grace,
            drain,
            remembered: HashMap::new(),
            forget_at: None,
            orders: HashMap::new(),
            draining: HashMap::new(),
            drain_at: None,
        }
    }

    /// Keeps what is still needed of a member that was removed. `age` is where slow start goes on when it is
    /// back, and `ejected` whether it was ejected by hand.
    pub(super) fn keep(
        &mut self,
        name: K,
        member: &Member<S, L>,
        mut age: Option<Age>,
        history: Option<History>,
        ejected: bool,
        now: Instant,
    ) {
        let orders = ByHand {
            weight: member.weight_by_hand(),
            ejected,
        };
        if orders != ByHand::default() && self.orders.len() < REMEMBERED {
            self.orders.insert(member.key().clone(), orders);
        }
        // Whether it has requests in flight shows when no more can come.
        let draining = Draining {
            state: member.state().clone(),
            _service: Arc::clone(member.service()),
            deadline: after(now, self.drain),
        };
        let look = draining.deadline.min(after(now, DRAIN_LOOK));
        self.drain_at = Some(self.next_drain().map_or(look, |at| at.min(look)));
        self.draining.insert(member.state().id(), draining);
        if self.grace.is_zero() || self.remembered.len() >= REMEMBERED {
            return;
        }
        let until = after(now, self.grace);
        if let Some(age) = &mut age {
            age.stop(now);
        }
        let gone = Known {
            state: member.state().clone(),
            address: member.address().cloned(),
            generation: member.generation(),
            age,
            history,
            requests: member.requests(),
        };
        self.remembered.insert(name, Remembered { gone, until });
        // An endpoint that left earlier is forgotten earlier.
        self.forget_at.get_or_insert(until);
    }

    /// Gives back what is known of an endpoint of this name.
    pub(super) fn take(&mut self, name: &K) -> Option<Known<L>> {
        Some(self.remembered.remove(name)?.gone)
    }

    /// Gives back what was ordered by hand of an endpoint.
    pub(super) fn take_orders(&mut self, key: &Key) -> ByHand {
        self.orders.remove(key).unwrap_or_default()
    }

    /// Changes what was ordered by hand of an endpoint. Returns whether there were orders.
    pub(super) fn reorder(&mut self, key: &Key, change: impl FnOnce(&mut ByHand)) -> bool {
        let Some(orders) = self.orders.get_mut(key) else {
            return false;
        };
        change(orders);
        if *orders == ByHand::default() {
            self.orders.remove(key);
        }
        true
    }

    /// An endpoint is listed again, with its requests in flight.
    pub(super) fn serves_again(&mut self, endpoint: EndpointId) {
        self.draining.remove(&endpoint);
    }

    /// How many requests a removed endpoint has in flight. Lets it go when there are none. None of one that
    /// came back before a snapshot was made.
    pub(super) fn in_flight(&mut self, state: &Held<L>) -> usize {
        let drains = self.draining.contains_key(&state.id());
        let in_flight = if drains { state.in_flight() } else { 0 };
        if in_flight == 0 {
            self.draining.remove(&state.id());
        }
        in_flight
    }

    /// The address of each state that is remembered, and the number of requests that went there.
    pub(super) fn requests_mut(&mut self) -> impl Iterator<Item = (usize, &mut u64)> {
        let gone = self.remembered.values_mut().map(|kept| &mut kept.gone);
        gone.map(|gone| (gone.state.address(), &mut gone.requests))
    }

    /// Forgets what is over. `tell` gets the events, to be published at once.
    pub(super) fn tidy(&mut self, now: Instant, mut tell: impl FnMut(BalanceEvent)) {
        if self.forget_at.is_some_and(|at| at <= now) {
            self.remembered.retain(|_, kept| kept.until > now);
            self.forget_at = self.remembered.values().map(|kept| kept.until).min();
        }
        if self.next_drain().is_none_or(|at| at > now) {
            return;
        }
        let mut look = after(now, DRAIN_LOOK);
        self.draining.retain(|_, draining| {
            let in_flight = draining.state.in_flight();
            let stays = in_flight > 0 && draining.deadline > now;
            if stays {
                look = look.min(draining.deadline);
            } else {
                tell(BalanceEvent::Drained {
                    key: draining.state.key.clone(),
                    in_flight,
                });
            }
            stays
        });
        self.drain_at = Some(look);
    }

    /// When those that drain are looked at next: not each time that the driver wakes, as they may be many.
    fn next_drain(&self) -> Option<Instant> {
        self.drain_at.filter(|_| !self.draining.is_empty())
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next_drain().into_iter().chain(self.forget_at).min()
    }
}
