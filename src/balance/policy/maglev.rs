//! Consistent hashing by a table.
//!
//! A table has far more slots than there are endpoints, and each slot an owner; a key belongs to the owner
//! of the slot that its hash falls on. So a look-up is one read, and shares are nearly as even as
//! slots can be, which no ring is ([*Maglev: a fast and reliable software network load
//! balancer*]).
//!
//! How slots get their owners is another matter. In the paper, endpoints take turns, and each takes the
//! first free slot of a permutation of its own. One that leaves sets off a chain there: whoever takes its
//! slot leaves one to somebody else. Here they *race* for slots (see `race`), and few keys move but those
//! that must.
//!
//! # How many slots
//! A table of another size would be another table, with other owners for nearly all keys. So up to 256
//! endpoints all sets have the same, 131 072 slots; a set of `n` beyond has 8 192 × √n, and one more or
//! less only splits or joins a few slots, while the others keep their owners: [*Linear hashing*].
//!
//! Of `n` endpoints one goes, and `1 / n` of the keys must move. The worst of three ways of naming
//! endpoints and of four that go (`cargo bench --bench hashing`):
//!
//! | endpoints | slots | moved, times `1 / n` | shares, of the due: least, 1 %, 99 %, most | made in |
//! |---|---|---|---|---|
//! | 10 | 131 072 | 1.02 | 1.00, 1.00, 1.00, 1.00 | 9 ms |
//! | 100 | 131 072 | 1.2 | 0.99, 1.00, 1.00, 1.00 | 8 ms |
//! | 256 | 131 072 | 1.3 | 0.89, 0.93, 1.02, 1.02 | 9 ms |
//! | 257 | 131 327 | 1.6 | 0.88, 0.93, 1.02, 1.02 | 10 ms |
//! | 512 | 185 363 | 1.5 | 0.84, 0.91, 1.05, 1.06 | 17 ms |
//! | 1 000 | 259 053 | 1.7 | 0.84, 0.90, 1.06, 1.06 | 18 ms |
//! | 4 000 | 518 107 | 1.9 | 0.79, 0.85, 1.09, 1.09 | 46 ms |
//! | 10 000 | 819 200 | 1.8 | 0.71, 0.81, 1.12, 1.13 | 84 ms |
//!
//! The same holds for one that comes. Up to 256 endpoints, one that goes moves up to 1.4 times its own
//! due with weights from 1 to 5, and one with a twentieth of the others' weight 2.6 times. Beyond, the
//! slots that are joined come on top, up to `1 / n`.
//!
//! # What it costs
//! Two bytes a slot, 262 KB up to 256 endpoints and 1.6 MB for 10 000 (twice that from 65 537 endpoints
//! on). Filling takes 10 to 25 tries for a slot, on a thread for blocking work. Looking a key up reads
//! one slot.
//!
//! [*Maglev: a fast and reliable software network load balancer*]: https://research.google/pubs/pub44824/
//! [*Linear hashing*]: https://en.wikipedia.org/wiki/Linear_hashing

mod race;

use rand::rngs::SmallRng;

use self::race::race;
use super::{
    Candidate, Policy,
    hashed::{Bound, Hashed, Owners, Table, ranked},
};
use crate::{balance::hash::mix, endpoint::load::InFlight, error::ConfigError};

/// Up to so many endpoints there are as many slots.
const FEW: u64 = 256;

/// Slots that are filled within 100 µs.
const SOME: u32 = 1_024;

/// The most there can be, so that sizes fit.
const MOST: u32 = 1 << 30;

/// Consistent hashing by a table: requests with the same key go to the same endpoint, in every client.
///
/// Shares of equal endpoints are within 1 % of the due for up to 128, within 11 % for nearly all of
/// 1 000, and within 20 % for nearly all of 10 000. A lookup reads one cache line. Removing one of `n`
/// endpoints moves up to `2 / n` of the keys, of which `1 / n` had to; where that is too much, use
/// [`RingHash`](super::RingHash).
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
    /// The policy, with a table of 131 072 slots, or 8 192 × √n for `n` above 256 endpoints, and a load
    /// factor of 1.25.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of slots, from 2 to 16 777 216; by default as many as the number of endpoints
    /// asks for. Fewer than 100 for each endpoint make shares uneven and move more keys than said above;
    /// 16 million take 3 s to fill at each change. A table has always at least two slots for each endpoint.
    /// All clients must agree on it.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn slots(mut self, slots: u32) -> Result<Self, ConfigError> {
        if !(2..=1 << 24).contains(&slots) {
            let message = format!("{slots} is not from 2 to 16777216");
            return Err(ConfigError::new("Maglev::slots", message));
        }
        self.slots = Some(slots);
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

    fn slots_of(&self, endpoints: usize) -> u32 {
        let least = 2 * endpoints as u64;
        let slots = self.slots.map_or_else(|| slots_for(endpoints), u64::from);
        slots.max(least).min(MOST.into()) as u32
    }
}

