//! Consistent hashing on a ring.
//!
//! Each endpoint has points on a ring of places, at hashes of its key; a request belongs to whoever owns
//! the place of its hash. A new endpoint takes keys from all and gives none to others; when one goes, its
//! keys go to all others and hardly any other key moves ([*Consistent hashing and random trees*]).
//!
//! # Points with times
//! On the usual ring whoever has the next point owns a key, and weights are numbers of points. But then
//! some number of points must stand for the weight 1, and whatever it depends on (the sum, the mean,
//! the largest) changes with the set: everybody gets points or loses some, and keys move between
//! endpoints that did not change. Here points also have a time: the `n`th point of an endpoint comes
//! at about `n / weight`, and a place belongs to whoever's point came first. Twice the weights are
//! half the times and the same ring. When a weight changes, keys move from or to that endpoint alone.
//! That is rendezvous hashing ([*Weighted distributed hash tables*]), without a look at each endpoint
//! for each place.
//!
//! After six points for each place, one place of 400 has none (`e⁻⁶`); the next one's owner has it,
//! and that is all that depends on the sum of weights.
//!
//! # Even shares
//! Chance makes shares uneven: each of 50 would be within 1 % of its due, and one of them 2 to 3 %
//! off it. So the times of an endpoint that has more are lengthened a little, and shortened of one that
//! has less, until shares are within 0.5 %. Of shares below 1 / 128 that would move more keys than the
//! one that goes; they may be off by more, the smaller the more.
//!
//! By how much changes with the set, but little. One goes; the worst of three ways of naming endpoints
//! and of four that go (`cargo bench --bench hashing`):
//!
//! | endpoints | weights | moved between others, of all keys | shares, of the due: least, 1 %, 99 %, most |
//! |---|---|---|---|
//! | 3 | equal | 0.08 % | 1.00, 1.00, 1.00, 1.00 |
//! | 10 | equal | 0.11 % | 0.995, 0.995, 1.005, 1.005 |
//! | 100 | equal | 0.08 % | 0.995, 0.995, 1.005, 1.006 |
//! | 300 | equal | 0.07 % | 0.99, 0.99, 1.01, 1.01 |
//! | 1 000 | equal | 0.04 % | 0.96, 0.96, 1.04, 1.04 |
//! | 10 000 | equal | 0.00 % | 0.61, 0.78, 1.24, 1.39 |
//! | 10 | 1 to 100 | 0.14 % | 0.98, 0.98, 1.02, 1.02 |
//! | 100 | 1 to 100 | 0.09 % | 0.94, 0.96, 1.08, 1.13 |
//! | 1 000 | 1 to 100 | 0.04 % | 0.48, 0.86, 1.18, 1.54 |
//!
//! # What it costs
//! A table of 524 288 places holds the owner of each: 1 MB (2 MB from 65 537 endpoints on), and a
//! look-up is one read. It is made in 32 to 55 ms and 10 MB whatever the number of endpoints, on a
//! thread for blocking work.
//!
//! # Why there is no Maglev
//! Until this ring was there, so was a Maglev table; its figures are from `cargo bench --bench hashing` then.
//! The usual reasons to prefer that to a ring are faster look-ups and even shares. This ring
//! is a table, too: a look-up is one read (12 ns among 10 000, 17 ns in a Maglev table of the same set),
//! and shares are within 0.5 % to 100 endpoints. What is left is how many keys move besides those that
//! must when one of `n` goes. A Maglev table by the paper's turns moved 8.5 / n of the keys from 513
//! endpoints to 512, and nearly all where the set's size asks for a table of another size; with races
//! for slots instead of turns it was 0.02 / n to 0.9 / n of 10 to 10 000 endpoints. Here it is 0.1 % of
//! the keys, 0.01 / n to 0.4 / n up to 1 000 endpoints. Only where 10 000 endpoints share keys are Maglev's
//! shares closer to their due (0.71 to 1.13, against 0.61 to 1.39).
//!
//! [*Consistent hashing and random trees*]: https://doi.org/10.1145/258533.258660
//! [*Weighted distributed hash tables*]: https://doi.org/10.1145/1073970.1074008

use std::num::NonZeroU32;

use rand::rngs::SmallRng;

use super::{
    Candidate, Policy,
    hashed::{Bound, Hashed, Places, Ranked, place, ranked},
};
use crate::{balance::pick::hash::mix, endpoint::load::InFlight, error::ConfigError};

/// The places of a ring, as a power of two: as many as a second-level cache holds, and fifty for each of
/// 10 000 endpoints. Always the same, because half of the keys have another owner on a finer ring.
const PLACES: u32 = 19;

