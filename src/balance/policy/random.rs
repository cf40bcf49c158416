//! Random picks, whatever the load of the endpoints.

use rand::{Rng, rngs::SmallRng};

use super::{
    Candidate, CandidateSet, Draw, Picker, Policy,
    alias::{Chances, below},
};
use crate::endpoint::load::{InFlight, LoadTracker};

/// Any endpoint, each equally likely. Weights are ignored, except 0.
///
/// A pick needs only a random number. Prefer [`P2c`](super::P2c) or
/// [`WeightedRoundRobin`](super::WeightedRoundRobin): of `m` random picks among `n` endpoints, the
/// busiest endpoint gets about `√(2 m ln n / n)` more than its due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Random;

impl Random {
    /// Creates the policy.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for Random {
    type Load = InFlight;
    type Picker = Any;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> Any {
        Any
    }
}

#[derive(Debug)]
pub struct Any;

impl<L: LoadTracker> Picker<L> for Any {
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        below(set.len(), draw.rng.next_u64())
    }
}

/// Any endpoint, with a probability in proportion to its weight.
///
/// A pick needs one random number and, when weights differ, one cache line of a table (the alias
/// method). It takes the same time for any number of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightedRandom;

impl WeightedRandom {
    /// Creates the policy.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for WeightedRandom {
    type Load = InFlight;
    type Picker = ByWeight;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> ByWeight {
        ByWeight(Chances::new(candidates))
    }
}

#[derive(Debug)]
pub struct ByWeight(Chances);

impl<L: LoadTracker> Picker<L> for ByWeight {
    fn pick(&self, _: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        self.0.one(draw.rng)
    }
}
