//! Requests in proportion to speed.
//!
//! The documentation of [`ResponseTime`] explains how an endpoint is drawn, and which latency counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use rand::{Rng, rngs::SmallRng};
use tokio::time::Instant;

use super::{Candidate, CandidateSet, Draw, Picker, Policy, alias::Chances};
use crate::endpoint::load::{LoadTracker, PeakEwma, Usual};

/// The number of endpoints that one pick reads.
const LOOK: usize = 16;

/// Seconds. The least latency that is assumed, so that no speed is infinite; below the resolution of any
/// clock.
const SHORTEST: f64 = 1e-9;

/// Requests in proportion to weight divided by latency.
///
/// An endpoint that responds in half the time gets twice as many requests. [`P2c`](super::P2c) avoids a
/// slow endpoint while another is better; this policy keeps using it. It ignores requests in flight. It
/// is for endpoints of constant but different speed.
///
/// # How it works
/// Speeds change with every response, so a sum over all of them or a prepared table would always be out
/// of date. This policy needs neither:
///
/// - In a set of up to 16 endpoints, a pick reads all of them and draws exactly.
/// - In a larger set, an endpoint is drawn by weight and accepted with probability `best / latency`;
///   otherwise the next one is drawn. This is exact (rejection sampling) while `best` is the least
///   latency of all. Every fourth pick on average updates `best` from four more endpoints, in turn, so
///   `best` is correct after as many picks as there are endpoints.
/// - After 16 refusals, one of these 16 is drawn in proportion to speed. This is nearly exact, and
///   bounds the cost of a pick when one endpoint is far faster than all others.
///
/// The latency is the mean of the endpoint's [usual](Usual) latency. It is the estimate of [`PeakEwma`]
/// when the endpoint failed, or has a request that waits for longer than usual. The means of equal
/// endpoints differ by chance, and shares would follow that. So a mean within twice its standard error
/// of the typical latency of the set counts as typical, and equal endpoints get exactly equal shares.
/// The typical latency is the harmonic mean, because requests are shared in proportion to speed; one
/// slow endpoint hardly changes it.
///
/// An endpoint that was never measured is accepted at once, and then not again before its first
/// response; see [`PeakEwma`]. An endpoint that fails counts as slow, by its penalty.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::{balance::policy::ResponseTime, endpoint::load::PeakEwma};
///
/// let policy = ResponseTime::new();
/// let slower = ResponseTime::by(PeakEwma::new().decay(Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ResponseTime {
    tracker: PeakEwma,
}

impl ResponseTime {
    /// Creates the policy, with a default [`PeakEwma`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the policy with another decay and penalty.
    pub fn by(tracker: PeakEwma) -> Self {
        Self { tracker }
    }
}

impl Policy for ResponseTime {
    type Load = PeakEwma;
    type Picker = BySpeed;

    fn tracker(&self) -> PeakEwma {
        self.tracker.fresh(Instant::now())
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> BySpeed {
        let shares = Chances::new(candidates);
        let small = candidates.len() <= LOOK;
        let mut weights = [0.0; LOOK];
        // Weights are divided by the largest, so that dividing them by a latency does not overflow.
        let largest = candidates.iter().fold(0.0, |max, c| c.weight.max(max));
        for (weight, candidate) in weights.iter_mut().zip(candidates) {
            *weight = candidate.weight / largest;
        }
        BySpeed {
            shares,
            weights: small.then_some(weights),
            next: AtomicUsize::new(0),
            round: [f64::INFINITY, 0.0, 0.0].map(|start| AtomicU64::new(start.to_bits())),
            best: AtomicU64::new(0),
            typical: AtomicU64::new(0),
        }
    }
}

#[derive(Debug)]
pub struct BySpeed {
    shares: Chances,
    /// The weights, when the set has at most [`LOOK`] endpoints.
    weights: Option<[f64; LOOK]>,
    // The atomics below are relaxed and updated without read-modify-write. When two threads read the
    // same endpoints at the same time, the result of one of them is lost, which only delays the update.
    /// The endpoint that `look_around` reads next.
    next: AtomicUsize,
    /// Bits of three numbers since `look_around` read endpoint 0: the least latency, the sum of the speeds
    /// of the endpoints with a usual latency, and the number of these endpoints.
    round: [AtomicU64; 3],
    /// Bits of the least latency that is known. While it is 0, only endpoints of latency 0 are accepted.
    best: AtomicU64,
    /// Bits of the typical latency; 0 until all endpoints have been read once.
    typical: AtomicU64,
}

impl<L: LoadTracker> Picker<L> for BySpeed {
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        let Some(weights) = &self.weights else {
            let now = draw.now();
            return self.pick_of_many(set, draw.rng, now);
        };
        let now = draw.now();
        let mut latencies = [Latency::Estimate(0.0); LOOK];
        let latencies = &mut latencies[..set.len()];
        let (mut speeds, mut usual) = (0.0, 0.0);
        for (index, latency) in latencies.iter_mut().enumerate() {
            *latency = Latency::of(set, index, now);
            if let Some(speed) = latency.speed() {
                speeds += speed;
                usual += 1.0;
            }
        }
        let typical = usual / speeds;
        let looks = latencies.iter().zip(weights).enumerate();
        let looks =
            looks.map(|(index, (latency, weight))| (index, latency.seconds(typical), *weight));
        choose(looks, draw.rng)
    }
}

