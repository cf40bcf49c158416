//! Who is listed, and who was.
//!
//! Members stand in an array without holes, because each snapshot is made from all of them: when one
//! leaves, the last takes its place. So places change, and who must remember a member for longer
//! remembers its [`MemberId`], which does not. Only that is looked up by name, once for each change.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire},
    },
};

use tokio::time::Instant;

use crate::{
    attempt::EndpointId,
    balance::{
        slots::make_room,
        state::Held,
        topology::{Topology, Traits},
    },
    endpoint::{Age, Facts, eject::History},
    instance::{Address, Key, Weight},
};

/// Identifies a member for as long as it is listed; may be another's afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::balance) struct MemberId(u32);

/// Who is listed, and who was.
pub(in crate::balance) struct Roll<K, S, L> {
    pub(super) index: HashMap<K, MemberId>,
    pub(super) members: Vec<Member<S, L>>,
    /// What the rules of the topology know of each member; of none where there are no rules. Apart,
    /// as most balancers have none.
    pub(super) traits: Vec<Traits>,
    /// The place of each member by its id.
    places: Vec<u32>,
    /// Ids that are nobody's.
    free: Vec<MemberId>,
    /// Members by the ids that requests know them by.
    by_endpoint: HashMap<EndpointId, MemberId>,
    /// The states of those that left, for when they come back, and until when.
    pub(super) gone: HashMap<K, Gone<L>>,
    /// What was ordered by hand of those that left, whenever that was.
    pub(super) orders: HashMap<Key, Orders>,
    /// When the first of `gone` is to be forgotten, or earlier.
    pub(super) forget_at: Option<Instant>,
    /// Those that left with requests in flight. Their services are kept until the deadline.
    pub(super) draining: HashMap<EndpointId, Draining<S, L>>,
    /// When they are looked at next; while there are any.
    pub(super) drain_at: Option<Instant>,
    /// States whose place another took since the last snapshot, and the address of that: picks that
    /// were counted for the one belong to the other.
    pub(super) replaced: Vec<(Held<L>, usize)>,
    /// What moves on when the facts of any member change.
    pub(super) revisions: Revisions,
}

/// The place of an id that is nobody's.
const NOWHERE: u32 = u32::MAX;

pub(super) struct Member<S, L> {
    pub(super) state: Held<L>,
    pub(super) service: Arc<S>,
    pub(super) facts: Option<Arc<Facts>>,
    /// Where its service sends to, if that is known. The facts may be ahead of it.
    pub(super) address: Option<Address>,
    /// Requests that went to it, as of the last time that they were collected.
    pub(super) requests: u64,
    pub(super) since: Instant,
    /// While it is in slow start, how far it is.
    pub(super) ramp: Option<Age>,
    pub(super) id: MemberId,
    /// As of the last look at the facts.
    pub(super) weight: Weight,
    pub(super) by_hand: Option<Weight>,
    /// Whether it has one, as the ejector was told.
    pub(super) weighs: bool,
    /// Whether its gate is not open: known here, because to look at each gate for each snapshot would
    /// fetch all states from memory.
    pub(super) out: bool,
}

pub(super) struct Gone<L> {
    pub(super) state: Held<L>,
    pub(super) until: Instant,
    pub(super) address: Option<Address>,
    /// How often its id had been registered, where the registry tells.
    pub(super) generation: u64,
    /// How far it was in slow start, if it was not warm.
    pub(super) ramp: Option<Age>,
    /// What the ejector knew of it.
    pub(super) history: Option<History>,
    pub(super) requests: u64,
}

/// What was ordered by hand of an endpoint.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) weight: Option<Weight>,
    pub(super) ejected: bool,
}

pub(super) struct Draining<S, L> {
    pub(super) state: Held<L>,
    pub(super) _service: Arc<S>,
    pub(super) deadline: Instant,
}

impl<S, L> Member<S, L> {
    pub(super) fn weight(&self) -> Weight {
        self.by_hand.unwrap_or(self.weight)
    }
}

/// How often an id was registered, where the registry tells; else 0.
pub(super) fn generation(facts: Option<&Facts>) -> u64 {
    facts.map_or(0, |facts| facts.instance().generation)
}

impl<K, S, L> Roll<K, S, L> {
    pub(in crate::balance) fn new() -> Self {
        Self {
            index: HashMap::new(),
            members: Vec::new(),
            traits: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            by_endpoint: HashMap::new(),
            gone: HashMap::new(),
            orders: HashMap::new(),
            forget_at: None,
            draining: HashMap::new(),
            drain_at: None,
            replaced: Vec::new(),
            revisions: Revisions::default(),
        }
    }

