//! Finds the endpoint for a hash on a ring: the owner, or another endpoint when the owner cannot be
//! used.
//!
//! ```text
//! hash ─▶ owner ── usable and below its cap? ── yes ──▶ owner
//!                        │ no: the next in the table, and so on
//!                        └──▶ the first that is both, else the least used of the usable ones
//! ```
//!
//! The documentation of [`RingHash`](super::RingHash) describes the caps and what happens beyond 64
//! endpoints. `m`, the number of requests in flight, is not stored: all threads would contend for a
//! counter that every request changes. An endpoint without requests is below any cap, which settles most
//! picks.

use rand::Rng;

use super::{
    Candidate, CandidateSet, Draw, Picker,
    alias::{Chances, below},
};
use crate::{
    balance::pick::hash::{hash_id, mix},
    endpoint::load::LoadTracker,
    instance::Key,
};

/// The number of endpoints that one pick reads in the order of the ring.
const LOOK: usize = 64;

/// The number of table entries that one pick passes. It is larger than [`LOOK`], because one endpoint
/// may own nearly all of them.
const STEPS: usize = 4_096;

/// How often a pick draws two endpoints beyond the first [`LOOK`]. Each try draws from a part half as
/// large again as the one before. After half of the tries, the part covers 10 000 endpoints. In each
/// later try, at least one of the two is usable in one case of three, even when as many endpoints are
/// full as a factor of 1.25 permits.
const TRIES: usize = 32;

#[derive(Debug)]
pub struct RingPicker {
    places: RingPlaces,
    shares: Chances,
    /// The weight of each endpoint, divided by the sum of all weights.
    dues: Box<[f64]>,
    /// How many times its due an endpoint may have in flight; `None` for no bound.
    load_factor: Option<f64>,
}

impl RingPicker {
    pub(super) fn new(
        places: RingPlaces,
        candidates: &[Candidate],
        ranked: &[Ranked],
        load_factor: Option<f64>,
    ) -> Self {
        let mut dues = vec![0.0; ranked.len()];
        for one in ranked {
            dues[one.index] = one.due;
        }
        Self {
            places,
            shares: Chances::new(candidates),
            dues: dues.into(),
            load_factor,
        }
    }
}

/// A candidate, as the ring sees it.
#[derive(Debug)]
pub(super) struct Ranked {
    pub(super) index: usize,
    /// The hash of the key.
    pub(super) hash: u64,
    /// The weight, divided by the sum of all weights.
    pub(super) due: f64,
}

/// The candidates in the order of their keys. Sums of floats depend on the order, so all clients must
/// add weights in the same order to get the same ring to the last bit, in whatever order they discovered
/// the endpoints.
pub(super) fn ranked(candidates: &[Candidate]) -> Vec<Ranked> {
    let mut order: Vec<(usize, &Key)> =
        candidates.iter().map(|one| &*one.key).enumerate().collect();
    order.sort_unstable_by_key(|(_, key)| *key);
    // Weights are divided by the largest, because their sum may be infinite.
    let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
    let relative = |index: usize| candidates[index].weight / largest;
    let total: f64 = order.iter().map(|(index, _)| relative(*index)).sum();
    let ranked = |(index, key): (usize, &Key)| Ranked {
        index,
        hash: hash_id(key),
        due: relative(index) / total,
    };
    order.into_iter().map(ranked).collect()
}

impl<L: LoadTracker> Picker<L> for RingPicker {
    #[inline]
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        let Some(hash) = draw.hash else {
            return self.shares.one(draw.rng);
        };
        // The user's hash may be poorly distributed.
        let hash = mix(hash);
        let mut owners = self.places.from(hash);
        let owner = owners.next().unwrap_or(0);
        let mut caps = Caps::new(self);
        if set.is_usable(owner, draw) && caps.allow(owner, set, draw) {
            return owner;
        }
        let mut least: Option<(f64, usize)> = None;
        let (mut last, mut looked) = (owner, 0);
        for next in owners.take(STEPS) {
            if next == last {
                continue;
            }
            (last, looked) = (next, looked + 1);
            if looked > LOOK {
                break;
            }
            if !set.is_usable(next, draw) {
                continue;
            }
            if caps.allow(next, set, draw) {
                return next;
            }
            let used = self.used(set, next);
            if least.is_none_or(|(other, _)| used < other) {
                least = Some((used, next));
            }
        }
        // The entries above show only a part of the set, and light endpoints appear rarely in them.
        let others = (1..set.len()).map(|step| (owner + step) % set.len());
        let mut usable = others.filter(|index| set.is_usable(*index, draw));
        let Some((_, least)) = least else {
            return usable.next().unwrap_or(owner);
        };
        if set.len() > LOOK {
            return self.farther(hash, &mut caps, set, draw).unwrap_or(least);
        }
        let usable: [Option<usize>; LOOK] = std::array::from_fn(|_| usable.next());
        let mut usable = usable.into_iter().flatten();
        usable
            .find(|index| caps.allow(*index, set, draw))
            .unwrap_or(least)
    }
}

