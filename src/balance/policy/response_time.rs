//! In proportion to speed.
//!
//! Each endpoint gets requests in proportion to its weight divided by its latency: one that
//! answers in half the time gets twice as many. Unlike [`P2c`](super::P2c), which turns from a slow endpoint
//! as far as another is better, this goes on using it, and it does not look at requests in flight. It
//! fits endpoints of constant but different speed.
//!
//! Drawing by numbers that change with every answer wants a sum over all of them, or a table that is
//! always out of date. Neither is needed:
//!
//! - A set of up to 16 is looked at as a whole, and drawn from exactly.
//! - In a larger one an endpoint is drawn by weight, and accepted with probability `best / estimate`,
//!   else the next is drawn. That is exact too (rejection sampling), if `best` is the least estimate of
//!   all. It is kept by looking at four endpoints more at every fourth pick, in turn, so it is right
//!   after as many picks as there are endpoints.
//! - After 16 refusals one of these 16 is drawn in proportion to their speed. That is nearly
//!   the same, and bounds what a pick costs when one endpoint is far faster than all others.
//!
//! The latency is the mean of what an endpoint [usually](Usual) takes; the estimate of [`PeakEwma`] where it
//! failed, or keeps a request waiting for longer than usual. Means of equal endpoints differ by chance,
//! and shares would follow that. So a mean that differs by no more than twice its standard error from
//! what is typical of the set counts as typical: equal endpoints get exactly equal shares. Typical
//! is the harmonic mean, as speeds are what is shared by: one slow endpoint hardly moves it.
//!
//! One that was never measured is accepted at once, and not again before its answer: see
//! [`PeakEwma`]. One that fails counts as slow, by its penalty.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use rand::{Rng, rngs::SmallRng};
use tokio::time::Instant;

use super::{Candidate, Draw, Picker, Policy, Set, alias::Shares};
use crate::endpoint::load::{LoadTracker, PeakEwma, Usual};

/// Endpoints looked at for one pick.
const LOOK: usize = 16;

/// In seconds: below the resolution of any clock, so that no speed is infinite.
const SHORTEST: f64 = 1e-9;

/// In proportion to weight divided by latency.
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
    /// The policy, with a default [`PeakEwma`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The policy, with a decay and a penalty of your own.
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
        let shares = Shares::new(candidates);
        let small = candidates.len() <= LOOK;
        let mut weights = [0.0; LOOK];
        // Relative to the largest, so that dividing by a latency does not overflow.
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
    shares: Shares,
    /// Of a small set.
    weights: Option<[f64; LOOK]>,
    // All relaxed and without read-modify-write: when two threads look at the same endpoints, one of
    // them looked in vain.
    /// The endpoint to be looked at next.
    next: AtomicUsize,
    /// Bits of what was seen since endpoint 0 was looked at: the least latency, the sum of the
    /// speeds of those with a usual latency, and how many these are.
    round: [AtomicU64; 3],
    /// Bits of the least latency of all, as far as is known. 0 accepts nobody by itself.
    best: AtomicU64,
    /// Bits of the typical latency; 0 until all have been looked at.
    typical: AtomicU64,
}

impl<L: LoadTracker> Picker<L> for BySpeed {
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
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
        set: &Set<'_, L>,
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
            // Also when both are 0, and when nobody was ever measured.
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

    /// Looks at four endpoints on the way through all.
    fn look_around<L: LoadTracker>(&self, set: &Set<'_, L>, now: Instant) {
        let first = self.next.load(Relaxed);
        let last = (first + 4).min(set.len());
        let [mut least, mut speeds, mut usual] = self.round.each_ref().map(get);
        for index in first..last {
            let latency = Latency::of(set, index, now);
            let seconds = latency.seconds(get(&self.typical));
            // Those never measured are accepted anyhow, and must not make everybody else refused.
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

/// How long an endpoint takes, in seconds.
#[derive(Clone, Copy, Debug)]
enum Latency {
    Usual(Usual),
    /// The load without requests in flight, where something speaks against what is usual.
    Estimate(f64),
}

impl Latency {
    fn of<L: LoadTracker>(set: &Set<'_, L>, index: usize, now: Instant) -> Self {
        let tracker = set.tracker(index);
        if let Some(usual) = tracker.usual(&mut || now) {
            return Self::Usual(usual);
        }
        let load = tracker.load(0, now);
        // Also false for NaN.
        Self::Estimate(if load >= 0.0 { load } else { f64::INFINITY })
    }

    /// In requests a second, where one is usual.
    fn speed(self) -> Option<f64> {
        match self {
            Self::Usual(usual) if usual.is_known() => Some(1.0 / usual.mean().max(SHORTEST)),
            _ => None,
        }
    }

    /// What it counts as, where `typical` is usual for the whole set.
    fn seconds(self, typical: f64) -> f64 {
        match self {
            Self::Usual(usual) if typical > 0.0 && usual.is_like(Usual::new(typical, 0.0), 0.0) => {
                typical
            }
            Self::Usual(usual) if usual.is_known() => usual.mean().max(SHORTEST),
            // There is nothing to compare with either: as one that was never measured.
            Self::Usual(_) => 0.0,
            Self::Estimate(estimate) => estimate,
        }
    }
}

/// From 0 up to 1.
fn unit<R: Rng>(rng: &mut R) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Draws from up to 16 in proportion to weight divided by estimate; by weight from those without an
/// estimate, when there are such.
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
        // Infinitely slow ones still get something when there are no others.
        let slowness = if unmeasured { 1.0 } else { estimate.min(1e300) };
        sum += weight / slowness;
        (indexes[len], sums[len]) = (index, sum);
        len += 1;
    }
    let point = unit(rng) * sum;
    let chosen = sums[..len].iter().take_while(|sum| **sum <= point).count();
    indexes[chosen.min(len.saturating_sub(1))]
}
