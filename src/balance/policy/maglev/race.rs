//! How a table is filled: a race for its slots.
//!
//! Each endpoint asks for slots at random, at times and in an order that the hash of its key decides, and
//! as often as its weight says. A slot belongs to whoever asks for it first. So one that leaves changes
//! nothing but the owner of its own slots, and one that comes only takes those it asks for before
//! everybody else. That is rendezvous hashing, without a look at each endpoint for each slot.
//!
//! Chance alone would decide how many slots each gets, off by the square root of its due. So who has its
//! due asks no more. But then one that leaves lets others take a slot more each, late in the race, from
//! somebody else, and so on; and the more endpoints there are, the more slots are taken that late. So
//! caps are somewhat above the due (the *slack*): not for shares from 1 / 128 on, and the smaller a
//! share the more, which keeps what moves below twice what must. At most it is the square root of the due,
//! which an eighth of the endpoints then meet.
//!
//! Nothing may depend on the whole set but what hardly changes with it, or keys move everywhere. Caps
//! change by parts of a slot when one comes or goes, and where they are rounded depends on the key, so
//! they grow one after the other. Times are counted from shares, which changes all of them alike.
//!
//! The race is run in laps. Within one, endpoints ask one after the other, and a slot goes from one that
//! asked later to one that asked earlier: how long a lap is makes no difference, where an endpoint has
//! far more slots than it asks for in one.

use super::Spread;
use crate::balance::hash::mix;
use crate::balance::policy::hashed::Ranked;

/// The share from which there is no slack, and how many slots of slack there are for each part of all
/// that a share is smaller.
const EXACT: f64 = 128.0;
const SLACK: f64 = 1.0 / 16.0;

/// How often an endpoint asks in a lap, in the mean.
const LAP: f64 = 8.0;

/// How often is asked for each slot, after which the few that are left are handed out. It takes 10 to 25
/// for any weights that make sense.
const TRIES: u64 = 100;

/// Below any share that makes a difference, and its inverse is a number.
const LEAST: f64 = 1e-300;

const NOBODY: u32 = u32::MAX;

/// The index of each slot's owner. There must be at least twice as many slots as endpoints.
pub(super) fn race(ranked: &[Ranked], spread: Spread) -> Vec<u32> {
    let mut race = Race::new(ranked, spread);
    race.run();
    race.hand_out_the_rest();
    race.leave_nobody_out();
    let index = |taken: &Taken| ranked[taken.rank as usize].index as u32;
    race.slots.iter().map(index).collect()
}

struct Race<'a> {
    ranked: &'a [Ranked],
    spread: Spread,
    slots: Vec<Taken>,
    free: u32,
    /// How much each may still take, in [`Spread::size`]s. A slot of size two may exceed it by one.
    rooms: Vec<i64>,
}

/// Who has a slot, and since when in the lap in which it was taken.
#[derive(Clone, Copy)]
struct Taken {
    rank: u32,
    at: f32,
}

/// An endpoint, the slot that it asks for next, and when.
struct Racer {
    rank: u32,
    slot: u32,
    time: f64,
    asks: Asks,
}

/// The slots that an endpoint asks for, without end.
struct Asks {
    state: u64,
    asked: f64,
    /// The time from one to the next, in the mean.
    every: f64,
}

impl Asks {
    fn new(one: &Ranked) -> Self {
        Self {
            state: mix(one.hash),
            asked: 0.0,
            every: 1.0 / one.due.max(LEAST),
        }
    }

    #[inline]
    fn next(&mut self, spread: Spread) -> (u32, f64) {
        let hash = mix(self.state);
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let time = (self.asked + part(hash)) * self.every;
        self.asked += 1.0;
        (spread.slot(hash), time)
    }
}

/// The upper half of a hash, as a number from 0 to 1.
#[inline]
fn part(hash: u64) -> f64 {
    f64::from((hash >> 32) as u32) / 4_294_967_296.0
}

/// How much an endpoint may take, in [`Spread::size`]s.
///
/// Rounded by chance to a slot of mean size, less what a slot that does not fit exceeds the cap by. So
/// nothing jumps where all slots have been split and a table begins to split the halves.
fn cap(one: &Ranked, spread: Spread) -> i64 {
    let due = one.due * f64::from(spread.slots);
    let slack = (1.0 / one.due.max(LEAST) - EXACT) * SLACK;
    let slots = due + slack.min(due.sqrt()).max(0.0);
    let size = f64::from(spread.total()) / f64::from(spread.slots);
    (slots * size + part(mix(one.hash ^ 1)) * size - (size - 1.0)) as i64
}

