//! Consistent hashing by a table.
//!
//! A table has a prime number of slots, and each endpoint a permutation of them, made from the hash of its
//! key. In turn, each endpoint takes the first slot of its permutation that is free, until all are
//! taken; a key belongs to whoever took slot `hash % slots` ([*Maglev: a fast and reliable software
//! network load balancer*]). Shares are as even as slots can be, which no ring is; for that, a change moves
//! a few keys between endpoints that have nothing to do with it.
//!
//! Weights decide how many slots each takes in all, to the slot up to 512 endpoints, and turns are spread
//! accordingly.
//!
//! # How many slots
//! Of `n` endpoints one goes, and `1 / n` of the keys must move. More do, because whoever takes a slot that has
//! become free leaves another to somebody else. How many more depends on `n² / slots`:
//!
//! | endpoints | slots | moved, times `1 / n` |
//! |---|---|---|
//! | 10 | 65 537 | 1.02 |
//! | 100 | 65 537 | 1.6 |
//! | 300 | 65 537 | 3.5 |
//! | 100 | 1 048 583 | 1.1 |
//! | 500 | 1 048 583 | 1.8 |
//! | 1 000 | 1 048 583 | 3.0 |
//! | 10 000 | 1 048 583 | 9.5 |
//!
//! A table of another size is another table, with other owners for nearly all keys. So there are just two
//! sizes, chosen by the number of endpoints: 65 537 slots up to 128 endpoints, 1 048 583 above. Set a
//! size where a set goes up and down around 128.
//!
//! # More than 512 endpoints
//! A table with enough slots for these would not fit into any cache. So where `n²` is above a quarter of
//! the slots, each endpoint asks for one slot in a turn, and for no other when that is taken, until it
//! has its due and some more (see `scatter`). Then few keys move, and shares are no longer exact:
//!
//! | endpoints | moved, times `1 / n` | shares, of the due: least, 1 %, 99 %, most |
//! |---|---|---|
//! | 513 | 1.0 | 0.95, 0.97, 1.02, 1.02 |
//! | 1 000 | 1.1 | 0.79, 0.95, 1.03, 1.03 |
//! | 2 000 | 1.2 | 0.76, 0.93, 1.05, 1.05 |
//! | 5 000 | 1.2 | 0.83, 0.89, 1.07, 1.07 |
//! | 10 000 | 1.3 | 0.73, 0.85, 1.10, 1.11 |
//! | 20 000 | 1.4 | 0.65, 0.78, 1.14, 1.14 |
//!
//! The same holds for one that comes, and for weights, where an endpoint with half of the mean weight
//! scatters as one in a set of twice the size. The two ways agree about most slots: from 512 endpoints to 513
//! or back, 2 % of the keys move once. Up to 512, an endpoint that is much lighter than the others may
//! move three times its due.
//!
//! # What it costs
//! Two bytes a slot, 131 KB or 2 MB (twice that from 65 536 endpoints on). Filling takes about 16 tries
//! for a slot: 2 ms, or 40 to 140 ms, off the path of requests. Looking a key up reads one slot.
//!
//! [*Maglev: a fast and reliable software network load balancer*]: https://research.google/pubs/pub44824/

mod scatter;

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::rngs::SmallRng;

use self::scatter::scatter;
use super::{
    Candidate, Policy,
    hash::mix,
    hashed::{Bound, Hashed, Owners, Ranked, Table, ranked},
};
use crate::{endpoint::load::InFlight, error::ConfigError};

/// Envoy's and the paper's smaller size.
const SMALL: u32 = 65_537;

/// The first prime above 2²⁰.
const LARGE: u32 = 1_048_583;

/// Endpoints above which the small table moves more than twice the keys that have to.
const MANY: usize = 128;

/// Endpoints above which the large table would do so; smaller sets have exact shares in any table.
const CROWD: usize = 512;

