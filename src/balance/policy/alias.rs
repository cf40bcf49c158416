//! Draws an endpoint in proportion to weights, in constant time.
//!
//! This is Walker's alias method with Vose's construction ([*A linear algorithm for generating random
//! numbers with a given distribution*]). The table has `n` columns. Each column is as high as the mean
//! weight and is filled by at most two endpoints. One random number chooses the column (by its high
//! bits) and the height in the column (by the bits below), and so the endpoint.
//!
//! A column takes 8 bytes and is aligned to 8 bytes, so a draw reads one cache line, and a table of ten
//! thousand columns is small compared with the other data in a core's cache. The weights are in an array
//! of their own, for pickers that compare endpoints by weight. When all weights are equal, there is no
//! table ([`Chances::Even`]).
//!
//! The address of the column depends on the random number, and the address of the endpoint's state
//! depends on the column. With ten thousand endpoints both come from a distant cache, one after the
//! other. So each draw also makes the next draw ([`DrawnAhead`]), while it waits for the state.
//!
//! Heights are stored in 32 bits. For each column that an endpoint is in, its share is wrong by at most
//! 2⁻³³ of the mean share. Every endpoint is drawn at least once in `n` × 2³² draws on average, however
//! small its weight.
//!
//! [*A linear algorithm for generating random numbers with a given distribution*]: https://doi.org/10.1109/32.92917

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::Rng;

use super::{Candidate, Draw};

/// The share of the requests that each endpoint should get.
#[derive(Debug)]
pub(super) enum Chances {
    /// All shares are equal. Holds the number of endpoints.
    Even(usize),
    Weighted(Alias),
}

impl Chances {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let first = candidates.first().map_or(1.0, |one| one.weight);
        if candidates.iter().all(|one| one.weight == first) {
            Self::Even(candidates.len())
        } else {
            Self::Weighted(Alias::new(candidates))
        }
    }

    /// Draws the index of one endpoint.
    #[inline]
    pub(super) fn one<R: Rng>(&self, rng: &mut R) -> usize {
        match self {
            Self::Even(len) => below(*len, rng.next_u64()),
            Self::Weighted(alias) => alias.one(rng),
        }
    }
}

/// A number below `len`, made from 64 random bits. A multiplication is faster than `%`, and less biased.
#[inline]
pub(super) fn below(len: usize, bits: u64) -> usize {
    ((u128::from(bits) * len as u128) >> 64) as usize
}

/// Two different numbers below `len`, made from 64 random bits; `len` must be at least 2. All pairs are
/// equally likely, up to a relative error of `len` / 2³².
#[inline]
pub(super) fn pair(len: usize, bits: u64) -> (usize, usize) {
    let len = len as u64;
    let first = ((bits >> 32) * len) >> 32;
    let second = ((bits & 0xFFFF_FFFF) * (len - 1)) >> 32;
    // `second` counts the numbers other than `first`, so numbers from `first` on move up by one.
    (
        first as usize,
        (second + u64::from(second >= first)) as usize,
    )
}

/// The table of the alias method.
#[derive(Debug)]
pub(super) struct Alias {
    /// Identifies this table, so that a draw made ahead from another table is not used.
    id: u64,
    columns: Box<[Column]>,
    /// The weight of each endpoint, divided by the largest weight; above zero.
    weights: Box<[f32]>,
}

/// Two endpoints that share a column. The index of the lower endpoint is the index of the column.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Column {
    /// The part of the column that the lower endpoint fills, in units of 2⁻³².
    height: u32,
    upper: u32,
}

/// An index that was drawn from a table before the pick that uses it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DrawnAhead {
    /// The id of the table; 0 for none, because ids start at 1.
    table: u64,
    index: usize,
}

