//! The endpoint with the fewest requests in flight. [`LeastRequests`] describes the rule.

use rand::{Rng, rngs::SmallRng};

use super::{
    Candidate, CandidateSet, Draw, Picker, Policy,
    alias::{Chances, below, pair},
    less_loaded::has_fewer,
};
use crate::endpoint::load::{InFlight, LoadTracker};

/// Sets of up to this number of endpoints are read as a whole. A core fetches this number of cache lines
/// in the time that a request costs anyway.
const SCAN: usize = 16;

/// The endpoint with the fewest requests in flight relative to its weight.
///
/// It compares all endpoints of a set of up to [`scan_up_to`](Self::scan_up_to), and two drawn at random
/// of a larger set. The better of two is nearly as good as the best of all, and costs the same for any
/// number of endpoints.
///
/// One endpoint is drawn by weight. Another endpoint gets the request when it has clearly fewer requests
/// in flight, counted in requests of the lighter of the two, as with [`P2c`](super::P2c). So an idle set
/// gets exactly its shares.
///
/// It measures only its own requests in flight, so an endpoint that fails fast looks idle. Combine it
/// with ejection of failing endpoints, or use [`P2c::peak_ewma`](super::P2c::peak_ewma).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastRequests {
    scan: usize,
}

impl LeastRequests {
    /// Creates the policy. It compares all endpoints of sets of up to 16.
    pub fn new() -> Self {
        Self { scan: SCAN }
    }

    /// Sets the size of the largest set that is compared as a whole, in endpoints; 16 by default. With
    /// 0, each pick compares two endpoints, as [`P2c::in_flight`](super::P2c::in_flight) does. With a
    /// large number, a pick costs a few nanoseconds for each endpoint, and clients with few requests of
    /// their own tend to choose the same endpoints.
    #[must_use]
    pub fn scan_up_to(mut self, endpoints: usize) -> Self {
        self.scan = endpoints;
        self
    }
}

impl Default for LeastRequests {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for LeastRequests {
    type Load = InFlight;
    type Picker = Fewest;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> Fewest {
        let shares = Chances::new(candidates);
        let scans = candidates.len() <= self.scan;
        Fewest { shares, scans }
    }
}

#[derive(Debug)]
pub struct Fewest {
    shares: Chances,
    scans: bool,
}

impl<L: LoadTracker> Picker<L> for Fewest {
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        match &self.shares {
            Chances::Even(1) => 0,
            Chances::Even(len) => {
                let (first, second) = pair(*len, draw.rng.next_u64());
                let in_flight = set.in_flight(first);
                if in_flight == 0 {
                    return first;
                }
                let second = if self.scans {
                    least(*len, |index| set.in_flight(index) as f64, draw)
                } else {
                    second
                };
                if set.in_flight(second) < in_flight {
                    second
                } else {
                    first
                }
            }
            Chances::Weighted(alias) => {
                let first = alias.next(draw);
                if set.in_flight(first) == 0 {
                    return first;
                }
                let weights = alias.weights();
                let second = if self.scans {
                    least_used(set, weights, draw)
                } else {
                    alias.next(draw)
                };
                if has_fewer(set, [first, second], weights) {
                    second
                } else {
                    first
                }
            }
        }
    }
}

/// The endpoint with the least load after one more request, relative to its weight.
fn least_used<L: LoadTracker>(
    set: &CandidateSet<'_, L>,
    weights: &[f32],
    draw: &mut Draw<'_>,
) -> usize {
    let used = |index| (set.in_flight(index) as f64 + 1.0) / f64::from(weights[index]);
    least(weights.len(), used, draw)
}

/// The index with the least score. When several have the least score, one of them is drawn at random.
fn least(len: usize, score: impl Fn(usize) -> f64, draw: &mut Draw<'_>) -> usize {
    let (mut least, mut ties) = (f64::INFINITY, 0);
    for score in (0..len).map(&score) {
        if score < least {
            (least, ties) = (score, 1);
        } else if score == least {
            ties += 1;
        }
    }
    let choice = below(ties, draw.rng.next_u64());
    let mut tied = (0..len).filter(|index| score(*index) <= least);
    // Other threads may have started or ended requests between the two passes, so the index may not
    // exist.
    tied.nth(choice).unwrap_or(0)
}