    /// An id for a member that will be [added](Self::add).
    pub(super) fn next_id(&mut self) -> MemberId {
        self.free.pop().unwrap_or_else(|| {
            let id = self.places.len();
            make_room(&mut self.places, id + 1);
            self.places.push(NOWHERE);
            MemberId(id as u32)
        })
    }

    /// Where the member is now.
    pub(super) fn place(&self, id: MemberId) -> Option<usize> {
        let place = *self.places.get(id.0 as usize)?;
        (place != NOWHERE).then_some(place as usize)
    }

    /// Where the member is that requests know by this id.
    pub(super) fn place_of(&self, id: EndpointId) -> Option<usize> {
        self.place(*self.by_endpoint.get(&id)?)
    }

    /// Adds a member behind all others.
    pub(super) fn add(&mut self, member: Member<S, L>, topology: &Topology) {
        let place = self.members.len();
        self.places[member.id.0 as usize] = place as u32;
        self.by_endpoint.insert(member.state.id(), member.id);
        make_room(&mut self.members, place + 1);
        self.members.push(member);
        self.look(place, topology);
    }

    /// Takes the member at a place out; the last one takes that place.
    pub(super) fn take(&mut self, place: usize) -> Member<S, L> {
        let member = self.members.swap_remove(place);
        if place < self.traits.len() {
            self.traits.swap_remove(place);
        }
        self.places[member.id.0 as usize] = NOWHERE;
        self.forget_endpoint(member.state.id(), member.id);
        self.free.push(member.id);
        if let Some(moved) = self.members.get(place) {
            self.places[moved.id.0 as usize] = place as u32;
        }
        let left = self.members.len();
        make_room(&mut self.members, left);
        member
    }

    /// Has a member use another state. Returns the one before.
    pub(super) fn renew(&mut self, place: usize, state: Held<L>) -> Held<L> {
        let member = &mut self.members[place];
        let (id, endpoint) = (member.id, state.id());
        let old = std::mem::replace(&mut member.state, state);
        self.forget_endpoint(old.id(), id);
        self.by_endpoint.insert(endpoint, id);
        old
    }

    fn forget_endpoint(&mut self, endpoint: EndpointId, id: MemberId) {
        // Ids of endpoints begin anew after a million, so it may be another's by now.
        if self.by_endpoint.get(&endpoint) == Some(&id) {
            self.by_endpoint.remove(&endpoint);
        }
    }

    /// Changes what was ordered of one that is not listed. Returns whether there were orders.
    pub(super) fn reorder(&mut self, key: &Key, change: impl FnOnce(&mut Orders)) -> bool {
        let Some(orders) = self.orders.get_mut(key) else {
            return false;
        };
        change(orders);
        if *orders == Orders::default() {
            self.orders.remove(key);
        }
        true
    }

    /// Reads the facts of a member.
    pub(super) fn look(&mut self, place: usize, topology: &Topology) {
        let member = &mut self.members[place];
        if let Some(facts) = &member.facts {
            member.weight = facts.weight();
        }
        if topology.is_plain() {
            return;
        }
        let instance = member.facts.as_ref().map(|facts| facts.instance());
        if let Some(split) = topology.as_split() {
            member
                .state
                .set_canary(split.is_canary(instance.as_deref()));
        }
        let traits = topology.traits(&member.state.key, instance.as_deref());
        if place < self.traits.len() {
            self.traits[place] = traits;
        } else {
            self.traits.push(traits);
        }
    }
}

/// Tells whether any facts have changed: one count for each discovery that members come from, which
/// are several where somebody has merged them.
#[derive(Default)]
pub(super) struct Revisions {
    pub(super) counts: Vec<Arc<AtomicU64>>,
    /// Their sum when the facts were read last.
    pub(super) seen: u64,
}

impl Revisions {
    pub(super) fn add(&mut self, facts: &Facts) {
        let Some(count) = facts.count() else {
            return;
        };
        // One that nobody else holds never moves.
        if Arc::strong_count(count) > 1 && !self.counts.iter().any(|c| Arc::ptr_eq(c, count)) {
            self.seen = self.seen.wrapping_add(count.load(Acquire));
            self.counts.push(Arc::clone(count));
        }
    }

    /// As counts only grow, their sum stays when all of them do.
    pub(super) fn sum(&self) -> u64 {
        let counts = self.counts.iter().map(|count| count.load(Acquire));
        counts.fold(0, u64::wrapping_add)
    }

    pub(super) fn have_moved(&self) -> bool {
        self.sum() != self.seen
    }

    pub(super) fn catch_up(&mut self) {
        // Of a discovery that is gone nothing is to be expected.
        self.counts.retain(|count| Arc::strong_count(count) > 1);
        self.seen = self.sum();
    }
}