impl<'a> Race<'a> {
    fn new(ranked: &'a [Ranked], spread: Spread) -> Self {
        let free = Taken {
            rank: NOBODY,
            at: 0.0,
        };
        Self {
            ranked,
            spread,
            slots: vec![free; spread.slots as usize],
            free: spread.slots,
            rooms: ranked.iter().map(|one| cap(one, spread)).collect(),
        }
    }

    fn run(&mut self) {
        let racer = |(rank, one): (usize, &Ranked)| {
            let mut asks = Asks::new(one);
            let (slot, time) = asks.next(self.spread);
            Racer {
                rank: rank as u32,
                slot,
                time,
                asks,
            }
        };
        let mut racers: Vec<Racer> = self.ranked.iter().enumerate().map(racer).collect();
        // Small beside the slots, so that the cache holds them: mostly a slot is taken.
        let [mut before, mut in_this_lap] = [(); 2].map(|()| Bits::new(self.spread.slots));
        let mut fresh = Vec::new();
        let mut tries = TRIES * u64::from(self.spread.slots);
        let (mut begin, mut lap) = (0.0, self.lap(&racers));
        while self.free > 0 && !racers.is_empty() && tries > 0 {
            let (end, per_lap) = (begin + lap, 1.0 / lap);
            tries = tries.saturating_sub(racers.len() as u64);
            let mut any_full = false;
            for racer in &mut racers {
                while racer.time < end {
                    if self.rooms[racer.rank as usize] <= 0 {
                        any_full = true;
                        break;
                    }
                    let slot = racer.slot;
                    if !before.has(slot) {
                        let at = ((racer.time - begin) * per_lap) as f32;
                        if !in_this_lap.has(slot) {
                            in_this_lap.insert(slot);
                            fresh.push(slot);
                            self.free -= 1;
                            self.take(slot, racer.rank, at);
                        } else if at < self.slots[slot as usize].at {
                            self.give_back(slot);
                            self.take(slot, racer.rank, at);
                        }
                    }
                    (racer.slot, racer.time) = racer.asks.next(self.spread);
                    tries = tries.saturating_sub(1);
                }
            }
            for slot in fresh.drain(..) {
                before.insert(slot);
                in_this_lap.remove(slot);
            }
            begin = end;
            if any_full {
                racers.retain(|racer| self.rooms[racer.rank as usize] > 0);
                lap = self.lap(&racers);
            }
        }
    }

    fn lap(&self, racers: &[Racer]) -> f64 {
        let due = |racer: &Racer| self.ranked[racer.rank as usize].due;
        let dues: f64 = racers.iter().map(due).sum();
        LAP * racers.len() as f64 / dues.max(LEAST)
    }

    #[inline]
    fn take(&mut self, slot: u32, rank: u32, at: f32) {
        self.slots[slot as usize] = Taken { rank, at };
        self.rooms[rank as usize] -= self.spread.size(slot);
    }

    #[inline]
    fn give_back(&mut self, slot: u32) {
        let rank = self.slots[slot as usize].rank;
        self.rooms[rank as usize] += self.spread.size(slot);
    }

    /// Where caps were rounded down, all can be full before the table is.
    fn hand_out_the_rest(&mut self) {
        for slot in 0..self.spread.slots {
            if self.slots[slot as usize].rank == NOBODY {
                let with_room = |rank: usize| self.rooms[rank] > 0;
                let hash = |rank: usize| mix(self.ranked[rank].hash ^ mix(slot.into()));
                let best = (0..self.rooms.len()).max_by_key(|rank| (with_room(*rank), hash(*rank)));
                self.take(slot, best.unwrap_or(0) as u32, 0.0);
            }
        }
    }

    /// Whoever was too light to get any has the first slot it asks for whose owner has others.
    fn leave_nobody_out(&mut self) {
        let mut counts = vec![0_u32; self.ranked.len()];
        for taken in &self.slots {
            counts[taken.rank as usize] += 1;
        }
        for (rank, one) in self.ranked.iter().enumerate() {
            let mut asks = Asks::new(one);
            while counts[rank] == 0 {
                let (slot, _) = asks.next(self.spread);
                let owner = self.slots[slot as usize].rank as usize;
                if counts[owner] > 1 {
                    counts[owner] -= 1;
                    counts[rank] = 1;
                    self.take(slot, rank as u32, 0.0);
                }
            }
        }
    }
}

/// A set of slots.
struct Bits(Vec<u64>);

impl Bits {
    fn new(slots: u32) -> Self {
        Self(vec![0; slots as usize / 64 + 1])
    }

