//! Who is listed, and who was.

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
        state::Held,
        topology::{Topology, Traits},
    },
    endpoint::{Facts, eject::Cause},
    instance::Weight,
};

/// Who is listed, and who was.
pub(in crate::balance) struct Roll<K, S, L> {
    pub(super) index: HashMap<K, usize>,
    pub(super) members: Vec<Member<K, S, L>>,
    /// The states of those that left, for when they come back, and until when.
    pub(super) gone: HashMap<K, Gone<L>>,
    /// Those that left with requests in flight. Their services are kept until the deadline.
    pub(super) draining: HashMap<EndpointId, Draining<S, L>>,
    /// The members in the snapshot, in its order, by the ids of their states.
    pub(super) numbered: Vec<EndpointId>,
    /// What moves on when the facts of any member change.
    pub(super) revisions: Revisions,
}

pub(super) struct Member<K, S, L> {
    pub(super) name: K,
    pub(super) state: Held<L>,
    pub(super) service: Arc<S>,
    pub(super) facts: Option<Arc<Facts>>,
    /// As of the last look at the facts.
    pub(super) weight: Weight,
    pub(super) by_hand: Option<Weight>,
    /// What the rules of the topology know of it, where there are any.
    pub(super) traits: Option<Traits>,
    pub(super) since: Instant,
    /// Since when it is in slow start.
    pub(super) ramp: Option<Instant>,
    /// Requests that went to it, as of the last time that they were collected.
    pub(super) requests: u64,
}

pub(super) struct Gone<L> {
    pub(super) state: Held<L>,
    pub(super) until: Instant,
    /// Why it was out when it left.
    pub(super) cause: Option<Cause>,
    pub(super) by_hand: Option<Weight>,
    pub(super) requests: u64,
}

pub(super) struct Draining<S, L> {
    pub(super) state: Held<L>,
    pub(super) _service: Arc<S>,
    pub(super) deadline: Instant,
}

impl<K, S, L> Member<K, S, L> {
    pub(super) fn weight(&self) -> Weight {
        self.by_hand.unwrap_or(self.weight)
    }

    /// Reads the facts.
    pub(super) fn look(&mut self, topology: &Topology) {
        if let Some(facts) = &self.facts {
            self.weight = facts.weight();
        }
        if topology.is_plain() {
            return;
        }
        let instance = self.facts.as_ref().map(|facts| facts.instance());
        if let Some(split) = topology.as_split() {
            self.state.set_canary(split.is_canary(instance.as_deref()));
        }
        self.traits = Some(topology.traits(&self.state.key, instance.as_deref()));
    }
}

impl<K, S, L> Roll<K, S, L> {
    pub(in crate::balance) fn new() -> Self {
        Self {
            index: HashMap::new(),
            members: Vec::new(),
            gone: HashMap::new(),
            draining: HashMap::new(),
            numbered: Vec::new(),
            revisions: Revisions::default(),
        }
    }

    /// Adds the picks that a snapshot saw to its members, also to those that have left.
    pub(super) fn count(&mut self, picked: &[u64]) {
        // Mostly nobody came or went, and then the orders agree.
        let mut rest: HashMap<EndpointId, u64> = HashMap::new();
        for (number, (id, picks)) in self.numbered.iter().zip(picked).enumerate() {
            match self.members.get_mut(number) {
                Some(member) if member.state.id() == *id => member.requests += picks,
                _ => *rest.entry(*id).or_default() += picks,
            }
        }
        if !rest.is_empty() {
            let listed = self.members.iter_mut();
            let listed = listed.map(|m| (m.state.id(), &mut m.requests));
            let gone = self.gone.values_mut();
            let gone = gone.map(|gone| (gone.state.id(), &mut gone.requests));
            for (id, requests) in listed.chain(gone) {
                *requests += rest.get(&id).copied().unwrap_or_default();
            }
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
        let count = facts.count();
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
