//! Consistent hashing on a ring.
//!
//! The documentation of [`RingHash`] explains how the ring is built, with its bounds and costs.
//! [`hashed`](super::hashed) finds the endpoint for a hash.
//!
//! Why there is no Maglev table: this ring is a table too, with look-ups as fast (12 ns among 10 000
//! endpoints, 17 ns in a Maglev table) and shares within 0.5 % for up to 100 endpoints. A Maglev table
//! built by the paper's turns moved 8.5 / n of the keys unnecessarily from `n` = 513 endpoints to 512;
//! one built by races for slots 0.02 / n to 0.9 / n. The ring moves 0.01 / n to 0.4 / n up to 1 000
//! endpoints. Only with 10 000 endpoints are Maglev's shares closer to their due (0.71 to 1.13, against
//! 0.61 to 1.39).

use std::num::NonZeroU32;

use rand::rngs::SmallRng;

use super::{
    Candidate, Policy,
    hashed::{Ranked, RingPicker, RingPlaces, place, ranked},
};
use crate::{
    balance::pick::hash::mix,
    endpoint::load::InFlight,
    error::{ConfigError, check_range},
};

/// The default number of places is 2 to the power of this. The table fits into a second-level cache and
/// has fifty places for each of 10 000 endpoints. It does not depend on the set, because half of the
/// keys would change their owner with a finer ring.
const PLACES: u32 = 19;

/// The largest number of places is 2 to the power of this.
const FINEST: u32 = 24;

/// The default load factor. It is the example of the paper on bounded loads, and the recommendation of
/// HAProxy and Google Pub/Sub. A smaller factor moves more keys; a larger one bounds loads less.
const LOAD_FACTOR: f64 = 1.25;

/// The number of points for each place. The owner of a place without a point depends on the whole set.
/// One place of 400 has no point with six points for each place; one of 55 with four.
const POINTS: f64 = 6.0;

/// How far a share may be from its due before it is corrected; half of the documented 1 %.
const OFF: f64 = 0.005;

/// Shares below this may be farther from their due, in proportion to their size. Correcting them too
/// would move twice as many keys as necessary when one of 1 000 endpoints goes.
const SMALL: f64 = 1.0 / 128.0;

/// How often shares are computed and times corrected.
const ROUNDS: usize = 3;

/// The least share that is assumed. It is below any share that matters, and its inverse is finite.
const LEAST: f64 = 1e-300;

