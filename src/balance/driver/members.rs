//! The endpoints that discovery lists.
//!
//! They are in an array without holes, because each snapshot is made from all of them. When one leaves, the
//! last one moves to its place. So places change, and code that refers to a member for longer stores its
//! [`MemberId`], which stays the same. A lookup by name happens only once for each change.

use std::{any::Any, collections::HashMap, hash::Hash};

use super::member::{Member, MemberId};
use crate::{
    attempt::EndpointId,
    balance::{
        pick::{slots::make_room, state::Held},
        topology::{Topology, Traits},
    },
    endpoint::Age,
    instance::Key,
};

/// The endpoints that discovery lists.
pub(super) struct Members<K, S, L> {
    index: HashMap<K, MemberId>,
    members: Vec<Member<S, L>>,
    /// The attributes of each member for the rules of the topology; empty without rules. Separate from the
    /// members, because most balancers have no rules.
    traits: Vec<Traits>,
    /// The place of each member by its id.
    places: Vec<u32>,
    /// Ids that are free.
    free: Vec<MemberId>,
    /// Members by the ids that requests use.
    by_endpoint: HashMap<EndpointId, MemberId>,
}

/// The place of a free id.
const NOWHERE: u32 = u32::MAX;

impl<K: Eq + Hash + 'static, S, L> Members<K, S, L> {
    pub(super) fn new() -> Self {
        Self {
            index: HashMap::new(),
            members: Vec::new(),
            traits: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            by_endpoint: HashMap::new(),
        }
    }

    /// All members, in the order of their places.
    pub(super) fn all(&self) -> &[Member<S, L>] {
        &self.members
    }

    pub(super) fn all_mut(&mut self) -> &mut [Member<S, L>] {
        &mut self.members
    }

    /// All members with their names.
    pub(super) fn named(&self) -> impl Iterator<Item = (&K, &Member<S, L>)> {
        let named = self.index.iter();
        named.filter_map(|(name, id)| Some((name, self.get(*id)?)))
    }

    /// The attributes for the rules of the topology of the member at `place`.
    pub(super) fn traits_at(&self, place: usize) -> Option<&Traits> {
        self.traits.get(place)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member<S, L>> {
        Some(&self.members[self.place(id)?])
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member<S, L>> {
        let place = self.place(id)?;
        Some(&mut self.members[place])
    }

    fn place(&self, id: MemberId) -> Option<usize> {
        let place = *self.places.get(id.index())?;
        (place != NOWHERE).then_some(place as usize)
    }

    pub(super) fn find(&self, name: &K) -> Option<MemberId> {
        self.index.get(name).copied()
    }

    /// Finds a member by the user's key.
    pub(super) fn find_key(&self, key: &Key) -> Option<MemberId> {
        let any: &dyn Any = key;
        if let Some(name) = any.downcast_ref::<K>() {
            return self.find(name);
        }
        let mut members = self.members.iter();
        members.find(|member| member.key() == key).map(Member::id)
    }

    /// Finds a member by the id that requests use.
    pub(super) fn find_endpoint(&self, id: EndpointId) -> Option<&Member<S, L>> {
        self.get(*self.by_endpoint.get(&id)?)
    }

    /// An id for a member that will be [added](Self::add).
    pub(super) fn next_id(&mut self) -> MemberId {
        self.free.pop().unwrap_or_else(|| {
            let id = self.places.len();
            make_room(&mut self.places, id + 1);
            self.places.push(NOWHERE);
            MemberId::new(id)
        })
    }

    /// Adds a member after all others.
    pub(super) fn add(&mut self, name: K, member: Member<S, L>, topology: &Topology) {
        let place = self.members.len();
        let id = member.id();
        self.index.insert(name, id);
        self.places[id.index()] = place as u32;
        self.by_endpoint.insert(member.state().id(), id);
        make_room(&mut self.members, place + 1);
        self.members.push(member);
        self.look_at(place, topology);
    }

    /// Removes a member. The last member moves to its place.
    pub(super) fn remove(&mut self, name: &K) -> Option<(K, Member<S, L>)> {
        let (name, id) = self.index.remove_entry(name)?;
        let place = self.place(id)?;
        let member = self.members.swap_remove(place);
        if place < self.traits.len() {
            self.traits.swap_remove(place);
        }
        self.places[id.index()] = NOWHERE;
        self.forget_endpoint(member.state().id(), id);
        self.free.push(id);
        if let Some(moved) = self.members.get(place) {
            self.places[moved.id().index()] = place as u32;
        }
        let left = self.members.len();
        make_room(&mut self.members, left);
        Some((name, member))
    }

    /// Makes a member use another state and start slow start at `age`. Returns the old state.
    pub(super) fn renew(
        &mut self,
        id: MemberId,
        state: Held<L>,
        age: Option<Age>,
    ) -> Option<Held<L>> {
        let endpoint = state.id();
        let old = self.get_mut(id)?.renew(state, age);
        self.forget_endpoint(old.id(), id);
        self.by_endpoint.insert(endpoint, id);
        Some(old)
    }

    fn forget_endpoint(&mut self, endpoint: EndpointId, id: MemberId) {
        // Endpoint ids repeat after a million, so another member may have this one now.
        if self.by_endpoint.get(&endpoint) == Some(&id) {
            self.by_endpoint.remove(&endpoint);
        }
    }

    /// Reads the facts of a member.
    pub(super) fn look(&mut self, id: MemberId, topology: &Topology) {
        if let Some(place) = self.place(id) {
            self.look_at(place, topology);
        }
    }

    /// Reads the facts of all members. `changed` gets those whose weight has changed.
    pub(super) fn look_at_all(
        &mut self,
        topology: &Topology,
        mut changed: impl FnMut(&Member<S, L>),
    ) {
        for place in 0..self.members.len() {
            let before = self.members[place].weight();
            self.look_at(place, topology);
            if self.members[place].weight() != before {
                changed(&self.members[place]);
            }
        }
    }

    fn look_at(&mut self, place: usize, topology: &Topology) {
        let member = &mut self.members[place];
        member.look();
        if topology.is_plain() {
            return;
        }
        let instance = member.instance();
        if let Some(split) = topology.as_split() {
            let canary = split.is_canary(instance.as_deref());
            member.state().set_canary(canary);
        }
        let traits = topology.traits(member.key(), instance.as_deref());
        if place < self.traits.len() {
            self.traits[place] = traits;
        } else {
            self.traits.push(traits);
        }
    }
}
