//! The comparison of two endpoints for [`P2c`](super::P2c), which explains it.

use rand::Rng;

use super::{
    CandidateSet, Draw, Picker,
    alias::{Chances, pair},
};
use crate::endpoint::load::LoadTracker;

/// Ratio of two estimates from which the higher one counts for more than its value ([`apart`]). It is
/// above the noise that P2c's margin covers. With 2, a slow endpoint among eleven gets a fifth more
/// requests (`cargo bench --bench quality slow`); without this rule it gets twice as many.
const APART: f64 = 1.5;

/// Seconds. With a grain of at least this, the error of [`LoadTracker::timeless`] makes no difference to
/// a comparison.
const COARSE: f64 = 0.000_4;

/// Decides whether the second endpoint of a pair is clearly better than the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Compare requests in flight, whatever the tracker measures. Set by [`P2c::in_flight`](super::P2c::in_flight), and kept
    /// when that policy is wrapped in an [`AnyPolicy`](super::AnyPolicy), whose tracker measures
    /// latency.
    pub(super) by_requests: bool,
    pub(super) margin: f64,
    pub(super) grain: f64,
    /// Whether loads are latencies multiplied by requests in flight plus one.
    pub(super) latencies: bool,
}

#[derive(Debug)]
pub struct LessLoaded {
    pub(super) shares: Chances,
    pub(super) rule: Rule,
}

impl<L: LoadTracker> Picker<L> for LessLoaded {
    #[inline]
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        match &self.shares {
            Chances::Even(1) => 0,
            Chances::Even(len) => {
                let (first, second) = pair(*len, draw.rng.next_u64());
                if !self.rule.cannot_be_better(set, first)
                    && self.rule.prefers_second(set, first, second, draw)
                {
                    second
                } else {
                    first
                }
            }
            Chances::Weighted(alias) => {
                let first = alias.next(draw);
                if self.rule.cannot_be_better(set, first) {
                    return first;
                }
                let pair = [first, alias.next(draw)];
                self.rule.by_weight(set, pair, alias.weights(), draw)
            }
        }
    }
}

impl Rule {
    /// Whether [`LoadTracker::timeless`] is exact enough. It may be wrong by some microseconds, which is
    /// no difference when the grain is at least [`COARSE`].
    #[inline]
    fn is_timeless<L: LoadTracker>(&self) -> bool {
        !L::TIMED || self.grain >= COARSE
    }

    /// Whether no second endpoint can be clearly better than `first`: it is idle and, where latencies
    /// count, responds within microseconds. Then the second endpoint need not be read. For swift
    /// endpoints this is the usual case.
    #[inline]
    fn cannot_be_better<L: LoadTracker>(&self, set: &CandidateSet<'_, L>, first: usize) -> bool {
        let settles = self.by_requests
            || self.latencies && self.is_timeless::<L>() && set.timeless(first).is_some();
        settles && set.in_flight(first) == 0
    }

    /// Whether two endpoints have equal latencies as far as is known, so that only requests in flight
    /// are compared. With a grain of 0, no two endpoints are equal.
    #[inline]
    fn are_alike<L: LoadTracker>(
        &self,
        set: &CandidateSet<'_, L>,
        pair: [usize; 2],
        draw: &mut Draw<'_>,
    ) -> bool {
        if self.grain == 0.0 {
            return false;
        }
        let mut now = || draw.now();
        match pair.map(|index| set.tracker(index).usual(&mut now)) {
            [Some(one), Some(other)] => one.is_like(other, self.grain),
            _ => false,
        }
    }

    /// The loads of the pair. Often they are known without reading the clock, which costs as much as the
    /// rest of a pick.
    #[inline]
    fn loads<L: LoadTracker>(
        &self,
        set: &CandidateSet<'_, L>,
        pair: [usize; 2],
        draw: &mut Draw<'_>,
    ) -> [f64; 2] {
        let known = if self.is_timeless::<L>() {
            pair.map(|index| set.timeless(index))
        } else {
            [None; 2]
        };
        if let [Some(one), Some(other)] = known {
            return [one, other];
        }
        let trackers = pair.map(|index| set.tracker(index));
        // When each request is timed, the clock is read for the request anyway, so an older time would
        // save nothing.
        let lags = trackers.iter().any(|tracker| !tracker.times(1))
            && trackers.iter().all(|tracker| tracker.may_lag());
        let now = if lags { draw.recent() } else { draw.now() };
        [0, 1].map(|at| known[at].unwrap_or_else(|| set.load(pair[at], now)))
    }

