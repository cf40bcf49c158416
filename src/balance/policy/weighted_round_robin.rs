//! Turns in proportion to weights, evenly spread and exact.
//!
//! The documentation of [`WeightedRoundRobin`] describes the cycle. The owner of a position is found
//! through an index ([`CycleOwners`]) with one entry per block of positions, about as many as an endpoint has
//! on average. A look-up reads one or two cache lines; a binary search is needed only among endpoints
//! much lighter than the average. A pick costs mainly its counter: a cache line that all threads write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::{Rng, rngs::SmallRng};

use super::{Candidate, CandidateSet, Draw, Picker, Policy};
use crate::endpoint::load::{InFlight, LoadTracker};

/// The largest number of positions in a cycle. It leaves room for rounding up, so that positions fit
/// into 32 bits.
const POSITIONS: u64 = 1 << 31;

/// The turns of cycles of up to this length are stored in a table, which fits into the first-level cache
/// and is made in less than a millisecond. A longer cycle always has a good stride.
const SHORT: u64 = 1_024;

/// One endpoint after the other, each as often as its weight.
///
/// The turns of one endpoint are spread evenly. They are exact over each whole cycle, which has as many
/// picks as the weights add up to. Each set starts at a random turn, so that clients which discover a
/// change at the same time do not all send their next request to the same endpoint.
///
/// Load is ignored. Where requests differ in duration or endpoints in speed, prefer [`P2c`](super::P2c).
///
/// # How it works
/// nginx's smooth round robin and EDF queues change a structure for each pick, under a lock and in O(n)
/// or O(log n). gRPC's static stride ([gRFC A58], as in grpc-go) shares only a counter, but it skips
/// endpoints until one is due: with one heavy endpoint among `n` light ones, a pick takes about `n / 2`
/// steps.
///
/// Here a cycle has as many positions as the weights add up to, and each endpoint owns as many positions
/// as its weight. A counter shared by all threads visits them with a constant stride:
///
/// ```text
///   weights 5, 1, 1     owner    A A A A A B C      position = counter × stride mod total
///   total 7, stride 4   position 0 1 2 3 4 5 6      turns     0 4 1 5 2 6 3  =  A A A B A C A
/// ```
///
/// The stride and the total have no common divisor, so any `total` successive turns visit each position
/// once: every endpoint gets exactly its weight, from any start. The stride is about the total divided
/// by the golden ratio, whose steps fall most evenly into any interval ([three-distance theorem]). After
/// any number of turns, each endpoint is within four or five requests of its due, and mostly within one.
/// Short cycles may have no such stride (6 has a common divisor with all smaller strides but 1 and 5),
/// so their turns are stored in nginx's order.
///
/// Weights that are whole numbers are divided by their greatest common divisor. Other weights, as during
/// slow start, are first rounded to 2³¹ positions in total.
///
/// [gRFC A58]: https://github.com/grpc/proposal/blob/master/A58-client-side-weighted-round-robin-lb-policy.md
/// [three-distance theorem]: https://en.wikipedia.org/wiki/Three-gap_theorem
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightedRoundRobin;

impl WeightedRoundRobin {
    /// Creates the policy.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for WeightedRoundRobin {
    type Load = InFlight;
    type Picker = Cycle;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Cycle {
        Cycle::new(candidates, rng.next_u64())
    }
}

#[derive(Debug)]
pub struct Cycle {
    /// The number of picks so far, from a random start. Relaxed: each number is given once, and orders
    /// no other memory.
    turn: AtomicU64,
    total: u64,
    turns: CycleTurns,
}

#[derive(Debug)]
enum CycleTurns {
    /// Each endpoint has one turn in the cycle.
    Even,
    /// The endpoint of each turn.
    Written(Box<[u32]>),
    Stride(u64, CycleOwners),
}

impl Cycle {
    fn new(candidates: &[Candidate], start: u64) -> Self {
        let ends = ends(candidates);
        let total = ends.last().map_or(1, |end| u64::from(*end));
        Self {
            turn: AtomicU64::new(start),
            total,
            turns: if total == ends.len() as u64 {
                CycleTurns::Even
            } else if total <= SHORT {
                CycleTurns::Written(smooth(&ends))
            } else {
                CycleTurns::Stride(stride(total), CycleOwners::new(ends))
            },
        }
    }
}

impl<L: LoadTracker> Picker<L> for Cycle {
    fn pick(&self, _: &CandidateSet<'_, L>, _: &mut Draw<'_>) -> usize {
        let turn = self.turn.fetch_add(1, Relaxed) % self.total;
        match &self.turns {
            CycleTurns::Even => turn as usize,
            CycleTurns::Written(turns) => turns[turn as usize] as usize,
            // Both factors are below 2³², so the product fits into 64 bits.
            CycleTurns::Stride(stride, owners) => owners.of(turn * stride % self.total),
        }
    }
}

/// nginx's smooth order: in each turn, every endpoint's credit grows by its weight. The endpoint with
/// the most credit gets the turn, and its credit falls by the sum of all weights.
fn smooth(ends: &[u32]) -> Box<[u32]> {
    let total = ends.last().copied().map_or(0, i64::from);
    let starts = [0].into_iter().chain(ends.iter().copied());
    let weights: Vec<i64> = ends
        .iter()
        .zip(starts)
        .map(|(end, start)| i64::from(end - start))
        .collect();
    let mut credit = vec![0; ends.len()];
    let turn = |_| {
        let mut most_credit = 0;
        for (index, weight) in weights.iter().enumerate() {
            credit[index] += weight;
            if credit[index] > credit[most_credit] {
                most_credit = index;
            }
        }
        credit[most_credit] -= total;
        most_credit as u32
    };
    (0..total).map(turn).collect()
}

