//! The better of two drawn at random.
//!
//! Choosing the least loaded of all needs all of them, and clients that see the same numbers all choose
//! the same endpoint. The better of two ([*The power of two choices in randomized load balancing*])
//! has nearly the effect of the best of all for the price of two, and the two of each client differ.
//!
//! # Weights
//! Multiplying a load by something is not a way to weigh it. With the usual `(in flight + 1) / weight` the
//! heavier endpoint wins every comparison while nothing is in flight, so of weights `[0.99, 0.005,
//! 0.005]` the first gets everything it is drawn for; when the draw is uniform that is 66 %
//! ([tower#696]), when the draw is by weight it is 99.99 %. So, as in Finagle, both candidates are *drawn*
//! in proportion to weight, and then, unlike in Finagle, the comparison is made to say nothing
//! as long as it knows nothing: the **first drawn wins** unless the second is clearly better. An idle or
//! evenly loaded set gets exactly its shares that way. What "clearly" means:
//!
//! - *Requests in flight* are counted in requests of the lighter of the two: what a heavy endpoint has in
//!   flight, times `light / heavy`, is what the light one would have at the same degree of use. The
//!   second must have fewer by at least three quarters of such a request; less is rounding, for there
//!   are no half requests. Without that, an endpoint of 1 % would take over from a heavy one whenever
//!   it is idle, and get 2 %. For equal weights the rule is the plain one, "fewer".
//! - *Equal endpoints* are compared by requests in flight, as above, and by nothing else; see below.
//! - *Estimates* of the others differ by noise, so the second must be cheaper by a [margin](P2c::margin), and
//!   what is below a [grain](P2c::grain) is no difference at all.
//! - *An estimate that is several times as high* is no noise, and then being idle is no merit: with 18
//!   in flight at each, an endpoint that takes twelve times as long would still get a request whenever it
//!   has none. So where one estimate is more than 1.5 times the other, it is multiplied by what it
//!   exceeds that. Of eleven endpoints with one slow one that halved the requests that went there.
//! - *The estimate of a light endpoint is low for a reason of its own*: it gets few requests, so it has
//!   seen few peaks, and its estimate has sunk since. When the second is lighter, its advantage counts only as
//!   far as it exceeds the square of the ratio of weights. Nothing is lost: a light endpoint cannot
//!   relieve a heavy one by more than that ratio, and whatever piles up in flight counts anyhow. One that
//!   was never measured still gets its probe.
//!
//! For equal weights the pair is drawn without a table, as two different endpoints, and what is said of
//! lighter ones does not arise.
//!
//! # Equal endpoints
//! The estimate of peak EWMA is a maximum. So it soon shows that an endpoint is slow, and it also tells equal
//! endpoints apart: by the one answer that opened a connection, or was late. The endpoint with that answer
//! loses each comparison, gets no second sample, and comes back only when its estimate has sunk, after
//! tens of seconds. Of two servers that answer in 0.3 ms, one got up to 99 % that way.
//!
//! So estimates are compared only where there is a difference. Two endpoints are equal when
//!
//! - what they [usually](crate::endpoint::load::Usual) take differs by no more than twice the standard error
//!   of that difference, and a grain;
//! - neither failed with its last answer;
//! - neither has a request waiting for longer than its mean, four deviations and 0.5 ms;
//! - the last answer of neither took that long, unless it has been left alone since for twice the
//!   estimate.
//!
//! The mean follows the answers with a gain of 1/8: a difference of many deviations shows with the second
//! answer, one of a single deviation after some ten. The price: where servers are slow for seconds at
//! a time and each client sends them few requests, clients turn from them later than by peaks alone. With
//! 100 clients, ten servers at 75 % and three of them at half speed for 5 s each time, the p99 is 221 ms; by
//! requests in flight it is 396 ms (`cargo bench --bench quality antagonist`). With a grain of 0 no endpoints
//! are equal.
//!
//! # What it costs
//! One random number (one or two with weights), and per candidate the cache lines of its state, with
//! weights also one of the table, and one of the weights where two are compared; the same for any
//! number of endpoints but for what the caches hold. Where the first drawn is idle and swift, nobody is
//! better by the default margin and grain; the second is not even fetched then, whatever these are.
//!
//! [*The power of two choices in randomized load balancing*]: https://doi.org/10.1109/71.963420
//! [tower#696]: https://github.com/tower-rs/tower/issues/696

