//! The state of all endpoints, and the effects of each change. Pure.

use std::{fmt, hash::Hash, sync::Arc};

use tokio::{sync::broadcast, time::Instant};

use super::{
    departed::Departed,
    ejections::{Ejections, EndpointSignal, PeerFailures},
    member::{ListedEndpoint, Member, MemberId},
    members::Members,
    membership::MembershipLog,
    news::News,
    planning::Planning,
    report::list,
    warm_up::WarmUp,
};
use crate::{
    balance::{
        event::BalanceEvent,
        handle::EndpointInfo,
        pick::state::{Common, Held},
        policy::{Candidate, Policy},
        topology::{LeafSet, Plan},
    },
    endpoint::{
        Age,
        eject::{EjectStep, Restored, StepKind},
        load::LoadTracker,
    },
    instance::{Key, Weight},
    task::caught,
};

/// The state of all endpoints.
pub(super) struct Endpoints<K, S, P: Policy> {
    policy: Arc<P>,
    common: Arc<Common>,
    members: Members<K, S, P::Load>,
    departed: Departed<K, S, P::Load>,
    ejections: Ejections,
    warm_up: WarmUp,
    planning: Planning,
    news: News<P::Load>,
    membership: MembershipLog,
}

impl<K, S, P> Endpoints<K, S, P>
where
    K: Eq + Hash + Clone + fmt::Debug + 'static,
    P: Policy,
{
    pub(super) fn new(
        policy: Arc<P>,
        common: Arc<Common>,
        departed: Departed<K, S, P::Load>,
        ejections: Ejections,
        warm_up: WarmUp,
        planning: Planning,
    ) -> Self {
        Self {
            policy,
            common,
            members: Members::new(),
            departed,
            ejections,
            warm_up,
            planning,
            news: News::new(),
            membership: MembershipLog::default(),
        }
    }

    pub(super) fn members(&self) -> &Members<K, S, P::Load> {
        &self.members
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        let wakes = [
            self.departed.next_wake(),
            self.warm_up.next_wake(),
            self.planning.next_wake(),
            self.ejections.next_wake(),
        ];
        wakes.into_iter().flatten().min()
    }

    /// Handles a new endpoint, or a new service of one. Until the first set is `settled`, no endpoint is
    /// warmer than others. Returns whether it is used: not when the policy panics for it.
    pub(super) fn insert(
        &mut self,
        name: &K,
        listing: ListedEndpoint<S>,
        settled: bool,
        now: Instant,
    ) -> bool {
        // Apply earlier decisions first: those about an endpoint of this name concern its old state.
        self.follow(now);
        match self.members.find(name) {
            Some(id) => {
                self.replace(id, listing, settled, now);
                true
            }
            None => self.add(name, listing, settled, now),
        }
    }

    fn add(&mut self, name: &K, listing: ListedEndpoint<S>, settled: bool, now: Instant) -> bool {
        let mut gone = self.departed.take(name);
        let moved = gone.take_if(|gone| listing.is_elsewhere(gone.address.as_ref()));
        let known = match gone {
            Some(gone) => Ok(gone),
            None => match self.fresh_tracker(now) {
                Some(tracker) => Err(tracker),
                None => {
                    tracing::error!(endpoint = ?name, "left out, as the policy panicked");
                    return false;
                }
            },
        };
        // Before any state changes: printing and cloning a name is code of the user and may panic.
        let (key, name) = (Key::of_name(name), name.clone());
        let id = self.members.next_id();
        let round = self.ejections.ejector.insert(id);
        // Slow start needs a warm endpoint. Whether there is one is known only at the end of a burst.
        let mut age = settled.then(Age::default);
        let mut history = None;
        let state = match (known, moved) {
            (Ok(gone), _) => {
                // A new generation is a new process. Otherwise the endpoint is as warm as it was.
                if gone.generation == listing.generation() {
                    age = gone.age;
                }
                history = gone.history;
                // The gate opens in the new round; the ejector shuts it if it was shut.
                gone.state.health.follow(&EjectStep {
                    key: (),
                    round,
                    kind: StepKind::Restored {
                        by: Restored::Guard,
                    },
                });
                gone.state
            }
            (Err(tracker), Some(old)) => old.state.succeeded_by(tracker, round),
            (Err(tracker), None) => Held::new(key, tracker, round, Arc::clone(&self.common)),
        };
        let orders = self.departed.take_orders(&state.key);
        // The endpoint is listed again, so its requests in flight do not count as draining.
        self.departed.serves_again(state.id());
        self.membership.added(&state.key);
        self.news.tell(BalanceEvent::Added {
            key: state.key.clone(),
        });
        let mut member = Member::new(id, state, listing, now);
        member.resume(age, orders.weight);
        let weighs = member.weight() > Weight::ZERO;
        self.ejections
            .resume(id, weighs, history, orders.ejected, now);
        let topology = self.planning.topology();
        self.members.add(name, member, topology);
        true
    }

    /// Makes a member use another service. Another address means another process.
    fn replace(&mut self, id: MemberId, listing: ListedEndpoint<S>, settled: bool, now: Instant) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        let key = member.key().clone();
        let moved = listing.is_elsewhere(member.address());
        self.news.tell(BalanceEvent::Replaced { key: key.clone() });
        if moved {
            match self.fresh_tracker(now) {
                Some(tracker) => self.renew(id, tracker, settled, now),
                None => tracing::error!(endpoint = %key, "keeps its load, as the policy panicked"),
            }
        }
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        let before = member.weight();
        if member.serve_with(listing) {
            self.members.look(id, self.planning.topology());
            let now = self.members.get(id).map(Member::weight);
            if let Some(weight) = now.filter(|weight| *weight != before) {
                self.news.tell(BalanceEvent::Weighed { key, weight });
            }
        }
    }

    /// Forgets the state of a member, except for its counts and the orders by hand.
    fn renew(&mut self, id: MemberId, tracker: P::Load, settled: bool, now: Instant) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        let was_out = member.is_out();
        let age = settled.then(Age::default);
        let round = self.ejections.ejector.renew(&id, now);
        // The requests in flight belong to the old process, and prove nothing about the new one.
        let state = member.state().succeeded_by(tracker, round);
        let Some(old) = self.members.renew(id, state, age) else {
            return;
        };
        if was_out && self.ejections.cause(id).is_none() {
            let key = old.key.clone();
            self.news.tell(BalanceEvent::Restored {
                key,
                by: Restored::Moved,
            });
        }
    }

    /// A tracker for a new endpoint; `None` when the policy panics.
    fn fresh_tracker(&self, now: Instant) -> Option<P::Load> {
        caught(|| self.policy.tracker().fresh(now))
    }

    /// Handles an endpoint that discovery does not list any more. Returns whether a snapshot is due.
    pub(super) fn remove(&mut self, name: &K, now: Instant) -> bool {
        let followed = self.follow(now);
        let Some((name, member)) = self.members.remove(name) else {
            return followed;
        };
        let (history, ejected) = self.ejections.remove(member.id(), now);
        self.membership.removed(member.key());
        self.news.tell_removed(member.state().clone());
        // An endpoint that leaves while it is ejected starts slow start anew when it comes back.
        let age = if member.is_out() {
            Some(Age::default())
        } else {
            member.age()
        };
        let departed = &mut self.departed;
        departed.keep(name, &member, age, history, ejected, now);
        true
    }

    /// Reads all facts again. Returns whether a snapshot is due.
    pub(super) fn look_at_facts(&mut self) -> bool {
        let topology = self.planning.topology();
        // The rules of the topology depend on more than weights.
        let mut dirty = !topology.is_plain();
        let news = &mut self.news;
        self.members.look_at_all(topology, |member| {
            dirty = true;
            news.tell(BalanceEvent::Weighed {
                key: member.key().clone(),
                weight: member.weight(),
            });
        });
        dirty
    }

    /// Ejects an endpoint by hand. Returns whether it is known, and whether a snapshot is due.
    pub(super) fn eject(&mut self, key: &Key, now: Instant) -> (bool, bool) {
        let found = match self.members.find_key(key) {
            Some(id) => self.ejections.ejector.eject(&id, now),
            None => self.departed.reorder(key, |orders| orders.ejected = true),
        };
        // Shuts the gate now, before any other order is handled.
        (found, self.follow(now))
    }

    /// Restores an endpoint by hand. Returns whether it is known, and whether a snapshot is due.
    pub(super) fn restore(&mut self, key: &Key, now: Instant) -> (bool, bool) {
        let found = match self.members.find_key(key) {
            Some(id) => {
                self.ejections.ejector.restore_by_hand(&id, now);
                true
            }
            None => self.departed.reorder(key, |orders| orders.ejected = false),
        };
        (found, self.follow(now))
    }

    /// Sets a weight by hand. Returns whether the endpoint is known, and whether a snapshot is due.
    pub(super) fn weigh(&mut self, key: Key, weight: Option<Weight>) -> (bool, bool) {
        let id = self.members.find_key(&key);
        let Some(member) = id.and_then(|id| self.members.get_mut(id)) else {
            let found = self.departed.reorder(&key, |orders| orders.weight = weight);
            return (found, false);
        };
        let before = member.weight();
        member.set_weight_by_hand(weight);
        let after = member.weight();
        if after != before {
            self.news.tell(BalanceEvent::Weighed { key, weight: after });
        }
        (true, after != before)
    }

    /// Handles a signal from a request.
    pub(super) fn hear(&mut self, alarm: &EndpointSignal, peers: &mut PeerFailures, now: Instant) {
        self.ejections.hear(&self.members, alarm, peers, now);
    }

    /// Handles the result of a health check: the endpoint counts as failing, or the check passed.
    pub(super) fn checked(&mut self, name: &K, failures: u32, passed: bool, now: Instant) {
        if let Some(id) = self.members.find(name) {
            self.ejections.checked(id, failures, passed, now);
        }
    }

    /// Handles passed deadlines and the decisions of the ejector. Returns whether a snapshot is due.
    pub(super) fn judge(&mut self, now: Instant) -> bool {
        let warmer = self.warm_up.is_due(self.members.all_mut(), now);
        self.ejections.judge(&self.members, now);
        self.planning.guard(&mut self.news, now);
        self.follow(now) | warmer
    }

    fn follow(&mut self, now: Instant) -> bool {
        let news = &mut self.news;
        self.ejections.follow(&mut self.members, news, now)
    }

    /// Whether an endpoint was found to fail since the last call.
    pub(super) fn take_failing(&mut self) -> bool {
        self.ejections.take_failing()
    }

    /// The plan of where requests go now. It refers to members by their places.
    pub(super) fn plan(&mut self, now: Instant) -> Plan {
        self.look_at_weights(now);
        self.ejections.ejector.keep_share(now);
        if self.follow(now) {
            // Endpoints that were restored are in slow start.
            self.look_at_weights(now);
        }
        let (members, ejections) = (&self.members, &self.ejections);
        let (warm_up, news) = (&self.warm_up, &mut self.news);
        self.planning.plan(members, ejections, warm_up, news, now)
    }

    fn look_at_weights(&mut self, now: Instant) {
        let (members, ejections) = (self.members.all_mut(), &mut self.ejections);
        let changed = |id, weighs| ejections.ejector.set_weighed(&id, weighs);
        self.warm_up.weigh(members, now, changed);
    }

    /// The candidates of a set.
    pub(super) fn candidates(&self, set: &LeafSet, now: Instant) -> Vec<Candidate<'_>> {
        let places = &set.places[..set.candidates];
        let members = places.iter().map(|place| &self.members.all()[*place]);
        let candidates = members.map(|m| Candidate::lent(m.key(), self.warm_up.effective(m, now)));
        candidates.collect()
    }

    pub(super) fn subscribe(&mut self) -> broadcast::Receiver<BalanceEvent> {
        self.news.subscribe()
    }

    /// Publishes an event with the next snapshot.
    pub(super) fn tell(&mut self, event: BalanceEvent) {
        self.news.tell(event);
    }

    /// Publishes the pending events.
    pub(super) fn publish_news(&mut self) {
        let departed = &mut self.departed;
        self.news.publish_all(|state| departed.in_flight(state));
    }

    /// Logs which endpoints were added and removed since the last call.
    pub(super) fn log_membership(&mut self) {
        self.membership.write(self.members.all().len());
    }

    /// Forgets what has expired.
    pub(super) fn tidy(&mut self, now: Instant) {
        let news = &mut self.news;
        self.departed.tidy(now, |event| news.publish(event));
    }

    /// All members in the user's view, in the order of their keys.
    pub(super) fn list(&self, now: Instant) -> Vec<EndpointInfo> {
        list(self.members.all(), &self.ejections, &self.warm_up, now)
    }
}