/// Consistent hashing by a table: requests with the same key go to the same endpoint, in every client.
///
/// Shares are exact to the slot for up to 512 endpoints, and of 1 000 nearly all have from 0.95 to 1.03 of
/// their due. A lookup reads one cache line. Removing one of `n` endpoints moves up to `2 / n` of the keys,
/// of which `1 / n` had to; where that is too much, use [`RingHash`](super::RingHash).
///
/// The key's hash comes with the request; see [`hash_key`](super::hash_key). Requests without one go
/// to any endpoint, by weight. When the owner is ejected, was tried before or has too much to do, the
/// owner of a slot elsewhere takes its place, the same one for all clients.
///
/// # Examples
/// ```
/// use rand::{SeedableRng, rngs::SmallRng};
/// use tower_roster::balance::policy::{Draw, Maglev, Trial, hash_key};
///
/// let mut rng = SmallRng::seed_from_u64(7);
/// let trial = Trial::new(&Maglev::new(), &[1.0, 1.0, 1.0], &mut rng);
/// let hash = Some(hash_key(b"user-17"));
/// let first = trial.pick(&mut Draw::new(&mut rng).hash(hash));
/// assert_eq!(trial.pick(&mut Draw::new(&mut rng).hash(hash)), first);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Maglev {
    slots: Option<u32>,
    bound: Bound,
}

impl Maglev {
    /// The policy, with a table of 65 537 slots, or 1 048 583 above 128 endpoints, and a load factor of
    /// 1.25.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of slots, rounded up to a prime, from 2 to 16 777 216; by default as many as the
    /// number of endpoints asks for. Fewer than 100 for each endpoint make shares uneven. A table has
    /// always at least two slots for each endpoint. All clients must agree on it.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn slots(mut self, slots: u32) -> Result<Self, ConfigError> {
        if !(2..=1 << 24).contains(&slots) {
            let message = format!("{slots} is not from 2 to 16777216");
            return Err(ConfigError::new("Maglev::slots", message));
        }
        self.slots = Some(prime(slots));
        Ok(self)
    }

    /// Sets how much of its due an endpoint may have in flight before its keys go on to the next, from 1
    /// to 1000; 1.25 by default. At 1 load is as even as it can be and many requests miss their owner;
    /// large values only stop keys that are very hot.
    ///
    /// # Errors
    /// When it is out of range or not a number.
    pub fn load_factor(mut self, factor: f64) -> Result<Self, ConfigError> {
        self.bound = Bound::new("Maglev::load_factor", factor)?;
        Ok(self)
    }

    /// Lets an endpoint have any number of requests in flight.
    #[must_use]
    pub fn unbounded(mut self) -> Self {
        self.bound = Bound(None);
        self
    }
}

impl Policy for Maglev {
    type Load = InFlight;
    type Picker = Hashed<Slots>;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> Hashed<Slots> {
        let len = candidates.len();
        let slots = self
            .slots
            .unwrap_or(if len <= MANY { SMALL } else { LARGE });
        let slots = if slots as usize >= 2 * len {
            slots
        } else {
            prime(u32::try_from(2 * len).unwrap_or(u32::MAX))
        };
        let ranked = ranked(candidates);
        let table = Slots::new(&ranked, slots);
        Hashed::new(table, candidates, &ranked, self.bound)
    }
}

#[derive(Debug)]
pub struct Slots(Owners);

impl Slots {
    fn new(ranked: &[Ranked], slots: u32) -> Self {
        if is_crowded(ranked.len(), slots) {
            return Self(Owners::new(&scatter(ranked, slots)));
        }
        let steps = ranked.iter().map(|one| Steps::new(one.hash, slots));
        let mut filling = Filling {
            owners: vec![FREE; slots as usize],
            turns: steps.collect(),
        };
        if ranked.iter().all(|one| one.due == ranked[0].due) {
            let turns = ranked.iter().enumerate().cycle().take(slots as usize);
            turns.for_each(|(rank, one)| filling.take(rank, one.index));
            return Self(Owners::new(&filling.owners));
        }
        let dues: Vec<f64> = ranked.iter().map(|one| one.due).collect();
        let counts = counts(&dues, slots);
        // Its k-th turn comes when it should have k - ½ slots.
        let time =
            |taken: u32, rank: usize| ((2 * u64::from(taken) + 1) << 32) / u64::from(counts[rank]);
        let turns = (0..ranked.len()).map(|rank| Reverse((time(0, rank), rank, 0)));
        let mut turns: BinaryHeap<_> = turns.collect();
        while let Some(Reverse((_, rank, taken))) = turns.pop() {
            filling.take(rank, ranked[rank].index);
            if taken + 1 < counts[rank] {
                turns.push(Reverse((time(taken + 1, rank), rank, taken + 1)));
            }
        }
        Self(Owners::new(&filling.owners))
    }
}

impl Table for Slots {
    #[inline]
    fn owners(&self, hash: u64) -> impl Iterator<Item = usize> {
        // Not the next slot: whose that is depends too much on whose this is.
        std::iter::successors(Some(hash), |hash| Some(mix(*hash)))
            .map(|hash| self.0.get((hash % self.0.len() as u64) as usize))
    }
}

