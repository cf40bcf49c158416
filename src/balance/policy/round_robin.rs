//! One endpoint after the other, whatever their load and weight.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rand::{RngExt, rngs::SmallRng};

use super::{Candidate, CandidateSet, Draw, Picker, Policy};
use crate::endpoint::load::InFlight;

/// One endpoint after the other. Weights are ignored, except 0;
/// [`WeightedRoundRobin`](super::WeightedRoundRobin) uses them.
///
/// Each set starts at a random endpoint, so that clients which discover a change at the same time do not
/// all send their next request to the same endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundRobin;

impl RoundRobin {
    /// Creates the policy.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for RoundRobin {
    type Load = InFlight;
    type Picker = RoundRobinPicker;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> RoundRobinPicker {
        RoundRobinPicker(AtomicUsize::new(rng.random_range(0..candidates.len())))
    }
}

/// The number of picks so far, from a random start. Relaxed: it is only a counter and orders no other
/// memory.
#[derive(Debug)]
pub struct RoundRobinPicker(AtomicUsize);

impl<L: crate::endpoint::load::LoadTracker> Picker<L> for RoundRobinPicker {
    #[inline]
    fn pick(&self, set: &CandidateSet<'_, L>, _: &mut Draw<'_>) -> usize {
        self.0.fetch_add(1, Relaxed) % set.len()
    }
}
