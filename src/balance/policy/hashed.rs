//! The way from a key's owner to one that can be used.
//!
//! ```text
//! hash ─▶ owner ── usable and below its cap? ── yes ──▶ owner
//!                        │ no: the next in the table, and so on
//!                        └──▶ first that is both, else the least used of those that are usable
//! ```
//!
//! The cap is that of [*Consistent hashing with bounded loads*]: `⌈factor × (m + 1) × share⌉` of the `m`
//! requests in flight. So a hot key spreads over as many endpoints as it needs, always the same ones
//! in the same order, and in sets of up to 64 endpoints nobody is above its cap.
//!
//! `m` is not kept anywhere: a count that every request changes would be the one thing all threads
//! contend for. An endpoint without requests is below any cap, which settles most picks; else the
//! requests of up to 64 endpoints are added up, and in larger sets `m` is estimated from 64 of them.
//!
//! # Beyond 64 endpoints
//! A key that is hotter than the 64 endpoints that follow its owner can serve goes on to others, in an
//! order of its own that all clients share. To walk along it would take as long as the set is large, so
//! picks try two of its beginning at random, take the less used that is below its cap, and else look
//! farther. At most a part of `1 / factor` of all can be full, so some are found soon.
//!
//! As `m` is estimated, some endpoints are above their caps, by less than a third even when all
//! requests have one key (`tests/policies/hashing.rs`).
//!
//! [*Consistent hashing with bounded loads*]: https://arxiv.org/abs/1608.01350

use rand::Rng;

use super::{
    Candidate, Draw, Picker, Set,
    alias::{Shares, below},
};
use crate::{
    balance::pick::hash::{hash_key, mix},
    endpoint::load::LoadTracker,
    error::ConfigError,
    instance::Key,
};

/// The paper's example, and what HAProxy and Google Pub/Sub recommend: tighter moves more keys, looser
/// bounds less.
const FACTOR: f64 = 1.25;

/// Endpoints that are looked at for one pick.
const LOOK: usize = 64;

/// Entries of the table that are passed for one pick: one endpoint may have nearly all of them.
const STEPS: usize = 4_096;

/// How often two others are tried where those are full, each time among half as many more. That gets
/// to any of 10 000 in half of the tries, and in each of the others one of both can be used in one case
/// of three, when everybody else is full.
const TRIES: usize = 32;

/// How far above its due an endpoint may be; `None` for any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bound(pub(super) Option<f64>);

impl Default for Bound {
    fn default() -> Self {
        Self(Some(FACTOR))
    }
}

impl Bound {
    pub(super) fn new(field: &str, factor: f64) -> Result<Self, ConfigError> {
        if (1.0..=1_000.0).contains(&factor) {
            return Ok(Self(Some(factor)));
        }
        let message = format!("{factor} is not from 1 to 1000");
        Err(ConfigError::new(field, message))
    }
}

#[derive(Debug)]
pub struct Hashed {
    places: Places,
    shares: Shares,
    /// Each endpoint's weight divided by that of all.
    dues: Box<[f64]>,
    bound: Bound,
}

impl Hashed {
    pub(super) fn new(
        places: Places,
        candidates: &[Candidate],
        ranked: &[Ranked],
        bound: Bound,
    ) -> Self {
        let mut dues = vec![0.0; ranked.len()];
        for one in ranked {
            dues[one.index] = one.due;
        }
        Self {
            places,
            shares: Shares::new(candidates),
            dues: dues.into(),
            bound,
        }
    }
}

/// A candidate, as the ring sees it.
#[derive(Debug)]
pub(super) struct Ranked {
    pub(super) index: usize,
    /// Of the key.
    pub(super) hash: u64,
    /// The weight divided by that of all.
    pub(super) due: f64,
}

