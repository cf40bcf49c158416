//! The driver's record of one endpoint that discovery lists.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    balance::pick::state::{BesideGate, Held},
    endpoint::{
        Age, Facts,
        eject::{EjectStep, EndpointHealth, GateState, StepKind},
        load::LoadTracker,
    },
    instance::{Address, Instance, Key, Weight},
    task::caught,
};

/// Identifies a member while it is listed. Afterwards another member may get the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MemberId(u32);

impl MemberId {
    pub(super) fn new(index: usize) -> Self {
        Self(index as u32)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The data that discovery delivers for an endpoint: its service, and the registry's facts if discovery is
/// one of this crate's own.
pub(super) struct ListedEndpoint<S> {
    service: Arc<S>,
    facts: Option<Arc<Facts>>,
    /// The address at this moment. The facts are shared with those of the service before, so the address in
    /// them has changed there too.
    address: Option<Address>,
}

impl<S> ListedEndpoint<S> {
    pub(super) fn new(service: S, facts: Option<Arc<Facts>>) -> Self {
        Self {
            service: Arc::new(service),
            address: facts.as_ref().map(|facts| facts.instance().address.clone()),
            facts,
        }
    }

    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    pub(super) fn shared_facts(&self) -> Option<Arc<Facts>> {
        self.facts.clone()
    }

    pub(super) fn weight(&self) -> Weight {
        self.facts().map_or(Weight::ONE, Facts::weight)
    }

    /// Whether its address differs from `before`. An unknown address counts as equal.
    pub(super) fn is_elsewhere(&self, before: Option<&Address>) -> bool {
        let both = self.address.as_ref().zip(before);
        both.is_some_and(|(now, before)| now != before)
    }

    /// The generation of its registration, if the registry reports one; else 0.
    pub(super) fn generation(&self) -> u64 {
        generation(self.facts())
    }
}

fn generation(facts: Option<&Facts>) -> u64 {
    facts.map_or(0, |facts| facts.instance().generation)
}

/// One endpoint that discovery lists.
pub(super) struct Member<S, L> {
    id: MemberId,
    state: Held<L>,
    service: Arc<S>,
    facts: Option<Arc<Facts>>,
    /// The address that its service sends to, if known. The facts may already have a newer one.
    address: Option<Address>,
    since: Instant,
    /// Its age in slow start; `None` once it is warm.
    age: Option<Age>,
    /// The weight at the last reading of the facts.
    weight: Weight,
    by_hand: Option<Weight>,
    /// Whether it has a weight, as last reported to the ejector.
    weighs: bool,
    /// Whether its gate is not open. Stored here, because reading each gate for each snapshot would load
    /// all states from memory.
    out: bool,
}

impl<S, L> Member<S, L> {
    pub(super) fn new(
        id: MemberId,
        state: Held<L>,
        listing: ListedEndpoint<S>,
        now: Instant,
    ) -> Self {
        let weight = listing.weight();
        Self {
            id,
            state,
            service: listing.service,
            facts: listing.facts,
            address: listing.address,
            since: now,
            age: None,
            weight,
            by_hand: None,
            weighs: weight > Weight::ZERO,
            out: false,
        }
    }

    /// Restores its earlier state.
    pub(super) fn resume(&mut self, age: Option<Age>, by_hand: Option<Weight>) {
        self.age = age;
        self.by_hand = by_hand;
        self.weighs = self.weight() > Weight::ZERO;
    }

    pub(super) fn id(&self) -> MemberId {
        self.id
    }

    pub(super) fn state(&self) -> &Held<L> {
        &self.state
    }

    /// Its id, and the counts of its requests.
    pub(super) fn health(&self) -> (&MemberId, &EndpointHealth<BesideGate<L>>) {
        (&self.id, &self.state.health)
    }

    pub(super) fn key(&self) -> &Key {
        &self.state.key
    }

    pub(super) fn service(&self) -> &Arc<S> {
        &self.service
    }

    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    pub(super) fn instance(&self) -> Option<Arc<Instance>> {
        self.facts.as_ref().map(|facts| facts.instance())
    }

    pub(super) fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    pub(super) fn generation(&self) -> u64 {
        generation(self.facts())
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Its age in slow start; `None` once it is warm.
    pub(super) fn age(&self) -> Option<Age> {
        self.age
    }

    pub(super) fn age_mut(&mut self) -> &mut Option<Age> {
        &mut self.age
    }

    /// Its weight: that set by hand, or else the registry's.
    pub(super) fn weight(&self) -> Weight {
        self.by_hand.unwrap_or(self.weight)
    }

    pub(super) fn weight_by_hand(&self) -> Option<Weight> {
        self.by_hand
    }

    pub(super) fn set_weight_by_hand(&mut self, weight: Option<Weight>) {
        self.by_hand = weight;
    }

    /// Whether it has a weight, if that has changed since the last call; else `None`.
    pub(super) fn weighs_otherwise(&mut self) -> Option<bool> {
        let weighs = self.weight() > Weight::ZERO;
        (std::mem::replace(&mut self.weighs, weighs) != weighs).then_some(weighs)
    }

    /// Whether it is ejected or probed.
    pub(super) fn is_out(&self) -> bool {
        self.out
    }

    /// Whether it accepts a request as a probe.
    pub(super) fn is_on_trial(&self) -> bool {
        let gate = self.state.health.gate();
        matches!(gate, GateState::ProbeReady | GateState::Probing)
    }

    /// Reads its facts.
    pub(super) fn look(&mut self) {
        if let Some(facts) = &self.facts {
            self.weight = facts.weight();
        }
    }

    /// Uses another service from now on. Returns whether the facts are other ones, too.
    pub(super) fn serve_with(&mut self, listing: ListedEndpoint<S>) -> bool {
        self.service = listing.service;
        let is_known = listing.facts.is_some();
        if is_known {
            (self.facts, self.address) = (listing.facts, listing.address);
        }
        is_known
    }

    /// Uses another state, for another process, and starts slow start at `age`. Returns the old state.
    pub(super) fn renew(&mut self, state: Held<L>, age: Option<Age>) -> Held<L> {
        (self.age, self.out) = (age, false);
        std::mem::replace(&mut self.state, state)
    }

    /// Applies a decision of the ejector. Slow start begins anew when the endpoint is restored.
    pub(super) fn follow(&mut self, step: &EjectStep<MemberId>, now: Instant)
    where
        L: LoadTracker,
    {
        self.state.health.follow(step);
        match step.kind {
            StepKind::Ejected { .. } => {
                self.out = true;
                // Slow start begins anew when it is restored.
                self.age = None;
            }
            StepKind::Probe => self.out = true,
            StepKind::Restored { .. } => {
                let tracker = self.state.tracker();
                // If the tracker panics here, it keeps its state.
                caught(|| tracker.forget(now));
                (self.age, self.out) = (Some(Age::default()), false);
            }
            StepKind::Spared { .. } => {}
        }
    }
}
