//! Consistent hashing on a ring.
//!
//! Each endpoint has many points on a ring, at hashes of its key; a request belongs to the endpoint whose
//! point follows the request's hash. A new endpoint takes keys from all and gives none to others; when
//! one goes, its keys go to all others and no other key moves ([*Consistent hashing and random trees*]).
//!
//! # How many points
//! Shares are as even as points are many: with `T` points in all, an endpoint that should get the share `p`
//! gets `p ± √(p (1 - p) / T)`. With the default of 8 192 for an endpoint of mean weight that is 10 % ± 0.1 %
//! for each of ten. Rings are usually made of a fixed number of points in all, and then every
//! change of the set changes everybody's points, which moves as many keys again. Here the points of
//! an endpoint depend on its own weight and on the order of magnitude of the mean, up to a most in all:
//! only beyond that (by default, beyond 128 endpoints) do all others get a few points more when one goes.
//!
//! # What it costs
//! The points are not searched: the ring is cut into 524 288 places, and a table holds the owner of each, which is
//! whose point comes first from there on. That moves no more keys than the points do, takes 1 MB whatever
//! the number of points, and makes a lookup one read. It is made from the points without sorting them, in
//! 1 to 15 ms, on a thread for blocking work. [`Maglev`](super::Maglev) is more even, but moves more keys.
//!
//! [*Consistent hashing and random trees*]: https://doi.org/10.1145/258533.258660

use std::num::NonZeroU32;

use rand::rngs::SmallRng;

use super::{
    Candidate, Policy,
    hash::mix,
    hashed::{Bound, Hashed, Owners, Ranked, Table, ranked},
};
use crate::{endpoint::load::InFlight, error::ConfigError};

/// Of an endpoint of mean weight. Ten endpoints are within 1 % (relative), and removing one of three
/// moves a third ± 0.3 % of the keys.
const POINTS: u32 = 8_192;

/// In all: two for each place.
const MOST: u32 = 1 << 20;

/// The places of a ring, as a power of two: as many as a second-level cache holds, and fifty for each of
/// 10 000 endpoints. Always the same, because a finer ring is another one.
const PLACES: u32 = 19;

/// Consistent hashing on a ring: requests with the same key go to the same endpoint, in every client.
///
/// The key's hash comes with the request; see [`hash_key`](super::hash_key). Requests without one go
/// to any endpoint, by weight. When the owner is ejected, was tried before or has too much to do, the
/// next on the ring takes its place.
///
/// # Examples
/// ```
/// use rand::{SeedableRng, rngs::SmallRng};
/// use tower_roster::balance::policy::{Draw, RingHash, Trial, hash_key};
///
/// let mut rng = SmallRng::seed_from_u64(7);
/// let trial = Trial::new(&RingHash::new(), &[1.0, 1.0, 1.0], &mut rng);
/// let hash = Some(hash_key(b"user-17"));
/// let first = trial.pick(&mut Draw::new(&mut rng).hash(hash));
/// assert_eq!(trial.pick(&mut Draw::new(&mut rng).hash(hash)), first);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RingHash {
    points: u32,
    most: u32,
    bound: Bound,
}

impl RingHash {
    /// The policy, with 8 192 points for an endpoint, 1 048 576 at most in all, and a load factor of 1.25.
    pub fn new() -> Self {
        Self {
            points: POINTS,
            most: MOST,
            bound: Bound::default(),
        }
    }

    /// Sets the points of an endpoint of about the mean weight; 8 192 by default. Others have points in
    /// proportion. Few make uneven shares (100 points: ± 10 %), many a ring that takes longer to make. All
    /// clients must agree on it.
    #[must_use]
    pub fn points(mut self, points: NonZeroU32) -> Self {
        self.points = points.get();
        self
    }

    /// Sets the most points of a ring, about; 1 048 576 by default. Each endpoint has at least one,
    /// whatever is set here. All clients must agree on it.
    #[must_use]
    pub fn max_points(mut self, points: NonZeroU32) -> Self {
        self.most = points.get();
        self
    }

    /// Sets how much of its due an endpoint may have in flight before its keys go on to the next, from 1
    /// to 1000; 1.25 by default. At 1 load is as even as it can be and many requests miss their owner;
    /// large values only stop keys that are very hot.
    ///
    /// # Errors
    /// When it is out of range or not a number.
    pub fn load_factor(mut self, factor: f64) -> Result<Self, ConfigError> {
        self.bound = Bound::new("RingHash::load_factor", factor)?;
        Ok(self)
    }

    /// Lets an endpoint have any number of requests in flight.
    #[must_use]
    pub fn unbounded(mut self) -> Self {
        self.bound = Bound(None);
        self
    }
}

impl Default for RingHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for RingHash {
    type Load = InFlight;
    type Picker = Hashed<Ring>;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> Hashed<Ring> {
        let ranked = ranked(candidates);
        let ring = Ring::new(candidates, &ranked, self.points, self.most);
        Hashed::new(ring, candidates, &ranked, self.bound)
    }

    /// Always: a ring has as many places for few as for many, and takes a millisecond or more.
    fn is_costly(&self, _: usize) -> bool {
        true
    }
}

/// The owner of each place.
#[derive(Debug)]
pub struct Ring(Owners);

impl Ring {
    fn new(candidates: &[Candidate], ranked: &[Ranked], points: u32, most: u32) -> Self {
        let len = ranked.len() as f64;
        // Up to a power of two, points depend on the weight alone and not on the mean, so that they
        // stay the same through most changes.
        let first = &ranked[0];
        let mean = candidates[first.index].weight.log2() - (first.due * len).log2();
        let beyond = (mean - mean.round()).exp2();
        let beyond = if beyond.is_finite() { beyond } else { 1.0 };
        let total = (f64::from(points) * beyond * len).min(f64::from(most));
        // The first point within each place, and whose it is. Where two are at the same spot, the order
        // of their keys decides.
        let mut firsts = vec![u64::MAX; 1 << PLACES];
        for (rank, one) in ranked.iter().enumerate() {
            let count = (one.due * total).round();
            for point in 0..(count as u64).max(1) {
                let spot = mix(one.hash.wrapping_add(mix(point))) >> 32;
                let first = &mut firsts[(spot >> (32 - PLACES)) as usize];
                *first = (*first).min((spot << 32) | rank as u64);
            }
        }
        // Where there is none, the next one owns it, round the end.
        let found = firsts.iter().copied().find(|first| *first < u64::MAX);
        let mut next = found.unwrap_or(0);
        for first in firsts.iter_mut().rev() {
            if *first == u64::MAX {
                *first = next;
            }
            next = *first;
        }
        let owner = |first: u64| ranked[(first & 0xFFFF_FFFF) as usize].index as u32;
        let owners: Vec<u32> = firsts.into_iter().map(owner).collect();
        Self(Owners::new(&owners))
    }
}

impl Table for Ring {
    #[inline]
    fn owners(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = (hash >> (64 - PLACES)) as usize;
        let places = (first..1 << PLACES).chain(0..first);
        places.map(|place| self.0.get(place))
    }
}
