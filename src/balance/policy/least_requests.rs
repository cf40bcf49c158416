//! The fewest requests in flight.
//!
//! A small set is looked at as a whole; in a larger one the better of two drawn at random is nearly as
//! good ([`P2c`](super::P2c)) and costs the same however many there are.
//!
//! Weights mean here what they mean there: one endpoint is drawn by weight, and another takes its place
//! when that has clearly fewer in flight, both counted in requests of the lighter of the two. So an idle
//! set gets exactly its shares, and ties are decided by weight.

use rand::{Rng, rngs::SmallRng};

use super::{
    Candidate, Draw, Picker, Policy, Set,
    alias::{Shares, below, pair},
    p2c::has_fewer,
};
use crate::endpoint::load::{InFlight, LoadTracker};

/// Sets up to here are looked at as a whole: as many cache lines as a core fetches in the time that a
/// request costs anyhow.
const SCAN: usize = 16;

/// The endpoint with the fewest requests in flight relative to its weight.
///
/// The best of all in sets up to [`scan_up_to`](Self::scan_up_to) endpoints, else the better of two. It
/// measures nothing but its own requests, so an endpoint that fails fast looks idle: put something
/// that ejects failing endpoints beside it, or use [`P2c::peak_ewma`](super::P2c::peak_ewma).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastRequests {
    scan: usize,
}

impl LeastRequests {
    /// The policy, which looks at all of up to 16 endpoints.
    pub fn new() -> Self {
        Self { scan: SCAN }
    }

    /// Sets the largest set that is looked at as a whole; 16 by default. 0 always takes the better of two,
    /// as [`P2c::in_flight`](super::P2c::in_flight) does. Large makes a pick cost a few nanoseconds for
    /// each endpoint, and clients without requests of their own choose alike.
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
        let shares = Shares::new(candidates);
        let scans = candidates.len() <= self.scan;
        Fewest { shares, scans }
    }
}

#[derive(Debug)]
pub struct Fewest {
    shares: Shares,
    scans: bool,
}

impl<L: LoadTracker> Picker<L> for Fewest {
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
        match &self.shares {
            Shares::Even(1) => 0,
            Shares::Even(len) => {
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
            Shares::Weighted(alias) => {
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

/// The one that would be used least with one request more.
fn least_used<L: LoadTracker>(set: &Set<'_, L>, weights: &[f32], draw: &mut Draw<'_>) -> usize {
    let used = |index| (set.in_flight(index) as f64 + 1.0) / f64::from(weights[index]);
    least(weights.len(), used, draw)
}

/// The index with the least score, any of them when there are several.
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
    // Others may have begun or ended requests between the two passes.
    tied.nth(choice).unwrap_or(0)
}
