//! One after the other, whatever their load and weight.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rand::{RngExt, rngs::SmallRng};

use super::{Candidate, Draw, Picker, Policy, Set};
use crate::endpoint::load::InFlight;

/// Each endpoint in its turn. Weights are not heeded, except 0; see `WeightedRoundRobin` for those.
///
/// Starts at a random endpoint for each set, so that clients which learn of a change together do not
/// all go to the same endpoint first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundRobin;

impl RoundRobin {
    /// The policy.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for RoundRobin {
    type Load = InFlight;
    type Picker = Turn;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Turn {
        Turn(AtomicUsize::new(rng.random_range(0..candidates.len())))
    }
}

/// Whose turn it is. Relaxed: only the number counts.
#[derive(Debug)]
pub struct Turn(AtomicUsize);

impl<L: crate::endpoint::load::LoadTracker> Picker<L> for Turn {
    #[inline]
    fn pick(&self, set: &Set<'_, L>, _: &mut Draw<'_>) -> usize {
        self.0.fetch_add(1, Relaxed) % set.len()
    }
}
