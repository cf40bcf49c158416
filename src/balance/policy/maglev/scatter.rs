//! How a table is filled for sets so large that the paper's way moves too many keys.
//!
//! There, an endpoint whose slot is taken looks for another in the same turn. So one that leaves sets off a
//! chain: whoever takes its slot leaves one to somebody else. Here, an endpoint asks for one slot in a
//! turn and gets it or not. Then a slot belongs to whoever asks for it in the earliest turn, and one
//! that leaves changes nothing but the owner of its own slots.
//!
//! Chance alone decides how many slots each gets, so there is a cap: the due, and one standard deviation
//! above it (its square root). About a sixth of the endpoints meet it. Whoever has room again when
//! another leaves takes a slot from somebody else, so a chain goes on with that probability, and
//! `1.2 / n` of the keys move. A cap at half of that makes it 1.8 to 2, for shares that are hardly more even.
//!
//! What depends on the whole set would move keys everywhere when it changes a little. So turns are counted
//! in a weight that is a power of two, and what each cap is rounded to depends on the key: the caps grow
//! by a slot one after the other.

use super::{FREE, Filling, Steps};
use crate::balance::policy::{hash::mix, hashed::Ranked};

/// Tries for each slot after which the few that are left go to whoever has room. It takes 14 to 17 for
/// any weights that make sense.
const TRIES: u32 = 64;

struct Asking {
    rank: usize,
    steps: Steps,
    /// Slots that it may still get.
    room: u32,
    has_any: bool,
    /// Slots to ask for in a turn, and those due, in 2⁻³².
    rate: u64,
    due: u64,
}

/// The owner of each slot.
pub(super) fn scatter(ranked: &[Ranked], slots: u32) -> Vec<u32> {
    let unit = unit(ranked);
    let mut free = slots;
    let mut owners = vec![FREE; slots as usize];
    let mut asking: Vec<Asking> = ranked
        .iter()
        .enumerate()
        .map(|(rank, one)| Asking::new(rank, one, unit, slots))
        .collect();
    for turn in 0..TRIES * (slots / ranked.len() as u32 + 1) {
        let mut full = false;
        let mut ask = |one: &mut Asking| {
            one.due += one.rate;
            // Who has so little weight that its turn never comes is not to go without.
            while (one.due >> 32 > 0 || !one.has_any) && one.room > 0 {
                one.due = one.due.saturating_sub(1 << 32);
                let owner = &mut owners[one.steps.slot as usize];
                if *owner == FREE {
                    *owner = ranked[one.rank].index as u32;
                    one.has_any = true;
                    one.room -= 1;
                    full |= one.room == 0;
                    free -= 1;
                }
                one.steps.step();
            }
        };
        // Not the same ones first in each turn.
        if turn % 2 == 0 {
            asking.iter_mut().for_each(&mut ask);
        } else {
            asking.iter_mut().rev().for_each(&mut ask);
        }
        if free == 0 {
            return owners;
        }
        if full {
            asking.retain(|one| one.room > 0);
        }
    }
    let ranks: Vec<usize> = asking
        .iter()
        .flat_map(|one| std::iter::repeat_n(one.rank, one.room as usize))
        .collect();
    let mut filling = Filling {
        owners,
        turns: ranked
            .iter()
            .map(|one| Steps::new(one.hash, slots))
            .collect(),
    };
    for rank in ranks.into_iter().take(free as usize) {
        filling.take(rank, ranked[rank].index);
    }
    filling.owners
}

impl Asking {
    fn new(rank: usize, one: &Ranked, unit: f64, slots: u32) -> Self {
        let due = one.due * f64::from(slots);
        // From 0 to 1, the same for a key in any set.
        let dither = (mix(one.hash ^ 1) >> 32) as f64 / (1u64 << 32) as f64;
        // The dues add up to all slots, so there is always room for the rest of them.
        let room = due.ceil().max(due + due.sqrt() + dither).max(1.0);
        Self {
            rank,
            steps: Steps::new(one.hash, slots),
            room: room as u32,
            has_any: false,
            rate: (one.weight / unit * (1u64 << 32) as f64) as u64,
            due: 1 << 31,
        }
    }
}

