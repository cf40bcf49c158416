//! The power of two choices: the better of two endpoints drawn at random.
//!
//! The documentation of [`P2c`] explains how weights, estimates and requests in flight are compared.
//! [`less_loaded`](super::less_loaded) holds its picker and the comparison.

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{
    Candidate, Policy,
    alias::Chances,
    less_loaded::{LessLoaded, Rule},
};
use crate::{
    endpoint::load::{GRAIN, InFlight, LoadTracker, PeakEwma},
    error::{ConfigError, check_range},
};

/// How many times the load of the first endpoint must exceed the load of the second, by default, before
/// the second gets the request. It is above the noise between two estimates of the same endpoint, and
/// below any difference that a user would notice.
const MARGIN: f64 = 1.125;

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
        check_range("p2c.margin", margin, 1.0..=100.0)?;
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
        check_range("p2c.grain", grain, 0.0..f64::INFINITY)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::less_loaded::apart, *};

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