impl BySpeed {
    fn pick_of_many<L: LoadTracker>(
        &self,
        set: &CandidateSet<'_, L>,
        rng: &mut SmallRng,
        now: Instant,
    ) -> usize {
        if rng.next_u64() >> 62 == 0 {
            self.look_around(set, now);
        }
        let [best, typical] = [&self.best, &self.typical].map(get);
        let mut refused = [(0, 0.0); LOOK];
        for refusal in &mut refused {
            let index = self.shares.one(rng);
            let latency = Latency::of(set, index, now).seconds(typical);
            // Also true when both are 0, and when no endpoint was ever measured.
            if unit(rng) * latency <= best {
                return index;
            }
            *refusal = (index, latency);
        }
        choose(
            refused
                .map(|(index, latency)| (index, latency, 1.0))
                .into_iter(),
            rng,
        )
    }

    /// Reads the next four endpoints, and updates `best`; after the last endpoint, also `typical`.
    fn look_around<L: LoadTracker>(&self, set: &CandidateSet<'_, L>, now: Instant) {
        let first = self.next.load(Relaxed);
        let last = (first + 4).min(set.len());
        let [mut least, mut speeds, mut usual] = self.round.each_ref().map(get);
        for index in first..last {
            let latency = Latency::of(set, index, now);
            let seconds = latency.seconds(get(&self.typical));
            // An endpoint that was never measured has latency 0 and is accepted anyway. It must not set
            // `best` to 0, because then every other endpoint would be refused.
            if seconds > 0.0 {
                least = least.min(seconds);
            }
            if let Some(speed) = latency.speed() {
                speeds += speed;
                usual += 1.0;
            }
        }
        if last == set.len() {
            set_bits(&self.best, least);
            set_bits(
                &self.typical,
                if usual > 0.0 { usual / speeds } else { 0.0 },
            );
            [least, speeds, usual] = [f64::INFINITY, 0.0, 0.0];
        } else if least < get(&self.best) {
            set_bits(&self.best, least);
        }
        for (cell, value) in self.round.iter().zip([least, speeds, usual]) {
            set_bits(cell, value);
        }
        self.next.store(last % set.len(), Relaxed);
    }
}

fn get(bits: &AtomicU64) -> f64 {
    f64::from_bits(bits.load(Relaxed))
}

fn set_bits(bits: &AtomicU64, value: f64) {
    bits.store(value.to_bits(), Relaxed);
}

/// The latency of an endpoint, in seconds.
#[derive(Clone, Copy, Debug)]
enum Latency {
    Usual(Usual),
    /// The load for 0 requests in flight, used when the endpoint failed or is late.
    Estimate(f64),
}

impl Latency {
    fn of<L: LoadTracker>(set: &CandidateSet<'_, L>, index: usize, now: Instant) -> Self {
        let tracker = set.tracker(index);
        if let Some(usual) = tracker.usual(&mut || now) {
            return Self::Usual(usual);
        }
        let load = tracker.load(0, now);
        // The comparison is also false for NaN.
        Self::Estimate(if load >= 0.0 { load } else { f64::INFINITY })
    }

    /// In requests a second, if the usual latency is known.
    fn speed(self) -> Option<f64> {
        match self {
            Self::Usual(usual) if usual.is_known() => Some(1.0 / usual.mean().max(SHORTEST)),
            _ => None,
        }
    }

    /// The latency that is used for picks, in seconds, where `typical` is the typical latency of the
    /// set.
    fn seconds(self, typical: f64) -> f64 {
        match self {
            Self::Usual(usual) if typical > 0.0 && usual.is_like(Usual::new(typical, 0.0), 0.0) => {
                typical
            }
            Self::Usual(usual) if usual.is_known() => usual.mean().max(SHORTEST),
            // Neither the usual latency nor the typical one is known: treated as an endpoint that was
            // never measured.
            Self::Usual(_) => 0.0,
            Self::Estimate(estimate) => estimate,
        }
    }
}

/// A random number from 0 (included) to 1 (excluded).
fn unit<R: Rng>(rng: &mut R) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Draws one of up to 16 endpoints in proportion to weight divided by latency. When some have latency 0
/// (never measured), draws among these by weight.
fn choose(looks: impl Iterator<Item = (usize, f64, f64)>, rng: &mut SmallRng) -> usize {
    let (mut indexes, mut sums, mut len) = ([0; LOOK], [0.0; LOOK], 0);
    let (mut sum, mut unmeasured) = (0.0, false);
    for (index, estimate, weight) in looks.take(LOOK) {
        if estimate == 0.0 && !unmeasured {
            (unmeasured, len, sum) = (true, 0, 0.0);
        }
        if unmeasured && estimate > 0.0 {
            continue;
        }
        // Endpoints with an infinite latency still get requests when there are no others.
        let slowness = if unmeasured { 1.0 } else { estimate.min(1e300) };
        sum += weight / slowness;
        (indexes[len], sums[len]) = (index, sum);
        len += 1;
    }
    let point = unit(rng) * sum;
    let chosen = sums[..len].iter().take_while(|sum| **sum <= point).count();
    indexes[chosen.min(len.saturating_sub(1))]
}