/// The owner of each position.
#[derive(Debug)]
struct CycleOwners {
    /// The end of each endpoint's positions.
    ends: Box<[u32]>,
    /// The owners of the positions that are multiples of 2^`shift`, followed by the last endpoint.
    index: Box<[u32]>,
    shift: u32,
}

impl CycleOwners {
    fn new(ends: Box<[u32]>) -> Self {
        let total = ends.last().copied().unwrap_or(1);
        let shift = (total / ends.len() as u32).ilog2();
        let mut owner = 0;
        let starts = (0..=(total - 1) >> shift).map(|block| block << shift);
        let mut index: Vec<u32> = starts
            .map(|position| {
                while ends[owner] <= position {
                    owner += 1;
                }
                owner as u32
            })
            .collect();
        index.push(ends.len() as u32 - 1);
        Self {
            ends,
            index: index.into(),
            shift,
        }
    }

    #[inline]
    fn of(&self, position: u64) -> usize {
        let block = (position >> self.shift) as usize;
        let first = self.index[block] as usize;
        let last = self.index[block + 1] as usize;
        let within = &self.ends[first..last];
        first + within.partition_point(|end| u64::from(*end) <= position)
    }
}

/// Gives each endpoint its positions, at least one. Returns their ends.
fn ends(candidates: &[Candidate]) -> Box<[u32]> {
    let total: f64 = candidates.iter().map(|one| one.weight).sum();
    let whole = candidates.iter().all(|one| one.weight.fract() == 0.0);
    if whole && total <= POSITIONS as f64 {
        let common = candidates
            .iter()
            .fold(0, |common, one| divisor(one.weight as u64, common));
        let mut end = 0;
        let positions = candidates.iter().map(|one| {
            end += one.weight as u64 / common;
            end as u32
        });
        return positions.collect();
    }
    // Weights are divided by the largest, because their sum may be infinite.
    let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
    let total: f64 = candidates.iter().map(|one| one.weight / largest).sum();
    let (mut sum, mut end) = (0.0, 0u32);
    let positions = candidates.iter().map(|one| {
        sum += one.weight / largest;
        // Rounds the ends and not the weights, so that rounding errors do not add up.
        end = ((sum / total * POSITIONS as f64).round() as u32).max(end + 1);
        end
    });
    positions.collect()
}

/// The number nearest to `total` divided by the golden ratio that has no common divisor with `total`.
fn stride(total: u64) -> u64 {
    let golden = (total as f64 * 0.618_033_988_749_894_9).round() as u64;
    let near = (0..golden).flat_map(|off| [golden - off, golden + off]);
    near.into_iter()
        .find(|stride| divisor(*stride, total) == 1)
        .unwrap_or(1)
}

/// The greatest common divisor.
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::instance::Key;

    fn candidates(weights: &[f64]) -> Vec<Candidate<'static>> {
        let weights = weights.iter().enumerate();
        weights
            .map(|(i, w)| Candidate::new(Key::new(i.to_string(), ""), *w))
            .collect()
    }

    fn owners(weights: &[f64]) -> (CycleOwners, u64) {
        let ends = ends(&candidates(weights));
        let total = u64::from(*ends.last().expect("weights"));
        (CycleOwners::new(ends), total)
    }

    proptest! {
        #[test]
        fn every_position_is_owned_by_whom_the_ends_say(
            weights in prop::collection::vec(1u32..2_000, 1..60),
        ) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let (owners, total) = owners(&weights);
            for position in 0..total {
                let plain = owners.ends.iter().position(|end| u64::from(*end) > position);
                prop_assert_eq!(Some(owners.of(position)), plain);
            }
        }

        #[test]
        fn any_weights_make_a_cycle(weights in prop::collection::vec(any::<f64>(), 1..60)) {
            let (owners, total) = owners(&weights);
            prop_assert!(total <= POSITIONS + 60);
            prop_assert!(owners.ends.is_sorted_by(|a, b| a < b), "nobody starves");
            prop_assert_eq!(owners.of(0), 0);
            prop_assert_eq!(owners.of(total - 1), weights.len() - 1);
        }

        #[test]
        fn strides_visit_each_position_once(total in 2u64..5_000) {
            prop_assert_eq!(divisor(stride(total), total), 1);
            prop_assert!(stride(total) < total);
        }
    }

    #[test]
    fn whole_weights_are_divided_by_what_they_have_in_common() {
        assert_eq!(*ends(&candidates(&[10.0, 20.0, 30.0])), [1, 3, 6]);
        assert_eq!(*ends(&candidates(&[65_535.0, 1.0])), [65_535, 65_536]);
    }

    #[test]
    fn short_cycles_are_in_the_order_of_nginx() {
        let turns = smooth(&ends(&candidates(&[5.0, 1.0, 1.0])));
        assert_eq!(*turns, [0, 0, 1, 0, 2, 0, 0]);
    }
}