/// The finest there is.
const FINEST: u32 = 24;

/// For each place. Those without one have an owner that depends on the set: one of 400 after six
/// points, one of 55 after four.
const POINTS: f64 = 6.0;

/// How far a share may be from its due, half of what is promised.
const OFF: f64 = 0.005;

/// The share below which it may be farther, in proportion: of 1 000 endpoints that goes twice as
/// many keys would move as must.
const SMALL: f64 = 1.0 / 128.0;

/// How often shares are looked at and times changed.
const ROUNDS: usize = 3;

/// Below any share that makes a difference, and its inverse is a number.
const LEAST: f64 = 1e-300;

/// Consistent hashing on a ring: requests with the same key go to the same endpoint, in every client.
///
/// Shares are within 1 % of the due from 1 % of all on; of 1 000 equal endpoints within 5 %, of 10 000
/// mostly within 20 %. Removing one moves its keys and at most 0.3 % of the others; and so does a new
/// weight.
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
    /// As a power of two.
    places: u32,
    bound: Bound,
}

impl RingHash {
    /// The policy, with 524 288 places and a load factor of 1.25.
    pub fn new() -> Self {
        Self {
            places: PLACES,
            bound: Bound::default(),
        }
    }

    /// Sets the number of places, rounded up to a power of two up to 16 777 216; 524 288 by default. Each
    /// takes two bytes and 50 ns to make. Fewer than 50 for each endpoint make shares uneven. A ring has
    /// always at least two places for each endpoint. All clients must agree on it.
    #[must_use]
    pub fn places(mut self, places: NonZeroU32) -> Self {
        self.places = power(places.get());
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
    type Picker = Hashed;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> Hashed {
        let ranked = ranked(candidates);
        let places = places(&ranked, self.places);
        Hashed::new(places, candidates, &ranked, self.bound)
    }

    /// Always: a ring has as many places for few as for many, and takes tens of milliseconds.
    fn is_costly(&self, _: usize) -> bool {
        true
    }
}

/// The power of two that is no less, within what there can be.
fn power(places: u32) -> u32 {
    places.clamp(2, 1 << FINEST).next_power_of_two().ilog2()
}

/// Who owns which place, of `1 << bits` or of as many as the set needs.
fn places(ranked: &[Ranked], bits: u32) -> Places {
    let bits = bits.max(power(2 * ranked.len() as u32));
    let points = points(ranked, bits);
    let mut slowed = vec![1.0; ranked.len()];
    for _ in 0..ROUNDS {
        let mut counts = vec![0_u32; ranked.len()];
        for point in &points {
            counts[point.owner(&slowed)] += 1;
        }
        for ((one, count), slowed) in ranked.iter().zip(counts).zip(&mut slowed) {
            // The same in all clients: only sums, products and quotients.
            let ratio = f64::from(count) / (one.due.max(LEAST) * points.len() as f64);
            let off = OFF * (SMALL / one.due.max(LEAST)).max(1.0);
            let beyond = if ratio > 1.0 + off {
                ratio / (1.0 + off)
            } else if ratio < 1.0 - off {
                ratio / (1.0 - off)
            } else {
                1.0
            };
            *slowed = (*slowed * beyond as f32).clamp(0.5, 2.0);
        }
    }
    let mut ranks: Vec<usize> = points.iter().map(|point| point.owner(&slowed)).collect();
    leave_nobody_out(&mut ranks, ranked, bits);
    let owners: Vec<u32> = ranks
        .iter()
        .map(|rank| ranked[*rank].index as u32)
        .collect();
    Places::new(&owners, bits)
}

/// The points of an endpoint, without end: hashes, whose upper bits are the place.
fn hashes(one: &Ranked) -> impl Iterator<Item = u64> {
    let first = mix(one.hash);
    (0..).map(move |n: u64| mix(first.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
}

/// The first point of a place and the first of anybody else, each as its time and its endpoint's rank.
/// Times are never negative, so their bits are in their order; where two are the same, that of their
/// keys decides.
#[derive(Clone, Copy)]
struct Point {
    first: u64,
    second: u64,
}

const NONE: u64 = u64::MAX;

impl Point {
    /// Of one endpoint, points must come in the order of their times.
    #[inline]
    fn add(&mut self, time: f32, rank: u32) {
        let new = u64::from(time.to_bits()) << 32 | u64::from(rank);
        // Nobody can foresee which is less, so there is no branch.
        let later = if self.first as u32 == rank {
            NONE
        } else {
            new.max(self.first)
        };
        self.first = new.min(self.first);
        self.second = later.min(self.second);
    }

    /// The rank of the owner, when the times of each are multiplied by `slowed`. The third is left out:
    /// that it overtakes both is rare.
    #[inline]
    fn owner(self, slowed: &[f32]) -> usize {
        let first = self.first as u32 as usize;
        if self.second == NONE {
            return first;
        }
        let second = self.second as u32 as usize;
        let time = |point: u64| f32::from_bits((point >> 32) as u32);
        if time(self.second) * slowed[second] < time(self.first) * slowed[first] {
            second
        } else {
            first
        }
    }
}

/// The points that count in each place.
fn points(ranked: &[Ranked], places: u32) -> Vec<Point> {
    let (first, second) = (NONE, NONE);
    let mut points = vec![Point { first, second }; 1 << places];
    let total = POINTS * points.len() as f64;
    for (rank, one) in ranked.iter().enumerate() {
        // Where it is rounded depends on the key, so that numbers grow one after the other.
        let count = one.due * total + part(mix(one.hash ^ 1));
        let every = 1.0 / one.due.max(LEAST);
        for (n, hash) in (0..(count as u64).max(1)).zip(hashes(one)) {
            let time = (n as f64 + part(hash)) * every;
            points[place(hash, places)].add(time as f32, rank as u32);
        }
    }
    // Where there is none, the next one counts, round the end.
    let found = points.iter().copied().find(|point| point.first < NONE);
    let mut next = found.unwrap_or(Point { first: 0, second });
    for point in points.iter_mut().rev() {
        if point.first == NONE {
            *point = next;
        }
        next = *point;
    }
    points
}

/// The lower half of a hash, as a number from 0 to 1.
#[inline]
fn part(hash: u64) -> f64 {
    f64::from(hash as u32) / 4_294_967_296.0
}

/// Gives who has no place that of its first point, or the next whose owner has others.
fn leave_nobody_out(ranks: &mut [usize], ranked: &[Ranked], places: u32) {
    let mut counts = vec![0_u32; ranked.len()];
    ranks.iter().for_each(|rank| counts[*rank] += 1);
    for (rank, one) in ranked.iter().enumerate() {
        if counts[rank] > 0 {
            continue;
        }
        let first = hashes(one).next().map_or(0, |hash| place(hash, places));
        let mut around = (first..ranks.len()).chain(0..first);
        if let Some(found) = around.find(|place| counts[ranks[*place]] > 1) {
            counts[ranks[found]] -= 1;
            counts[rank] = 1;
            ranks[found] = rank;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Key;

    /// The share of each, divided by its due.
    fn shares(weights: &[f64]) -> Vec<f64> {
        let key = |index: usize| Key::new(format!("web-{index}"), "");
        let candidates = weights.iter().enumerate();
        let candidates: Vec<_> = candidates
            .map(|(index, weight)| Candidate::new(key(index), *weight))
            .collect();
        let ring = places(&ranked(&candidates), PLACES);
        let mut counts = vec![0_u32; weights.len()];
        (0..1 << PLACES).for_each(|place| counts[ring.owner(place)] += 1);
        let total: f64 = weights.iter().sum();
        let share = |(count, weight): (&u32, &f64)| {
            f64::from(*count) * total / weight / f64::from(1 << PLACES)
        };
        counts.iter().zip(weights).map(share).collect()
    }

    #[test]
    fn shares_of_small_sets_are_within_a_percent() {
        let sloping = (5..30).map(f64::from).collect();
        for weights in [
            vec![1.0; 3],
            vec![1.0; 10],
            vec![1.0; 50],
            vec![2.0; 100],
            sloping,
        ] {
            for share in shares(&weights) {
                assert!(
                    (share - 1.0).abs() < 0.01,
                    "{share} of the due, {weights:?}"
                );
            }
        }
    }

    #[test]
    fn small_shares_are_off_by_a_few_percent() {
        for share in shares(&[1.0; 1_000]) {
            assert!((share - 1.0).abs() < 0.05, "{share} of the due");
        }
    }

    #[test]
    fn weights_that_cannot_be_added_up_have_a_place_each() {
        let shares = shares(&[f64::MAX, f64::MAX, f64::MIN_POSITIVE, 5e-324]);
        assert!(shares.iter().all(|share| *share > 0.0), "{shares:?}");
    }

    #[test]
    fn numbers_of_places_are_powers_of_two_within_bounds() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, u32::MAX].map(power),
            [1, 1, 1, 2, 2, 3, FINEST]
        );
    }
}
