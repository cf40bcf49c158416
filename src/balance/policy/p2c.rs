//! The power of two choices: the better of two endpoints drawn at random.
//!
//! The documentation of [`P2c`] explains how weights, estimates and requests in flight are compared.
//! This file holds the policy, its picker ([`LessLoaded`]) and the comparison ([`Rule`]).

use rand::{Rng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    Candidate, Draw, Picker, Policy, Set,
    alias::{Chances, pair},
};
use crate::{
    endpoint::load::{GRAIN, InFlight, LoadTracker, PeakEwma},
    error::ConfigError,
};

/// How many times the load of the first endpoint must exceed the load of the second, by default, before
/// the second gets the request. It is above the noise between two estimates of the same endpoint, and
/// below any difference that a user would notice.
const MARGIN: f64 = 1.125;

/// Ratio of two estimates from which the higher one counts for more than its value ([`apart`]). It is
/// above the noise that [`MARGIN`] covers. With 2, a slow endpoint among eleven gets a fifth more
/// requests (`cargo bench --bench quality slow`); without this rule it gets twice as many.
const APART: f64 = 1.5;

/// Seconds. With a grain of at least this, the error of [`LoadTracker::timeless`] makes no difference to
/// a comparison.
const COARSE: f64 = 0.000_4;

/// The power of two choices: the less loaded of two endpoints drawn by weight.
///
/// | | load | for |
/// |---|---|---|
/// | [`P2c::peak_ewma`] | latency × requests in flight | the default; avoids slow and failing endpoints |
/// | [`P2c::in_flight`] | requests in flight | requests of very different duration |
/// | [`P2c::by`] | the value of your own tracker | |
///
/// While loads are about equal, shares are exactly in proportion to weight.
///
/// # How it works
/// Choosing the least loaded of all endpoints means reading all of them, and clients that see the same
/// numbers all choose the same endpoint. The better of two ([*The power of two choices in randomized
/// load balancing*]) has nearly the effect of the best of all for the price of two, and different
/// clients compare different pairs.
///
/// Dividing a load by a weight does not give shares in proportion to weight. With the usual
/// `(in flight + 1) / weight`, the heavier endpoint wins every comparison while nothing is in flight.
/// With weights `[0.99, 0.005, 0.005]`, the first endpoint then gets every request for which it is
/// drawn: 66 % when the draw is uniform ([tower#696]), 99.99 % when the draw is by weight. So both
/// endpoints are drawn in proportion to weight, as in Finagle. Unlike in Finagle, the **first drawn**
/// gets the request unless the second is clearly better. An idle or evenly loaded set gets exactly its
/// shares. The second is clearly better by these rules:
///
/// - *Requests in flight* are counted in requests of the lighter endpoint of the pair. The requests of
///   the heavier one, times `light / heavy`, are what the lighter one would have at the same
///   utilisation. The second endpoint must have at least three quarters of such a request fewer. A
///   smaller difference is rounding, because requests are whole. Without this rule, an idle endpoint
///   with a share of 1 % would always win against a heavier one, and get 2 %. With equal weights the
///   rule is: the second must have fewer.
/// - *Equal endpoints* are compared by requests in flight alone; see below.
/// - *Estimates* of other endpoints contain noise. The second must be lower by a [margin](P2c::margin),
///   and differences well below the [grain](P2c::grain) do not count.
/// - *An estimate more than 1.5 times the other* is not noise. It is multiplied by its ratio to 1.5
///   times the other estimate. Otherwise, while the other endpoints have 18 requests in flight each, an
///   idle endpoint that takes twelve times as long would still get a request. With one slow endpoint
///   among eleven, this rule halves the requests that go to the slow one.
/// - *A lighter endpoint's estimate* is too low: it gets few requests, sees few peaks, and its estimate
///   decays between them. When the second endpoint is the lighter one, its advantage counts only beyond
///   the square of the ratio of weights. This loses nothing: a light endpoint cannot relieve a heavy one
///   by more than that ratio, and requests in flight count in any case. A light endpoint that was never
///   measured still gets its probe.
///
/// With equal weights, the pair is drawn without a table, and the two are always different endpoints.
///
/// # Equal endpoints
/// The estimate of peak EWMA is a maximum. It soon shows that an endpoint is slow, but it also separates
/// equal endpoints by a single response that opened a connection or was late. The endpoint with that
/// response loses each comparison, gets no second sample, and is chosen again only when its estimate has
/// decayed, after tens of seconds. Of two servers that responded in 0.3 ms, one got up to 99 % of the
/// requests in that way.
///
/// So with peak EWMA, estimates are compared only between endpoints that differ. Two endpoints are equal
/// when all of these hold:
///
/// - Their [usual](crate::endpoint::load::Usual) latencies differ by no more than twice the standard
///   error of the difference, plus the grain.
/// - The last request to neither of them failed.
/// - Neither has a request that waits for longer than its mean plus four deviations plus 0.5 ms.
/// - The last response of neither took that long, unless the endpoint has had no request since for twice
///   its estimate.
///
/// The mean follows the samples with a gain of 1/8. A difference of many deviations shows with the
/// second sample, a difference of one deviation after about ten. The price: where servers are slow for
/// seconds at a time and each client sends them few requests, clients avoid slow servers later than they
/// would by peaks alone. With 100 clients and ten servers at 75 % utilisation, three of them at half
/// speed for 5 s each time, the p99 is 221 ms; by requests in flight it is 396 ms
/// (`cargo bench --bench quality antagonist`). With a grain of 0, no two endpoints are equal.
///
/// # Costs
/// A pick draws one random number (one or two with weights). For each of the two endpoints it reads the
/// cache lines of its state; with weights, also one line of the table, and one of the weights when the
/// two are compared. The cost does not depend on the number of endpoints, except for what the caches
/// hold. With the default settings, no endpoint can beat a first endpoint that is idle and responds
/// within microseconds, so then the second is not read.
///
/// # Examples
/// ```
/// use rand::{SeedableRng, rngs::SmallRng};
/// use tower_roster::balance::policy::{Draw, P2c, Trial};
///
/// let mut rng = SmallRng::seed_from_u64(7);
/// let trial = Trial::new(&P2c::peak_ewma(), &[0.99, 0.005, 0.005], &mut rng);
/// let first = (0..10_000).filter(|_| trial.pick(&mut Draw::new(&mut rng)) == 0).count();
/// assert!((9_850..9_950).contains(&first), "99 % while idle: {first}");
/// ```
///
/// [*The power of two choices in randomized load balancing*]: https://doi.org/10.1109/71.963420
/// [tower#696]: https://github.com/tower-rs/tower/issues/696
#[derive(Clone, Debug)]
pub struct P2c<L> {
    tracker: L,
    rule: Rule,
}