    #[inline]
    fn prefers_second<L: LoadTracker>(
        &self,
        set: &CandidateSet<'_, L>,
        first: usize,
        second: usize,
        draw: &mut Draw<'_>,
    ) -> bool {
        if self.by_requests {
            return set.in_flight(second) < set.in_flight(first);
        }
        if self.are_alike(set, [first, second], draw) {
            return set.in_flight(second) < set.in_flight(first);
        }
        let [load, lesser] = self.loads(set, [first, second], draw);
        if self.grain == 0.0 {
            return lesser * self.margin < load;
        }
        let requests = [first, second].map(|index| set.in_flight(index) as f64 + 1.0);
        self.is_less([load, lesser], requests)
    }

    /// Whether the second load is clearly less than the first. `one` and `other` are the requests in
    /// flight of each, plus one.
    #[inline]
    pub(super) fn is_less(&self, [load, lesser]: [f64; 2], [one, other]: [f64; 2]) -> bool {
        let load = load + self.grain * one;
        let lesser = (lesser + self.grain * other) * self.margin;
        if !self.latencies {
            return lesser < load;
        }
        // The effect of `apart` on both estimates, without a division.
        let (a, b) = (load * other * self.margin, lesser * one);
        if a > APART * b {
            lesser * APART * b < load * a
        } else if b > APART * a {
            lesser * b < load * APART * a
        } else {
            lesser < load
        }
    }

    /// Chooses between two endpoints that were drawn by weight.
    #[inline]
    fn by_weight<L: LoadTracker>(
        &self,
        set: &CandidateSet<'_, L>,
        pair: [usize; 2],
        weights: &[f32],
        draw: &mut Draw<'_>,
    ) -> usize {
        let [first, second] = pair;
        let prefers_second = first != second
            && if self.by_requests || self.are_alike(set, pair, draw) {
                has_fewer(set, pair, weights)
            } else {
                self.prefers_second_by_weight(set, pair, weights, draw)
            };
        if prefers_second { second } else { first }
    }

    #[inline]
    fn prefers_second_by_weight<L: LoadTracker>(
        &self,
        set: &CandidateSet<'_, L>,
        pair: [usize; 2],
        weights: &[f32],
        draw: &mut Draw<'_>,
    ) -> bool {
        let in_flight = pair.map(|index| set.in_flight(index));
        let weights = pair.map(|index| weights[index]);
        let [one, other] = in_lighter(in_flight, weights);
        let loads = self.loads(set, pair, draw);
        let idle = |at: usize| loads[at] / (in_flight[at] as f64 + 1.0);
        let better = idle(0);
        let mut worse = idle(1);
        let ratio = f64::from(weights[0] / weights[1]);
        if ratio > 1.0 && worse < better {
            worse = (worse * (ratio * ratio)).min(better);
        }
        let (a, b) = (better + self.grain, worse + self.grain);
        let [a, b] = if self.latencies {
            [apart(a, b), apart(b, a)]
        } else {
            [a, b]
        };
        b * (other + 1.0) * self.margin < a * (one + 1.0)
    }
}

/// Estimate `one`, multiplied by its ratio to [`APART`] times `other` where that ratio is above 1.
#[inline]
pub(super) fn apart(one: f64, other: f64) -> f64 {
    one * (one / (APART * other)).max(1.0)
}

/// Whether the second endpoint has fewer requests in flight than the first, by at least three quarters
/// of a request of the lighter one. Counted in those requests, the comparison is
/// `b * w0 / max + 0.75 <= a * w1 / max`.
#[inline]
pub(super) fn has_fewer<L: LoadTracker>(
    set: &CandidateSet<'_, L>,
    pair: [usize; 2],
    weights: &[f32],
) -> bool {
    let [first, second] = pair.map(|index| set.in_flight(index) as f32);
    let [one, other] = pair.map(|index| weights[index]);
    second * one + 0.75 * one.max(other) <= first * other
}

/// The requests in flight of two endpoints, counted in requests of the lighter one and rounded to whole
/// numbers in favour of the first: the second must have three quarters of a request fewer. At exactly
/// that difference, [`has_fewer`] decides for the second.
#[inline]
fn in_lighter(in_flight: [usize; 2], weights: [f32; 2]) -> [f64; 2] {
    let [first, second] = in_flight.map(|in_flight| in_flight as f32);
    let first = first * (weights[1] / weights[0]).min(1.0);
    let second = second * (weights[0] / weights[1]).min(1.0);
    // The sum is truncated, so whole numbers keep their value. The cast to an integer truncates, because
    // the baseline instruction set has no instruction that rounds.
    [first + 0.25, second + 0.75].map(|count| f64::from(count as i32))
}
