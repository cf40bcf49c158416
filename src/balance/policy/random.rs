//! Any of them, whatever their load.

use rand::{Rng, rngs::SmallRng};

use super::{
    Candidate, Draw, Picker, Policy, Set,
    alias::{Shares, below},
};
use crate::endpoint::load::{InFlight, LoadTracker};

/// Any endpoint, each as likely as the others. Weights are not heeded, except 0.
///
/// Needs nothing but a random number. Prefer [`P2c`](super::P2c) or
/// [`WeightedRoundRobin`](super::WeightedRoundRobin): of `m` requests to `n` endpoints one of these gets
/// about `√(2 m ln n / n)` more than its due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Random;

impl Random {
    /// The policy.
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
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
        below(set.len(), draw.rng.next_u64())
    }
}

/// Any endpoint, as likely as its weight says.
///
/// One random number and, when weights differ, one cache line of a table (the alias method); the
/// same time for any number of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightedRandom;

impl WeightedRandom {
    /// The policy.
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
        ByWeight(Shares::new(candidates))
    }
}

#[derive(Debug)]
pub struct ByWeight(Shares);

impl<L: LoadTracker> Picker<L> for ByWeight {
    fn pick(&self, _: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
        self.0.one(draw.rng)
    }
}
