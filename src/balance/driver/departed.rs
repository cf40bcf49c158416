//! Endpoints that are not listed any more: their requests in flight, and their state in case they come
//! back.

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

/// How many departed endpoints are remembered at a time, and how many orders by hand. The former take some
/// 20 MiB. Arbitrary: more endpoints than leave within the grace, unless names are never reused.
const REMEMBERED: usize = 65_536;

/// How often the requests in flight of departed endpoints are counted.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// Endpoints that are not listed any more.
pub(super) struct Departed<K, S, L> {
    grace: Duration,
    drain: Duration,
    /// State of endpoints that may come back within the grace.
    remembered: HashMap<K, Remembered<L>>,
    /// The time at which the first of them is to be forgotten, or an earlier time.
    forget_at: Option<Instant>,
    /// Orders by hand, kept without a limit of time.
    orders: HashMap<Key, ByHand>,
    /// Endpoints that left with requests in flight. Their services are kept until the deadline.
    draining: HashMap<EndpointId, Draining<S, L>>,
    /// The time of the next check of the draining endpoints, if there are any.
    drain_at: Option<Instant>,
}

/// The state of an endpoint that left.
pub(super) struct DepartedState<L> {
    pub(super) state: Held<L>,
    pub(super) address: Option<Address>,
    /// The generation of its registration, if the registry reports one.
    pub(super) generation: u64,
    /// Its age in slow start, if it was not warm.
    pub(super) age: Option<Age>,
    /// Its history in the ejector.
    pub(super) history: Option<History>,
}

struct Remembered<L> {
    gone: DepartedState<L>,
    until: Instant,
}

/// The orders by hand for an endpoint.
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

    /// Keeps what a removed member needs to come back. `age` is where slow start continues, and `ejected`
    /// tells whether it was ejected by hand.
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
        // Its requests in flight are counted later, when no more can start.
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
        let gone = DepartedState {
            state: member.state().clone(),
            address: member.address().cloned(),
            generation: member.generation(),
            age,
            history,
        };
        self.remembered.insert(name, Remembered { gone, until });
        // An endpoint that left earlier is forgotten earlier.
        self.forget_at.get_or_insert(until);
    }

    /// Takes the state of the endpoint with this name.
    pub(super) fn take(&mut self, name: &K) -> Option<DepartedState<L>> {
        Some(self.remembered.remove(name)?.gone)
    }

    /// Takes the orders by hand for an endpoint.
    pub(super) fn take_orders(&mut self, key: &Key) -> ByHand {
        self.orders.remove(key).unwrap_or_default()
    }

    /// Changes the orders by hand for an endpoint. Returns whether there were any.
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

    /// Stops draining an endpoint that is listed again. Its requests in flight stay with it.
    pub(super) fn serves_again(&mut self, endpoint: EndpointId) {
        self.draining.remove(&endpoint);
    }

    /// The number of requests in flight of a removed endpoint. Drops the endpoint if there are none.
    /// Returns 0 for an endpoint that came back before a snapshot was made.
    pub(super) fn in_flight(&mut self, state: &Held<L>) -> usize {
        let drains = self.draining.contains_key(&state.id());
        let in_flight = if drains { state.in_flight() } else { 0 };
        if in_flight == 0 {
            self.draining.remove(&state.id());
        }
        in_flight
    }

    /// Forgets what has expired. `tell` gets the events, for publishing at once.
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

    /// The time of the next check of the draining endpoints. They are not checked at each wake of the
    /// driver, because they may be many.
    fn next_drain(&self) -> Option<Instant> {
        self.drain_at.filter(|_| !self.draining.is_empty())
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next_drain().into_iter().chain(self.forget_at).min()
    }
}