    #[inline]
    fn has(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    #[inline]
    fn insert(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    #[inline]
    fn remove(&mut self, slot: u32) {
        self.0[slot as usize / 64] &= !(1 << (slot % 64));
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt as _, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        balance::policy::{Candidate, hashed::ranked},
        instance::Key,
    };

    /// Of two sizes, most of one of them.
    const SPREAD: Spread = Spread {
        slots: 100_000,
        whole: 65_536,
    };

    /// The owners by key, and the share of each.
    fn filled(weights: impl IntoIterator<Item = (u32, f64)>) -> (Vec<u32>, Vec<f64>) {
        let (ids, weights): (Vec<u32>, Vec<f64>) = weights.into_iter().unzip();
        let candidate =
            |(id, weight): (&u32, &f64)| Candidate::new(Key::new(format!("web-{id}"), ""), *weight);
        let candidates: Vec<Candidate> = ids.iter().zip(&weights).map(candidate).collect();
        let owners = race(&ranked(&candidates), SPREAD);
        let mut shares = vec![0.0; ids.len()];
        for (slot, owner) in owners.iter().enumerate() {
            shares[*owner as usize] += SPREAD.size(slot as u32) as f64 / f64::from(SPREAD.total());
        }
        let owners = owners.iter().map(|owner| ids[*owner as usize]);
        (owners.collect(), shares)
    }

    fn moved(before: &[u32], after: &[u32]) -> f64 {
        let owners = before.iter().zip(after).enumerate();
        let size = |(slot, (a, b))| {
            if a == b { 0 } else { SPREAD.size(slot as u32) }
        };
        owners.map(size).sum::<i64>() as f64 / f64::from(SPREAD.total())
    }

    #[test]
    fn one_that_comes_or_goes_moves_little_more_than_its_due() {
        fn equal(id: u32) -> (u32, f64) {
            (id, 1.0)
        }
        fn unequal(id: u32) -> (u32, f64) {
            (id, 0.3 + f64::from(id * 7 % 10))
        }
        type Weight = fn(u32) -> (u32, f64);
        for (weight, len, times) in [
            (equal as Weight, 3, 1.1),
            (equal, 64, 1.4),
            (unequal, 64, 1.9),
            (equal, 400, 1.8),
        ] {
            let total: f64 = (0..len).map(|id| weight(id).1).sum();
            let (all, _) = filled((0..len).map(weight));
            for gone in [0, len / 3, len - 1] {
                let due = weight(gone).1 / total;
                let (without, _) = filled((0..len).filter(|id| *id != gone).map(weight));
                let moved = moved(&all, &without);
                assert!(moved >= 0.8 * due, "{gone} of {len}: {moved} for {due}");
                assert!(moved <= times * due, "{gone} of {len}: {moved} for {due}");
            }
        }
    }

    #[test]
    fn weights_scaled_alike_fill_the_table_alike() {
        let weights = |factor: f64| (0..50).map(move |id| (id, f64::from(id % 5 + 1) * factor));
        let (owners, _) = filled(weights(1.0));
        for factor in [1.1, 0.7, 1e200, 1e-200] {
            assert_eq!(filled(weights(factor)).0, owners, "times {factor}");
        }
    }

    #[test]
    fn shares_are_exact_for_few_and_near_it_for_many() {
        for weight in [|_| 1.0, |id| f64::from(id % 5 + 1)] {
            for (len, below, above) in [(3, 0.001, 0.001), (20, 0.02, 0.001), (400, 0.5, 0.2)] {
                let total: f64 = (0..len).map(weight).sum();
                let (_, shares) = filled((0..len).map(|id| (id, weight(id))));
                for (id, share) in (0..len).zip(shares) {
                    let of_due = share / (weight(id) / total);
                    assert!(of_due <= 1.0 + above, "{id} of {len}: {of_due}");
                    assert!(of_due >= 1.0 - below, "{id} of {len}: {of_due}");
                }
            }
        }
    }

    #[test]
    fn weights_of_any_size_fill_the_table_and_leave_nobody_out() {
        let mut rng = SmallRng::seed_from_u64(7);
        let any = |rng: &mut SmallRng| f64::from_bits(rng.next_u64() >> 1);
        let everyone = |weights: Vec<f64>| {
            let (_, shares) = filled((0..).zip(weights.iter().copied()));
            assert!(
                shares.iter().all(|share| *share > 0.0),
                "{weights:?}: {shares:?}"
            );
        };
        for _ in 0..20 {
            everyone((0..64).map(|_| any(&mut rng)).collect());
        }
        for weight in [f64::MIN_POSITIVE / 8.0, f64::MAX] {
            everyone(vec![weight; 64]);
        }
        let light = rng.random_range(1e-9..1e-3);
        everyone((0..64).map(|id| if id < 2 { 1.0 } else { light }).collect());
        everyone(
            (0..64)
                .map(|id| if id < 2 { 1e308 } else { 1e-308 })
                .collect(),
        );
        everyone(vec![1.0; SPREAD.slots as usize / 2]);
    }
}