use rand::{Rng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    Candidate, Draw, Picker, Policy, Set,
    alias::{Shares, pair},
};
use crate::{
    endpoint::load::{GRAIN, InFlight, LoadTracker, PeakEwma},
    error::ConfigError,
};

/// How much cheaper the second of two unequal ones must be by default. Above the noise of two estimates of the same endpoint
/// and below any difference that a user would notice.
const MARGIN: f64 = 1.125;

/// How many times as high an estimate must be to count for more than it says: above the noise that
/// [`MARGIN`] is for. With 2, a slow one of eleven gets a fifth more requests
/// (`cargo bench --bench quality slow`); with none, twice as many.
const APART: f64 = 1.5;

/// In seconds: the least grain beside which what a tracker may be off by without looking at the time is
/// no difference.
const COARSE: f64 = 0.000_4;

/// The power of two choices: the less loaded of two endpoints drawn by weight.
///
/// | | load | for |
/// |---|---|---|
/// | [`P2c::peak_ewma`] | latency × requests in flight | the default; avoids slow and failing endpoints |
/// | [`P2c::in_flight`] | requests in flight | requests of very different length |
/// | [`P2c::by`] | whatever a tracker of your own says | |
///
/// While loads are about equal, shares are exactly in proportion to weight. By peak EWMA, endpoints whose
/// [usual](crate::endpoint::load::Usual) latencies differ by no more than chance are compared by requests in
/// flight alone, so that equal servers get equal shares; see the source's essay for how weight and load
/// meet.
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
    /// By requests in flight.
    pub fn in_flight() -> Self {
        let mut policy = Self::by(InFlight::new());
        policy.rule.by_requests = true;
        policy
    }
}

impl P2c<PeakEwma> {
    /// By latency × requests in flight, with a margin of 1.125 and a grain of 0.5 ms.
    pub fn peak_ewma() -> Self {
        Self::by_peak_ewma(PeakEwma::new())
    }

    /// The same, with a decay and a penalty of your own.
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
    /// By what a tracker says, with a margin of 1 and no grain. With weights, the load is taken to
    /// grow as requests in flight plus one.
    pub fn by(tracker: L) -> Self {
        let rule = Rule {
            by_requests: false,
            margin: 1.0,
            grain: 0.0,
            latencies: false,
        };
        Self { tracker, rule }
    }

    /// Sets how many times as high the load of the first drawn must be before the second takes over, where
    /// the two are not equal; from 1 to 100, 1.125 for peak EWMA, else 1. At 1 any difference counts, and the noise of
    /// estimates too; large, endpoints are taken as equal until one is that much worse. It says nothing
    /// of [`in_flight`](P2c::in_flight), which compares whole numbers of requests.
    ///
    /// # Errors
    /// When it is out of range or not a number.
    pub fn margin(mut self, margin: f64) -> Result<Self, ConfigError> {
        if !(1.0..=100.0).contains(&margin) {
            let message = format!("{margin} is not from 1 to 100");
            return Err(ConfigError::new("P2c::margin", message));
        }
        self.rule.margin = margin;
        Ok(self)
    }

    /// Sets what is added to the load of every idle endpoint before loads are compared, in the unit of
    /// the tracker: differences well below it do not count, and without it no two endpoints are taken for equal.
    /// 0.0005 for peak EWMA, that is 0.5 ms; else 0. It says nothing of [`in_flight`](P2c::in_flight), as the margin.
    ///
    /// # Errors
    /// When it is negative, infinite or not a number.
    pub fn grain(mut self, grain: f64) -> Result<Self, ConfigError> {
        if !(0.0..=f64::MAX).contains(&grain) {
            let message = format!("{grain} is not a finite number from 0");
            return Err(ConfigError::new("P2c::grain", message));
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
            shares: Shares::new(candidates),
            rule: self.rule,
        }
    }
}