impl RingPicker {
    /// An endpoint of a large set that is usable and below its cap, when no endpoint near the owner is.
    #[cold]
    fn farther<L: LoadTracker>(
        &self,
        hash: u64,
        caps: &mut Caps<'_>,
        set: &CandidateSet<'_, L>,
        draw: &mut Draw<'_>,
    ) -> Option<usize> {
        let mut among = LOOK;
        for _ in 0..TRIES {
            among += among / 2;
            let mut found: Option<(f64, usize)> = None;
            for _ in 0..2 {
                let step = below(among, draw.rng.next_u64());
                let hash = mix(hash.wrapping_add(step as u64));
                let next = self.places.from(hash).next()?;
                if set.is_usable(next, draw) && caps.allow(next, set, draw) {
                    let used = self.used(set, next);
                    if found.is_none_or(|(other, _)| used < other) {
                        found = Some((used, next));
                    }
                }
            }
            if let Some((_, found)) = found {
                return Some(found);
            }
        }
        None
    }
}

impl RingPicker {
    fn used<L: LoadTracker>(&self, set: &CandidateSet<'_, L>, index: usize) -> f64 {
        set.in_flight(index) as f64 / self.dues[index]
    }
}

/// The caps of one pick, computed when they are first needed.
struct Caps<'a> {
    hashed: &'a RingPicker,
    /// The load factor times the requests in flight of the whole set, including the request that is
    /// being placed.
    allowed: Option<f64>,
}

impl<'a> Caps<'a> {
    fn new(hashed: &'a RingPicker) -> Self {
        Self {
            hashed,
            allowed: None,
        }
    }

    /// Whether one more request keeps an endpoint within its cap.
    #[inline]
    fn allow<L: LoadTracker>(
        &mut self,
        index: usize,
        set: &CandidateSet<'_, L>,
        draw: &mut Draw<'_>,
    ) -> bool {
        let Some(factor) = self.hashed.load_factor else {
            return true;
        };
        let in_flight = set.in_flight(index);
        if in_flight == 0 {
            return true;
        }
        let allowed = *self
            .allowed
            .get_or_insert_with(|| factor * (in_flight_of_all(set, &self.hashed.dues, draw) + 1.0));
        // `1e-9` undoes rounding of the division, which could raise a whole-numbered cap by one.
        let cap = (allowed * self.hashed.dues[index] - 1e-9).ceil();
        in_flight as f64 + 1.0 <= cap
    }
}

/// The requests in flight of the whole set: exact up to 64 endpoints, estimated from 64 of them in
/// larger sets.
fn in_flight_of_all<L: LoadTracker>(
    set: &CandidateSet<'_, L>,
    dues: &[f64],
    draw: &mut Draw<'_>,
) -> f64 {
    if set.len() <= LOOK {
        let in_flight: usize = (0..set.len()).map(|index| set.in_flight(index)).sum();
        return in_flight as f64;
    }
    let first = below(set.len(), draw.rng.next_u64());
    let (mut in_flight, mut due) = (0, 0.0);
    for index in (first..set.len()).chain(0..first).take(LOOK) {
        in_flight += set.in_flight(index);
        due += dues[index];
    }
    in_flight as f64 / due
}

/// The owner of each place of a ring, as an index of the candidates.
#[derive(Debug)]
pub(super) struct RingPlaces {
    owners: RingOwners,
    /// The number of places is 2 to the power of this.
    bits: u32,
}

/// Indexes of 16 bits take half the space, and so fit into a nearer cache, when the set has less than
/// 65 536 endpoints.
#[derive(Debug)]
enum RingOwners {
    Few(Box<[u16]>),
    Many(Box<[u32]>),
}

impl RingPlaces {
    /// `owners` must have `1 << bits` elements.
    pub(super) fn new(owners: &[u32], bits: u32) -> Self {
        let few: Result<Box<[u16]>, _> = owners.iter().map(|owner| u16::try_from(*owner)).collect();
        let owners = few.map_or_else(|_| RingOwners::Many(owners.into()), RingOwners::Few);
        Self { owners, bits }
    }

    /// The owner of a hash, then the owners of the places that follow it, continuing at the start after
    /// the last place. It never ends, and an endpoint may appear several times.
    #[inline]
    fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = place(hash, self.bits);
        let mask = (1 << self.bits) - 1;
        (first..).map(move |place| self.owner(place & mask))
    }

    #[inline]
    pub(super) fn owner(&self, place: usize) -> usize {
        match &self.owners {
            RingOwners::Few(owners) => usize::from(owners[place]),
            RingOwners::Many(owners) => owners[place] as usize,
        }
    }
}

/// The place of a hash among `1 << bits` places.
#[inline]
pub(super) fn place(hash: u64, bits: u32) -> usize {
    (hash >> (64 - bits)) as usize
}