/// The power of two that is next to the mean weight. It changes where that is 1.43, because equal weights
/// of one must not depend on how their mean is rounded.
fn unit(ranked: &[Ranked]) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    let heaviest = ranked.iter().max_by(|a, b| a.weight.total_cmp(&b.weight));
    let mean = heaviest.map_or(1.0, |one| one.weight / (one.due * ranked.len() as f64));
    let mean = (mean * 1.4).min(f64::MAX);
    f64::from_bits(mean.to_bits() & EXPONENT).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt as _, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        balance::policy::{Candidate, hashed::ranked},
        instance::Key,
    };

    const SLOTS: u32 = 65_537;

    /// As many slots for each as a thousand have of the large table.
    const MANY: u32 = 64;

    /// The owners by key, and how many each has.
    fn filled(weights: impl IntoIterator<Item = (u32, f64)>) -> (Vec<u32>, Vec<u32>) {
        let (ids, weights): (Vec<u32>, Vec<f64>) = weights.into_iter().unzip();
        let candidate =
            |(id, weight): (&u32, &f64)| Candidate::new(Key::new(format!("web-{id}"), ""), *weight);
        let candidates: Vec<Candidate> = ids.iter().zip(&weights).map(candidate).collect();
        let owners = scatter(&ranked(&candidates), SLOTS);
        let mut counts = vec![0; ids.len()];
        owners.iter().for_each(|owner| counts[*owner as usize] += 1);
        let owners = owners.iter().map(|owner| ids[*owner as usize]);
        (owners.collect(), counts)
    }

    fn moved(before: &[u32], after: &[u32]) -> f64 {
        let moved = before.iter().zip(after).filter(|(a, b)| a != b).count();
        moved as f64 / f64::from(SLOTS)
    }

    #[test]
    fn one_that_comes_or_goes_moves_little_more_than_its_due() {
        let equal = |id: u32| (id, 1.0);
        let unequal = |id: u32| (id, 0.3 + f64::from(id * 7 % 10));
        for weight in [equal, unequal] {
            let total: f64 = (0..MANY).map(|id| weight(id).1).sum();
            let (all, _) = filled((0..MANY).map(weight));
            for gone in [0, 13, 40, 63] {
                let due = weight(gone).1 / total;
                let (without, _) = filled((0..MANY).filter(|id| *id != gone).map(weight));
                let moved = moved(&all, &without);
                assert!(moved <= 1.8 * due, "{gone}: {moved} for {due}");
            }
        }
    }

    #[test]
    fn shares_are_near_the_dues_and_below_the_cap() {
        for weight in [|_| 1.0, |id| f64::from(id % 5 + 1)] {
            let total: f64 = (0..MANY).map(weight).sum();
            let (_, counts) = filled((0..MANY).map(|id| (id, weight(id))));
            for (id, count) in (0..MANY).zip(counts) {
                let due = weight(id) / total * f64::from(SLOTS);
                let count = f64::from(count);
                assert!(count <= due + due.sqrt() + 1.0, "{id}: {count} of {due}");
                assert!(count >= due - 6.0 * due.sqrt(), "{id}: {count} of {due}");
            }
        }
    }

    #[test]
    fn weights_of_any_size_fill_the_table_and_leave_nobody_out() {
        let mut rng = SmallRng::seed_from_u64(7);
        let any = |rng: &mut SmallRng| f64::from_bits(rng.next_u64() >> 1);
        for _ in 0..20 {
            let weights = (0..MANY).map(|id| (id, any(&mut rng).clamp(1e-300, 1e300)));
            let (_, counts) = filled(weights);
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
        for weight in [f64::MIN_POSITIVE / 8.0, f64::MAX] {
            let (_, counts) = filled((0..MANY).map(|id| (id, weight)));
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
        let light = rng.random_range(1e-9..1e-3);
        let (_, counts) = filled((0..MANY).map(|id| (id, if id < 2 { 1.0 } else { light })));
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}