impl Policy for Maglev {
    type Load = InFlight;
    type Picker = Hashed<Slots>;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> Hashed<Slots> {
        let ranked = ranked(candidates);
        let spread = Spread::new(self.slots_of(ranked.len()));
        let owners = Owners::new(&race(&ranked, spread));
        Hashed::new(Slots { owners, spread }, candidates, &ranked, self.bound)
    }

    /// Unless slots are [set](Maglev::slots) to very few: some 100 ns go by for each.
    fn is_costly(&self, candidates: usize) -> bool {
        self.slots_of(candidates) > SOME
    }
}

/// 8 192 times the root. If they grew as the endpoints do, one more would split as many slots as there are
/// for each, and half of their keys would move, which are as many as must.
fn slots_for(endpoints: usize) -> u64 {
    let endpoints = (endpoints as u64).max(FEW);
    (endpoints << 26).isqrt()
}

#[derive(Debug)]
pub struct Slots {
    owners: Owners,
    spread: Spread,
}

impl Table for Slots {
    #[inline]
    fn owners(&self, hash: u64) -> impl Iterator<Item = usize> {
        // Not the next slot: whose that is depends too much on whose this is.
        std::iter::successors(Some(hash), |hash| Some(mix(*hash)))
            .map(|hash| self.owners.get(self.spread.slot(hash) as usize))
    }
}

/// Which slot each hash falls on, for any number of slots: by the low bits, and by one bit less where
/// there is no such slot. So one slot more splits one of those there are, and no hash goes anywhere else.
#[derive(Clone, Copy, Debug)]
struct Spread {
    /// From 1 to [`MOST`].
    slots: u32,
    /// The largest power of two that is no more.
    whole: u32,
}

impl Spread {
    fn new(slots: u32) -> Self {
        Self {
            slots,
            whole: 1 << slots.ilog2(),
        }
    }

    #[inline]
    fn slot(self, hash: u64) -> u32 {
        let slot = hash as u32 & (2 * self.whole - 1);
        if slot < self.slots {
            slot
        } else {
            slot - self.whole
        }
    }

    /// How much of all hashes falls on a slot, of [`total`](Self::total): 1 when it was split, else 2.
    #[inline]
    fn size(self, slot: u32) -> i64 {
        let whole = slot < self.whole && slot + self.whole >= self.slots;
        1 + i64::from(whole)
    }

    fn total(self) -> u32 {
        2 * self.whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_as_large_as_they_are_said_to_be(slots in 1u32..600) {
            let spread = Spread::new(slots);
            let mut sizes = vec![0; slots as usize];
            for hash in 0..spread.total() {
                sizes[spread.slot(hash.into()) as usize] += 1;
            }
            for (slot, size) in (0..slots).zip(sizes) {
                prop_assert_eq!(spread.size(slot), size, "{} of {}", slot, slots);
            }
        }

        #[test]
        fn one_slot_more_takes_from_one_other(slots in 1u32..1 << 20, hash: u64) {
            let [before, after] = [slots, slots + 1].map(|slots| Spread::new(slots).slot(hash));
            let split = slots - Spread::new(slots).whole;
            prop_assert!(before == after || (before == split && after == slots));
        }
    }

    /// Counted over the whole table, also where the number of slots passes a power of two.
    #[test]
    fn one_that_goes_moves_less_than_twice_its_due() {
        let table = |ids: &[usize]| {
            let key = |id: &usize| crate::instance::Key::new(format!("web-{id}"), "dc1");
            let candidates: Vec<Candidate> =
                ids.iter().map(|id| Candidate::new(key(id), 1.0)).collect();
            let spread = Spread::new(slots_for(ids.len()) as u32);
            let owners = race(&ranked(&candidates), spread).into_iter();
            (
                owners.map(|owner| ids[owner as usize]).collect::<Vec<_>>(),
                spread,
            )
        };
        for len in [256, 257, 1_024, 4_096] {
            let mut ids: Vec<usize> = (0..len).collect();
            let (before, wide) = table(&ids);
            ids.remove(len / 2);
            let (after, narrow) = table(&ids);
            let hashes = 0..u64::from(wide.total().max(narrow.total()));
            let all = hashes.end as f64;
            let owner = |table: &[usize], spread: Spread, hash| table[spread.slot(hash) as usize];
            let moved = hashes
                .filter(|hash| owner(&before, wide, *hash) != owner(&after, narrow, *hash))
                .count();
            let times = moved as f64 / all * len as f64;
            assert!((0.9..2.0).contains(&times), "{times} / n of {len}");
        }
    }

    #[test]
    fn tables_grow_with_the_root() {
        let slots = [0, 1, 256, 1_024, 10_000, 65_536].map(slots_for);
        assert_eq!(
            slots,
            [1 << 17, 1 << 17, 1 << 17, 1 << 18, 819_200, 1 << 21]
        );
    }
}