/// When the second is better.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Whatever is measured: it is the policy that was chosen, also as an
    /// [`AnyPolicy`](super::AnyPolicy).
    by_requests: bool,
    margin: f64,
    grain: f64,
    /// Whether what is compared are latencies times requests in flight.
    latencies: bool,
}

#[derive(Debug)]
pub struct LessLoaded {
    shares: Shares,
    rule: Rule,
}

impl<L: LoadTracker> Picker<L> for LessLoaded {
    #[inline]
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
        match &self.shares {
            Shares::Even(1) => 0,
            Shares::Even(len) => {
                let (first, second) = pair(*len, draw.rng.next_u64());
                if !self.rule.cannot_be_better(set, first)
                    && self.rule.prefers_second(set, first, second, draw)
                {
                    second
                } else {
                    first
                }
            }
            Shares::Weighted(alias) => {
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
    /// Whether what a tracker says without looking at the time will do. It may be off by some
    /// microseconds, which must be no difference here.
    #[inline]
    fn is_timeless<L: LoadTracker>(&self) -> bool {
        !L::TIMED || self.grain >= COARSE
    }

    /// Whether whoever comes second cannot be less loaded than this one, which is idle and, where
    /// latencies count, swift. Then the second need not even be fetched, and mostly it is so.
    #[inline]
    fn cannot_be_better<L: LoadTracker>(&self, set: &Set<'_, L>, first: usize) -> bool {
        let settles = self.by_requests
            || self.latencies && self.is_timeless::<L>() && set.timeless(first).is_some();
        settles && set.in_flight(first) == 0
    }

    /// Whether two endpoints take the same time, as far as is known, so that only requests in flight tell
    /// them apart. Without a grain nothing is the same.
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

    /// The loads of two. Mostly they are known without reading the clock, which costs as much as all
    /// the rest of a pick.
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
        // Where each request is timed the clock is read anyhow.
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

    /// Whether the second of two loads is less than the first, each of so many requests.
    #[inline]
    fn is_less(&self, [load, lesser]: [f64; 2], [one, other]: [f64; 2]) -> bool {
        let load = load + self.grain * one;
        let lesser = (lesser + self.grain * other) * self.margin;
        if !self.latencies {
            return lesser < load;
        }
        // What `apart` does to both, without a division.
        let (a, b) = (load * other * self.margin, lesser * one);
        if a > APART * b {
            lesser * APART * b < load * a
        } else if b > APART * a {
            lesser * b < load * APART * a
        } else {
            lesser < load
        }
    }

    /// Which of two that were drawn by weight.
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

/// An estimate, raised by as much as it is beyond noise above another.
#[inline]
fn apart(one: f64, other: f64) -> f64 {
    one * (one / (APART * other)).max(1.0)
}

/// Whether the second of two endpoints has fewer requests in flight, by at least three quarters of a
/// request of the lighter one. Counted in those, it would be `b * w0 / max + 0.75 <= a * w1 / max`.
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

/// The requests in flight of two endpoints, counted in requests of the lighter one. Whole numbers,
/// rounded in favour of the first: by three quarters of a request, and at exactly that [`has_fewer`]
/// decides for the second.
#[inline]
fn in_lighter(in_flight: [usize; 2], weights: [f32; 2]) -> [f64; 2] {
    let [first, second] = in_flight.map(|in_flight| in_flight as f32);
    let first = first * (weights[1] / weights[0]).min(1.0);
    let second = second * (weights[0] / weights[1]).min(1.0);
    // Whole numbers stay as they are. By way of integers, for want of an instruction that rounds.
    [first + 0.25, second + 0.75].map(|count| f64::from(count as i32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The comparison without divisions is the one that the essay tells.
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