/// Whether the paper's way would move more than twice the keys that have to.
fn is_crowded(endpoints: usize, slots: u32) -> bool {
    endpoints > CROWD && (endpoints as u64).pow(2) > u64::from(slots) / 4
}

const FREE: u32 = u32::MAX;

struct Filling {
    owners: Vec<u32>,
    turns: Vec<Steps>,
}

impl Filling {
    /// Takes the next free slot. There must be one.
    fn take(&mut self, rank: usize, owner: usize) {
        let turns = &mut self.turns[rank];
        while self.owners[turns.slot as usize] != FREE {
            turns.step();
        }
        self.owners[turns.slot as usize] = owner as u32;
    }
}

/// A permutation of the slots: their number is a prime, so any stride visits all.
struct Steps {
    slot: u32,
    stride: u32,
    slots: u32,
}

impl Steps {
    fn new(hash: u64, slots: u32) -> Self {
        let below = |hash: u64, bound: u32| (hash % u64::from(bound)) as u32;
        Self {
            slot: below(mix(hash), slots),
            stride: below(mix(!hash), slots - 1) + 1,
            slots,
        }
    }

    fn step(&mut self) {
        let left = self.slots - self.slot;
        if self.stride >= left {
            self.slot = self.stride - left;
        } else {
            self.slot += self.stride;
        }
    }
}

/// How many slots each gets: its due, to the slot, and at least one. They add up to `slots`, which are
/// at least as many as the dues.
fn counts(dues: &[f64], slots: u32) -> Vec<u32> {
    let exact = |due: f64| due * f64::from(slots);
    let mut counts: Vec<u32> = dues.iter().map(|due| (exact(*due) as u32).max(1)).collect();
    let mut ranks: Vec<usize> = (0..dues.len()).collect();
    let given: u64 = counts.iter().copied().map(u64::from).sum();
    let slots = u64::from(slots);
    if given <= slots {
        // To those that rounding down cost most; the order of the keys decides between equals.
        let short = |rank: usize| exact(dues[rank]) - f64::from(counts[rank]);
        ranks.sort_by(|a, b| short(*b).total_cmp(&short(*a)));
        let missing = (slots - given) as usize;
        ranks
            .iter()
            .cycle()
            .take(missing)
            .for_each(|rank| counts[*rank] += 1);
    } else {
        ranks.sort_by_key(|rank| Reverse(counts[*rank]));
        let mut excess = given - slots;
        for rank in ranks {
            let taken = excess.min(u64::from(counts[rank] - 1));
            counts[rank] -= taken as u32;
            excess -= taken;
        }
    }
    counts
}

/// The least prime from `least` on.
fn prime(least: u32) -> u32 {
    let is_prime = |number: &u32| {
        *number >= 2
            && (2..)
                .take_while(|divisor| {
                    u64::from(*divisor) * u64::from(*divisor) <= u64::from(*number)
                })
                .all(|divisor| number % divisor != 0)
    };
    (least..=u32::MAX).find(is_prime).unwrap_or(4_294_967_291)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::instance::Key;

    proptest! {
        #[test]
        fn each_gets_its_due_to_the_slot(weights in prop::collection::vec(1u32..1_000, 1..50)) {
            let candidates: Vec<Candidate> = weights
                .iter()
                .enumerate()
                .map(|(i, w)| Candidate::new(Key::new(i.to_string(), ""), f64::from(*w)))
                .collect();
            let ranked = ranked(&candidates);
            let Slots(slots) = Slots::new(&ranked, 1_009);
            for Ranked { index, due, .. } in ranked {
                let got = (0..1_009).filter(|slot| slots.get(*slot) == index).count() as f64;
                let due = due * 1_009.0;
                // Those whose due is below one get one, which the largest pay.
                prop_assert!(got >= 1.0 && (got < due + 1.0 || got == 1.0), "{got} for {due}");
                prop_assert!(got > due - 1.0 || weights.iter().any(|w| f64::from(*w) * 1_009.0
                    < f64::from(weights.iter().sum::<u32>())), "{got} for {due}");
            }
        }
    }

    #[test]
    fn sizes_are_prime() {
        assert_eq!([0, 2, 3, 4, 65_536].map(prime), [2, 2, 3, 5, SMALL]);
        assert_eq!(prime(1 << 20), LARGE);
    }
}