/// The candidates in the order of their keys. All clients get the same, to the last bit, in whatever
/// order they learned of them: sums of floats depend on the order.
pub(super) fn ranked(candidates: &[Candidate]) -> Vec<Ranked> {
    let mut order: Vec<(usize, &Key)> =
        candidates.iter().map(|one| &*one.key).enumerate().collect();
    order.sort_unstable_by_key(|(_, key)| *key);
    // Relative to the largest, because the sum may be infinite.
    let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
    let relative = |index: usize| candidates[index].weight / largest;
    let total: f64 = order.iter().map(|(index, _)| relative(*index)).sum();
    let ranked = |(index, key): (usize, &Key)| Ranked {
        index,
        hash: hash_key(key.to_string().as_bytes()),
        due: relative(index) / total,
    };
    order.into_iter().map(ranked).collect()
}

impl<L: LoadTracker> Picker<L> for Hashed {
    #[inline]
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
        let Some(hash) = draw.hash else {
            return self.shares.one(draw.rng);
        };
        // Whatever the user's hash is worth.
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
        // The table has shown no more than a part of the set, and little of light endpoints.
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

impl Hashed {
    /// One of a large set that is below its cap, when those next to the owner are not.
    #[cold]
    fn farther<L: LoadTracker>(
        &self,
        hash: u64,
        caps: &mut Caps<'_>,
        set: &Set<'_, L>,
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

impl Hashed {
    fn used<L: LoadTracker>(&self, set: &Set<'_, L>, index: usize) -> f64 {
        set.in_flight(index) as f64 / self.dues[index]
    }
}

/// The caps of one pick, worked out when they are first needed.
struct Caps<'a> {
    hashed: &'a Hashed,
    /// The factor times the requests in flight, the one to come included.
    allowed: Option<f64>,
}

impl<'a> Caps<'a> {
    fn new(hashed: &'a Hashed) -> Self {
        Self {
            hashed,
            allowed: None,
        }
    }

    /// Whether one more is within an endpoint's cap.
    #[inline]
    fn allow<L: LoadTracker>(
        &mut self,
        index: usize,
        set: &Set<'_, L>,
        draw: &mut Draw<'_>,
    ) -> bool {
        let Bound(Some(factor)) = self.hashed.bound else {
            return true;
        };
        let in_flight = set.in_flight(index);
        if in_flight == 0 {
            return true;
        }
        let allowed = *self
            .allowed
            .get_or_insert_with(|| factor * (in_flight_of_all(set, &self.hashed.dues, draw) + 1.0));
        // Less what the division was rounded up by, where the cap is a whole number.
        let cap = (allowed * self.hashed.dues[index] - 1e-9).ceil();
        in_flight as f64 + 1.0 <= cap
    }
}

/// Exact for up to 64 endpoints.
fn in_flight_of_all<L: LoadTracker>(set: &Set<'_, L>, dues: &[f64], draw: &mut Draw<'_>) -> f64 {
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

/// The owner of each place of a ring.
#[derive(Debug)]
pub(super) struct Places {
    owners: Owners,
    /// The number of places, as a power of two.
    bits: u32,
}

/// In half the space, and so in nearer caches, where there are less than 65 536 endpoints.
#[derive(Debug)]
enum Owners {
    Few(Box<[u16]>),
    Many(Box<[u32]>),
}

impl Places {
    /// `owners` has `1 << bits` elements.
    pub(super) fn new(owners: &[u32], bits: u32) -> Self {
        let few: Result<Box<[u16]>, _> = owners.iter().map(|owner| u16::try_from(*owner)).collect();
        let owners = few.map_or_else(|_| Owners::Many(owners.into()), Owners::Few);
        Self { owners, bits }
    }

    /// The owner of a hash, then those that follow, round the end. Endpoints may come again.
    #[inline]
    fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = place(hash, self.bits);
        let mask = (1 << self.bits) - 1;
        (first..).map(move |place| self.owner(place & mask))
    }

    #[inline]
    pub(super) fn owner(&self, place: usize) -> usize {
        match &self.owners {
            Owners::Few(owners) => usize::from(owners[place]),
            Owners::Many(owners) => owners[place] as usize,
        }
    }
}

/// The place of a hash, among `1 << bits`.
#[inline]
pub(super) fn place(hash: u64, bits: u32) -> usize {
    (hash >> (64 - bits)) as usize
}