/// Consistent hashing on a ring: requests with the same key go to the same endpoint, in every client.
///
/// Shares of at least 1 % are within 1 % of their due. The shares of 1 000 equal endpoints are within
/// 5 %, those of 10 000 mostly within 20 %. When an endpoint goes or changes its weight, the keys that
/// it loses or gains move, and at most 0.3 % of the other keys.
///
/// The hash of the key comes with the request; see [`hash_key`](super::hash_key). A request without a
/// hash goes to any endpoint, by weight. When the owner of a hash is ejected, was already tried by this
/// request, or has too many requests in flight, the next usable endpoint on the ring gets the request.
///
/// # How it works
/// Each endpoint has points on a ring of places, at hashes of its key. A request goes to the endpoint
/// that owns the place of its hash. A new endpoint takes keys from all others, and no key moves between
/// the others. When an endpoint goes, its keys spread over all others, and hardly any other key moves
/// ([*Consistent hashing and random trees*]).
///
/// On the usual ring, the endpoint with the next point owns a key, and a weight is a number of points.
/// Then the number of points for weight 1 depends on the set (its sum, its mean or its largest weight).
/// When the set changes, all endpoints gain or lose points, and keys move between endpoints that did not
/// change. Here a point also has a time: the `n`th point of an endpoint comes at about `n / weight`. The
/// owner of a place is the endpoint whose point came first. Doubling all weights halves all times and
/// gives the same ring. When a weight changes, keys move only from or to that endpoint. This is
/// rendezvous hashing ([*Weighted distributed hash tables*]), without reading each endpoint for each
/// place.
///
/// There are six points for each place. One place of 400 then has no point (`e⁻⁶`); it belongs to the
/// owner of the next place. Only this depends on the sum of weights.
///
/// Chance makes shares uneven: with 50 endpoints, one would be 2 to 3 % from its due. So the times of an
/// endpoint with too large a share are lengthened a little, and those of one with too small a share
/// shortened, until shares are within 0.5 %. Shares below 1 / 128 may be farther off, the smaller the
/// farther: correcting them would move more keys than the endpoint that goes.
///
/// The corrections change a little with the set. The table shows the effect when one endpoint goes: the
/// worst of three ways to name endpoints, and of four endpoints that go (`cargo bench --bench hashing`).
///
/// | endpoints | weights | moved between others, of all keys | shares, of the due: least, 1 %, 99 %, most |
/// |---|---|---|---|
/// | 3 | equal | 0.08 % | 1.00, 1.00, 1.00, 1.00 |
/// | 10 | equal | 0.11 % | 0.995, 0.995, 1.005, 1.005 |
/// | 100 | equal | 0.08 % | 0.995, 0.995, 1.005, 1.006 |
/// | 300 | equal | 0.07 % | 0.99, 0.99, 1.01, 1.01 |
/// | 1 000 | equal | 0.04 % | 0.96, 0.96, 1.04, 1.04 |
/// | 10 000 | equal | 0.00 % | 0.61, 0.78, 1.24, 1.39 |
/// | 10 | 1 to 100 | 0.14 % | 0.98, 0.98, 1.02, 1.02 |
/// | 100 | 1 to 100 | 0.09 % | 0.94, 0.96, 1.08, 1.13 |
/// | 1 000 | 1 to 100 | 0.04 % | 0.48, 0.86, 1.18, 1.54 |
///
/// # Bounded loads
/// An endpoint gets no more requests than its cap: `⌈factor × (m + 1) × share⌉` of the `m` requests in
/// flight, as in [*Consistent hashing with bounded loads*]; see [`load_factor`](Self::load_factor). A
/// hot key spreads over as many endpoints as it needs, always the same ones in the same order. In sets
/// of up to 64 endpoints, no endpoint is above its cap while another usable one is below.
///
/// In larger sets, `m` is estimated from 64 endpoints. Some endpoints are then above their caps, by less
/// than a third even when all requests have one key (`tests/policies/hashing.rs`). A key that needs more
/// than the 64 endpoints after its owner uses more endpoints, in an order that depends on the key and is
/// the same in all clients. Following that order could take as long as the set is large. So a pick draws
/// two endpoints from its beginning at random, takes the less used one that is below its cap, and
/// otherwise draws from a longer part. At most `1 / factor` of all endpoints can be full, so a usable
/// one is soon found.
///
/// # Costs
/// A table of 524 288 places holds the owner of each place: 1 MB (2 MB from 65 537 endpoints on). A
/// look-up is one read. Making a table takes 32 to 55 ms and 10 MB for any number of endpoints, on a
/// thread for blocking work.
///
/// [*Consistent hashing and random trees*]: https://doi.org/10.1145/258533.258660
/// [*Weighted distributed hash tables*]: https://doi.org/10.1145/1073970.1074008
/// [*Consistent hashing with bounded loads*]: https://arxiv.org/abs/1608.01350
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
    /// The number of places is 2 to the power of this.
    places: u32,
    /// How many times its due an endpoint may have in flight; `None` for no bound.
    load_factor: Option<f64>,
}

impl RingHash {
    /// Creates the policy, with 524 288 places and a load factor of 1.25.
    pub fn new() -> Self {
        Self {
            places: PLACES,
            load_factor: Some(LOAD_FACTOR),
        }
    }

    /// Sets the number of places; 524 288 by default, at most 16 777 216. The number is rounded up to a
    /// power of two, and to at least two places for each endpoint. Each place takes two bytes and 50 ns
    /// to make. With fewer than 50 places for each endpoint, shares are uneven. All clients must use the
    /// same number to agree on the owner of a key.
    #[must_use]
    pub fn places(mut self, places: NonZeroU32) -> Self {
        self.places = power(places.get());
        self
    }