impl Alias {
    fn new(candidates: &[Candidate]) -> Self {
        // Weights are divided by the largest, so that neither sums nor quotients overflow.
        let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
        let weight = |candidate: &Candidate| {
            let relative = candidate.weight / largest;
            relative.max(f64::from(f32::MIN_POSITIVE))
        };
        // The part of each endpoint that is not yet placed, in columns.
        let mut rest: Vec<f64> = candidates.iter().map(weight).collect();
        let weights = rest.iter().map(|weight| *weight as f32).collect();
        let columns_per_weight = rest.len() as f64 / rest.iter().sum::<f64>();
        rest.iter_mut().for_each(|rest| *rest *= columns_per_weight);
        let indexes = 0..rest.len() as u32;
        let column = |index| Column {
            height: u32::MAX,
            upper: index,
        };
        let mut columns: Box<[Column]> = indexes.clone().map(column).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            indexes.partition(|index| rest[*index as usize] < 1.0);
        while let Some(mut lower) = small.pop() {
            let mut amount = rest[lower as usize];
            // An endpoint that fills up a column and has less than one column left is placed next,
            // without a push to `small`. When weights differ little, this happens for nearly all
            // endpoints, one after the other.
            while let Some(upper) = large.last().copied() {
                // Adding 0.5 rounds. A call of `round` costs more than the rest of this loop.
                let height = (amount * 4_294_967_296.0 + 0.5) as u32;
                let height = height.max(1);
                columns[lower as usize] = Column { height, upper };
                amount += rest[upper as usize] - 1.0;
                if amount >= 1.0 {
                    rest[upper as usize] = amount;
                    break;
                }
                large.pop();
                lower = upper;
            }
        }
        // An endpoint that is left over fills its own column except for rounding errors, and shares it
        // with no other.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            // Relaxed: the ids only have to differ, and order no other memory.
            id: NEXT.fetch_add(1, Relaxed),
            columns,
            weights,
        }
    }

    /// The weight of each endpoint, divided by the largest weight; above zero.
    #[inline]
    pub(super) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Draws the index of one endpoint.
    #[inline]
    pub(super) fn one<R: Rng>(&self, rng: &mut R) -> usize {
        self.at(rng.next_u64())
    }

    /// Returns the index that the previous pick drew from this table, and draws the index for the next
    /// pick.
    #[inline]
    pub(super) fn next(&self, draw: &mut Draw<'_>) -> usize {
        match draw.ahead.as_deref_mut() {
            Some(ahead) if ahead.table == self.id => {
                std::mem::replace(&mut ahead.index, self.at(draw.rng.next_u64()))
            }
            _ => self.first(draw),
        }
    }

    #[cold]
    fn first(&self, draw: &mut Draw<'_>) -> usize {
        if let Some(ahead) = draw.ahead.as_deref_mut() {
            *ahead = DrawnAhead {
                table: self.id,
                index: self.one(draw.rng),
            };
        }
        self.one(draw.rng)
    }

    /// The index that 64 random bits draw.
    #[inline]
    fn at(&self, bits: u64) -> usize {
        let product = u128::from(bits) * self.columns.len() as u128;
        let index = (product >> 64) as usize;
        let column = self.columns[index];
        // The result is random, so a branch would often be mispredicted. A factor of 0 or 1 selects
        // without a branch.
        let upper = u32::from((product >> 32) as u32 >= column.height);
        let index = index as u32;
        (index ^ ((index ^ column.upper) & upper.wrapping_neg())) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;
    use crate::instance::Key;

    fn candidates(weights: &[f64]) -> Vec<Candidate<'static>> {
        let weights = weights.iter().enumerate();
        weights
            .map(|(i, w)| Candidate::new(Key::new(i.to_string(), ""), *w))
            .collect()
    }

    /// The share of each endpoint, summed over the columns of the table.
    fn shares(alias: &Alias) -> Vec<f64> {
        let len = alias.columns.len() as f64;
        let mut shares = vec![0.0; alias.columns.len()];
        for (index, column) in alias.columns.iter().enumerate() {
            let lower = f64::from(column.height) / 4_294_967_296.0;
            shares[index] += lower / len;
            shares[column.upper as usize] += (1.0 - lower) / len;
        }
        shares
    }

    proptest! {
        #[test]
        fn the_table_holds_the_shares(
            exponents in prop::collection::vec(-12.0f64..6.0, 2..300),
        ) {
            let weights: Vec<f64> = exponents.iter().map(|e| 10f64.powf(*e)).collect();
            let total: f64 = weights.iter().sum();
            let exact = weights.iter().map(|weight| weight / total);
            for (share, exact) in shares(&Alias::new(&candidates(&weights))).iter().zip(exact) {
                prop_assert!((share - exact).abs() < 1e-9, "{share} for {exact}");
                prop_assert!(*share > 0.0, "nobody starves");
            }
        }

        #[test]
        fn a_draw_is_in_range_and_knows_its_weight(
            weights in prop::collection::vec(any::<f64>(), 1..50),
            bits in prop::collection::vec(any::<u64>(), 100),
        ) {
            let candidates = candidates(&weights);
            let alias = Alias::new(&candidates);
            let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
            for bits in bits.into_iter().chain([0, u64::MAX]) {
                let drawn = alias.at(bits);
                let exact = candidates[drawn].weight / largest;
                let weight = alias.weights()[drawn];
                prop_assert!(weight > 0.0 && weight <= 1.0);
                prop_assert!((f64::from(weight) - exact).abs() <= exact * 1e-7 + 1e-37);
            }
        }

        #[test]
        fn pairs_are_in_range_and_distinct(len in 2usize..5_000, bits: u64) {
            for bits in [bits, 0, u64::MAX, bits | 0xFFFF_FFFF] {
                let (first, second) = pair(len, bits);
                prop_assert!(first < len && second < len && first != second);
            }
        }
    }

    #[test]
    fn what_is_drawn_ahead_is_for_the_same_table_only() {
        let [one, other] = [30, 5].map(|len| {
            let weights: Vec<f64> = (1..=len).map(f64::from).collect();
            Alias::new(&candidates(&weights))
        });
        let mut rng = SmallRng::seed_from_u64(7);
        let mut ahead = DrawnAhead::default();
        let mut counts = [0_u32; 5];
        for _ in 0..100_000 {
            let mut draw = Draw::new(&mut rng).ahead(&mut ahead);
            assert!(one.next(&mut draw) < 30);
            counts[other.next(&mut draw)] += 1;
            counts[other.next(&mut draw)] += 1;
        }
        for (weight, count) in (1..).zip(counts) {
            let due = f64::from(weight) / 15.0 * 200_000.0;
            let off = (f64::from(count) - due).abs();
            assert!(off < 5.0 * due.sqrt(), "{weight}: {count} for {due}");
        }
        let mut draw = Draw::new(&mut rng).ahead(&mut ahead);
        one.next(&mut draw);
        let DrawnAhead { table, index } = ahead;
        let mut draw = Draw::new(&mut rng).ahead(&mut ahead);
        assert_eq!((one.next(&mut draw), one.id), (index, table));
    }

    #[test]
    fn equal_weights_need_no_table() {
        assert!(matches!(
            Chances::new(&candidates(&[0.3; 40])),
            Chances::Even(40)
        ));
        assert!(matches!(
            Chances::new(&candidates(&[0.3, 0.3, 0.31])),
            Chances::Weighted(_)
        ));
    }

    #[test]
    fn a_column_lies_in_one_cache_line() {
        assert_eq!(size_of::<Column>(), 8);
        assert_eq!(align_of::<Column>(), 8);
    }
}
