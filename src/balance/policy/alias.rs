//! Drawing in proportion to weights, in constant time.
//!
//! Walker's alias method with Vose's construction ([*A linear algorithm for generating random numbers
//! with a given distribution*]): each of `n` columns is as high as the mean weight and filled by at most
//! two endpoints. One random number chooses the column (its high bits) and the height in it (the
//! bits below), and so the endpoint.
//!
//! A column is 8 bytes and aligned to them: a draw touches one cache line, whichever endpoint it is, and
//! the table of ten thousand is small beside what else a core's cache must hold. The weights themselves
//! stand apart, for those who compare endpoints by them. When all weights are the same there is no table
//! ([`Shares::Even`]).
//!
//! A column cannot be read before it is drawn, nor a state before its column: of ten thousand endpoints
//! both come from a farther cache, one after the other. So each draw also makes the next one
//! ([`Ahead`]), while it waits for the state anyhow.
//!
//! Heights are kept in 32 bits, so an endpoint's share is off by 2⁻³³ of the mean share at most for each
//! column that it is in; however small its weight, it is drawn once in `n` × 2³² times.
//!
//! [*A linear algorithm for generating random numbers with a given distribution*]: https://doi.org/10.1109/32.92917

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::Rng;

use super::{Candidate, Draw};

/// What each endpoint should get of the requests.
#[derive(Debug)]
pub(super) enum Shares {
    /// The same; the number of endpoints.
    Even(usize),
    Weighted(Alias),
}

impl Shares {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let first = candidates.first().map_or(1.0, |one| one.weight);
        if candidates.iter().all(|one| one.weight == first) {
            Self::Even(candidates.len())
        } else {
            Self::Weighted(Alias::new(candidates))
        }
    }

    /// Draws one endpoint.
    #[inline]
    pub(super) fn one<R: Rng>(&self, rng: &mut R) -> usize {
        match self {
            Self::Even(len) => below(*len, rng.next_u64()),
            Self::Weighted(alias) => alias.one(rng),
        }
    }
}

/// A number below `len`, from 64 random bits. Multiplies where `%` would divide, and is less biased.
#[inline]
pub(super) fn below(len: usize, bits: u64) -> usize {
    ((u128::from(bits) * len as u128) >> 64) as usize
}

/// Two different numbers below `len`, which is at least 2, from 64 random bits. Each pair is as likely
/// as any other, up to `len` / 2³².
#[inline]
pub(super) fn pair(len: usize, bits: u64) -> (usize, usize) {
    let len = len as u64;
    let first = ((bits >> 32) * len) >> 32;
    let second = ((bits & 0xFFFF_FFFF) * (len - 1)) >> 32;
    // The second is one of the others, counted without the first.
    (
        first as usize,
        (second + u64::from(second >= first)) as usize,
    )
}

/// The table of the alias method.
#[derive(Debug)]
pub(super) struct Alias {
    /// Which table this is.
    id: u64,
    columns: Box<[Column]>,
    /// Divided by the largest; above zero.
    weights: Box<[f32]>,
}

/// Two endpoints that share a column. The index of the lower one is the column's.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Column {
    /// How much of the column the lower one fills, of 2³².
    height: u32,
    upper: u32,
}

/// What was drawn from a table ahead of the pick that it is for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    /// The table's id; none has 0.
    table: u64,
    index: usize,
}

impl Alias {
    fn new(candidates: &[Candidate]) -> Self {
        // Relative to the largest, so that neither sums nor quotients overflow.
        let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
        let weight = |candidate: &Candidate| {
            let relative = candidate.weight / largest;
            relative.max(f64::from(f32::MIN_POSITIVE))
        };
        // What is still to be placed of each, in columns.
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
            // Whoever fills up a column and is small then comes next. In a set whose weights differ
            // little that is nearly everybody, one after the other.
            while let Some(upper) = large.last().copied() {
                // Rounded: a call of `round` costs more than all the rest here.
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
        // Whoever is left fills a column but for rounding; its column has no other.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            // Relaxed: the numbers only have to differ.
            id: NEXT.fetch_add(1, Relaxed),
            columns,
            weights,
        }
    }

    /// The weight of each, divided by the largest; above zero.
    #[inline]
    pub(super) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Draws one.
    #[inline]
    pub(super) fn one<R: Rng>(&self, rng: &mut R) -> usize {
        self.at(rng.next_u64())
    }

    /// The same, drawn with the pick before this one, and draws for the next.
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
            *ahead = Ahead {
                table: self.id,
                index: self.one(draw.rng),
            };
        }
        self.one(draw.rng)
    }

    /// Whom 64 random bits draw.
    #[inline]
    fn at(&self, bits: u64) -> usize {
        let product = u128::from(bits) * self.columns.len() as u128;
        let index = (product >> 64) as usize;
        let column = self.columns[index];
        // Nobody can foresee which it is, so there is no branch to foresee: a number of 0 or 1 chooses.
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

    /// The share of each endpoint, added up from the table.
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
        let mut ahead = Ahead::default();
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
        let Ahead { table, index } = ahead;
        let mut draw = Draw::new(&mut rng).ahead(&mut ahead);
        assert_eq!((one.next(&mut draw), one.id), (index, table));
    }

    #[test]
    fn equal_weights_need_no_table() {
        assert!(matches!(
            Shares::new(&candidates(&[0.3; 40])),
            Shares::Even(40)
        ));
        assert!(matches!(
            Shares::new(&candidates(&[0.3, 0.3, 0.31])),
            Shares::Weighted(_)
        ));
    }

    #[test]
    fn a_column_lies_in_one_cache_line() {
        assert_eq!(size_of::<Column>(), 8);
        assert_eq!(align_of::<Column>(), 8);
    }
}
