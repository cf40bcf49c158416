//! Endpoints without services, to try a policy on.

use std::{cell::RefCell, sync::Arc};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{Candidate, CandidateSet, Draw, Picker, Policy};
use crate::{
    attempt::EndpointId,
    balance::pick::state::{Common, Held, SharedState},
    endpoint::{eject::Round, load::LoadTracker},
    instance::Key,
};

/// A set of endpoints without services, to test a policy.
///
/// # Examples
/// ```
/// use rand::{SeedableRng, rngs::SmallRng};
/// use tower_roster::balance::policy::{Draw, RoundRobin, Trial};
///
/// let mut rng = SmallRng::seed_from_u64(7);
/// let trial = Trial::new(&RoundRobin::new(), &[1.0, 1.0, 1.0], &mut rng);
/// let picks: Vec<usize> = (0..3).map(|_| trial.pick(&mut Draw::new(&mut rng))).collect();
/// assert_eq!(picks.iter().sum::<usize>(), 3, "each of 0, 1 and 2 once");
/// ```
pub struct Trial<P: Policy> {
    states: Vec<Held<P::Load>>,
    /// The requests in flight.
    requests: RefCell<Vec<TrialRequest<P::Load>>>,
    picker: P::Picker,
}

/// A request in flight: the index of its endpoint, and the guard that counts it.
type TrialRequest<L> = (usize, SharedState<L>);

impl<P: Policy> Trial<P> {
    /// Prepares `policy` for endpoints with the keys `0`, `1`, … and these weights.
    ///
    /// # Panics
    /// Panics when `weights` is empty.
    #[inline]
    pub fn new(policy: &P, weights: &[f64], rng: &mut SmallRng) -> Self {
        let key = |index: usize| Key::new(index.to_string(), "");
        let candidates = weights.iter().enumerate();
        let candidates = candidates.map(|(i, weight)| Candidate::new(key(i), *weight));
        Self::with_candidates(policy, &candidates.collect::<Vec<_>>(), rng)
    }

    /// Prepares `policy` for these candidates.
    ///
    /// # Panics
    /// Panics when `candidates` is empty.
    pub fn with_candidates(policy: &P, candidates: &[Candidate<'_>], rng: &mut SmallRng) -> Self {
        assert!(!candidates.is_empty(), "a policy prepares for candidates");
        let now = Instant::now();
        let (tracker, common) = (policy.tracker(), Arc::new(Common::lonely()));
        let state = |candidate: &Candidate<'_>| {
            Held::new(
                Key::clone(&candidate.key),
                tracker.fresh(now),
                Round::default(),
                Arc::clone(&common),
            )
        };
        Self {
            states: candidates.iter().map(state).collect(),
            requests: RefCell::default(),
            picker: policy.prepare(candidates, rng),
        }
    }

    /// Picks an endpoint and returns its index.
    pub fn pick(&self, draw: &mut Draw<'_>) -> usize {
        self.picker.pick(&self.set(), draw)
    }

    /// Returns the endpoints as the picker sees them.
    pub fn set(&self) -> CandidateSet<'_, P::Load> {
        CandidateSet::new(&self.states)
    }

    /// Returns the identity of an endpoint, as [`Tried`](crate::attempt::Tried) stores it.
    pub fn id(&self, index: usize) -> EndpointId {
        self.set().id(index)
    }

    /// Starts a request on an endpoint.
    pub fn start(&self, index: usize, now: Instant) {
        self.states[index].tracker().start(now);
        let request = (index, self.states[index].begin());
        self.requests.borrow_mut().push(request);
    }

    /// Ends a request on an endpoint.
    pub fn end(
        &self,
        index: usize,
        outcome: crate::classify::Outcome,
        rtt: std::time::Duration,
        now: Instant,
    ) {
        let state = &self.states[index];
        state.tracker().record(outcome, rtt, now);
        let mut requests = self.requests.borrow_mut();
        if let Some(at) = requests.iter().position(|(of, _)| *of == index) {
            requests.swap_remove(at);
        }
    }
}

impl_debug!([P: Policy] Trial<P>: |this| endpoints = this.states.len());