    /// Sets how many times its due an endpoint may have in flight before its keys go to the next
    /// endpoint, from 1 to 1000; 1.25 by default. At 1, load is as even as possible, and many requests
    /// do not reach the owner of their key. With a large value, only very hot keys are spread.
    ///
    /// # Errors
    /// Returns an error when `factor` is out of range or not a number.
    pub fn load_factor(mut self, factor: f64) -> Result<Self, ConfigError> {
        check_range("ring_hash.load_factor", factor, 1.0..=1_000.0)?;
        self.load_factor = Some(factor);
        Ok(self)
    }

    /// Removes the bound: the owner gets all requests for its keys, however many are in flight.
    #[must_use]
    pub fn unbounded(mut self) -> Self {
        self.load_factor = None;
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
    type Picker = RingPicker;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> RingPicker {
        let ranked = ranked(candidates);
        let places = places(&ranked, self.places);
        RingPicker::new(places, candidates, &ranked, self.load_factor)
    }

    /// Always `true`: a ring has the same number of places for any number of endpoints, and takes tens
    /// of milliseconds to make.
    fn is_costly(&self, _: usize) -> bool {
        true
    }
}

/// The exponent of the least power of two that is at least `places`, within the permitted range.
fn power(places: u32) -> u32 {
    places.clamp(2, 1 << FINEST).next_power_of_two().ilog2()
}

/// The owner of each place. There are `1 << bits` places, or more when the set needs more.
fn places(ranked: &[Ranked], bits: u32) -> RingPlaces {
    let bits = bits.max(power(2 * ranked.len() as u32));
    let points = points(ranked, bits);
    let mut slowed = vec![1.0; ranked.len()];
    for _ in 0..ROUNDS {
        let mut counts = vec![0_u32; ranked.len()];
        for point in &points {
            counts[point.owner(&slowed)] += 1;
        }
        for ((one, count), slowed) in ranked.iter().zip(counts).zip(&mut slowed) {
            // Uses only sums, products and quotients, whose results are the same in all clients.
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
    RingPlaces::new(&owners, bits)
}

/// The points of an endpoint, an endless sequence of hashes. The upper bits of a hash are its place.
fn hashes(one: &Ranked) -> impl Iterator<Item = u64> {
    let first = mix(one.hash);
    (0..).map(move |n: u64| mix(first.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
}

/// The first point of a place, and the first point there of any other endpoint. The upper half of each
/// number is the time, the lower half the rank of the endpoint. Times are never negative, so their bits
/// have the same order as the times. Of equal times, the one of the lower rank, that is the lower key,
/// comes first.
#[derive(Clone, Copy)]
struct Point {
    first: u64,
    second: u64,
}

const NONE: u64 = u64::MAX;

impl Point {
    /// The points of one endpoint must be added in the order of their times.
    #[inline]
    fn add(&mut self, time: f32, rank: u32) {
        let new = u64::from(time.to_bits()) << 32 | u64::from(rank);
        // Which one is less is random, so a branch would often be mispredicted. `min` and `max` need
        // none.
        let later = if self.first as u32 == rank {
            NONE
        } else {
            new.max(self.first)
        };
        self.first = new.min(self.first);
        self.second = later.min(self.second);
    }

    /// The rank of the owner, when the times of each endpoint are multiplied by `slowed`. A third point
    /// is not stored, because it rarely overtakes both.
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

/// The first points of each place.
fn points(ranked: &[Ranked], places: u32) -> Vec<Point> {
    let (first, second) = (NONE, NONE);
    let mut points = vec![Point { first, second }; 1 << places];
    let total = POINTS * points.len() as f64;
    for (rank, one) in ranked.iter().enumerate() {
        // The rounding threshold depends on the key. So when `total` grows, the numbers of points of
        // different endpoints do not all grow at the same moment.
        let count = one.due * total + part(mix(one.hash ^ 1));
        let every = 1.0 / one.due.max(LEAST);
        for (n, hash) in (0..(count as u64).max(1)).zip(hashes(one)) {
            let time = (n as f64 + part(hash)) * every;
            points[place(hash, places)].add(time as f32, rank as u32);
        }
    }
    // A place without a point takes the points of the next place; the last places take those of the
    // first.
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

/// Gives an endpoint without a place the place of its first point, or the next place whose owner has
/// other places.
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

    /// The share of each endpoint, divided by its due.
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