impl Default for P2c<PeakEwma> {
    fn default() -> Self {
        Self::peak_ewma()
    }
}

impl P2c<InFlight> {
    /// Creates the policy that compares requests in flight.
    pub fn in_flight() -> Self {
        let mut policy = Self::by(InFlight::new());
        policy.rule.by_requests = true;
        policy
    }
}

impl P2c<PeakEwma> {
    /// Creates the policy that compares latency × requests in flight, with a margin of 1.125 and a grain
    /// of 0.5 ms.
    pub fn peak_ewma() -> Self {
        Self::by_peak_ewma(PeakEwma::new())
    }

    /// Creates the policy of [`peak_ewma`](Self::peak_ewma) with another decay and penalty.
    pub fn by_peak_ewma(tracker: PeakEwma) -> Self {
        let rule = Rule {
            by_requests: false,
            margin: MARGIN,
            grain: GRAIN,
            latencies: true,
        };
        Self { tracker, rule }
    }
}

impl<L: LoadTracker> P2c<L> {
    /// Creates the policy that compares the loads of your own tracker, without margin (1) and grain (0).
    /// When weights differ, the policy assumes that a load is proportional to requests in flight plus
    /// one.
    pub fn by(tracker: L) -> Self {
        let rule = Rule {
            by_requests: false,
            margin: 1.0,
            grain: 0.0,
            latencies: false,
        };
        Self { tracker, rule }
    }

    /// Sets how many times the load of the first drawn endpoint must exceed the load of the second
    /// before the second gets the request; from 1 to 100, by default 1.125 for peak EWMA and 1 for other
    /// trackers. It applies to endpoints that are not equal. At 1, any difference counts, including the
    /// noise of estimates. A large margin treats endpoints as equal until one is worse by that factor.
    /// It has no effect on [`in_flight`](P2c::in_flight), which compares whole numbers of requests.
    ///
    /// # Errors
    /// Returns an error when `margin` is out of range or not a number.
    pub fn margin(mut self, margin: f64) -> Result<Self, ConfigError> {
        if !(1.0..=100.0).contains(&margin) {
            let message = format!("{margin} is not from 1 to 100");
            return Err(ConfigError::new("p2c.margin", message));
        }
        self.rule.margin = margin;
        Ok(self)
    }

    /// Sets what is added to the load of every idle endpoint before loads are compared, in the unit of
    /// the tracker; by default 0.0005 (0.5 ms) for peak EWMA and 0 for other trackers. Differences well
    /// below it do not count. With 0, no two endpoints are treated as equal. It has no effect on
    /// [`in_flight`](P2c::in_flight).
    ///
    /// # Errors
    /// Returns an error when `grain` is negative, infinite or not a number.
    pub fn grain(mut self, grain: f64) -> Result<Self, ConfigError> {
        if !(0.0..=f64::MAX).contains(&grain) {
            let message = format!("{grain} is not a finite number from 0");
            return Err(ConfigError::new("p2c.grain", message));
        }
        self.rule.grain = grain;
        Ok(self)
    }
}

impl<L: LoadTracker> Policy for P2c<L> {
    type Load = L;
    type Picker = LessLoaded;

    fn tracker(&self) -> L {
        self.tracker.fresh(Instant::now())
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> LessLoaded {
        LessLoaded {
            shares: Chances::new(candidates),
            rule: self.rule,
        }
    }
}

/// Decides whether the second endpoint of a pair is clearly better than the first.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Compare requests in flight, whatever the tracker measures. Set by [`P2c::in_flight`], and kept
    /// when that policy is wrapped in an [`AnyPolicy`](super::AnyPolicy), whose tracker measures
    /// latency.
    by_requests: bool,
    margin: f64,
    grain: f64,
    /// Whether loads are latencies multiplied by requests in flight plus one.
    latencies: bool,
}

#[derive(Debug)]
pub struct LessLoaded {
    shares: Chances,
    rule: Rule,
}

impl<L: LoadTracker> Picker<L> for LessLoaded {
    #[inline]
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
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
    fn cannot_be_better<L: LoadTracker>(&self, set: &Set<'_, L>, first: usize) -> bool {
        let settles = self.by_requests
            || self.latencies && self.is_timeless::<L>() && set.timeless(first).is_some();
        settles && set.in_flight(first) == 0
    }

    /// Whether two endpoints have equal latencies as far as is known, so that only requests in flight
    /// are compared. With a grain of 0, no two endpoints are equal.
    #[inline]
    fn are_alike<L: LoadTracker>(
        &self,
        set: &Set<'_, L>,
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
        set: &Set<'_, L>,
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
        set: &Set<'_, L>,
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
    fn is_less(&self, [load, lesser]: [f64; 2], [one, other]: [f64; 2]) -> bool {
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
        set: &Set<'_, L>,
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
        set: &Set<'_, L>,
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
fn apart(one: f64, other: f64) -> f64 {
    one * (one / (APART * other)).max(1.0)
}

/// Whether the second endpoint has fewer requests in flight than the first, by at least three quarters
/// of a request of the lighter one. Counted in those requests, the comparison is
/// `b * w0 / max + 0.75 <= a * w1 / max`.
#[inline]
pub(super) fn has_fewer<L: LoadTracker>(
    set: &Set<'_, L>,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The comparison without divisions decides as the documentation of `P2c` describes.
        #[test]
        fn estimates_are_compared_as_they_are_told(
            estimates in [1e-6f64..10.0, 1e-6f64..10.0],
            in_flight in [0u8..40, 0u8..40],
        ) {
            let Rule { margin, grain, .. } = P2c::peak_ewma().rule;
            let requests = in_flight.map(|in_flight| f64::from(in_flight) + 1.0);
            let [a, b] = estimates.map(|estimate| estimate + grain);
            let first = requests[0] * apart(a, b);
            let second = requests[1] * apart(b, a) * margin;
            prop_assume!((first - second).abs() > 1e-9 * first);
            let loads = [0, 1].map(|at| estimates[at] * requests[at]);
            let is_less = P2c::peak_ewma().rule.is_less(loads, requests);
            prop_assert_eq!(is_less, second < first);
        }
    }
}
