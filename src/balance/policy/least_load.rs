//! The least loaded endpoint, by latency × requests in flight, with a short memory.
//!
//! The documentation of [`LeastLoad`] explains how it chooses, and compares it with other policies. The
//! table gives 99th percentiles in a plain model of 100 clients and ten servers, three of them slow for
//! 5 s at a time. In this model, joining the shortest queue has 124 ms. The number of endpoints that a
//! pick reads matters most; the length of the memory matters little.
//!
//! | endpoints read | memory 0.5 s | 1 s | 10 s |
//! |---|---|---|---|
//! | 2 | | 186 ms | 200 ms |
//! | 3 | | 165 ms | 167 ms |
//! | 5 | | 155 ms | 154 ms |
//! | 8 | | 150 ms | |
//! | all 10 | 157 ms | 141 ms | 135 ms |
//! | all 10, by requests in flight only | | | 325 ms |

use std::time::Duration;

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{Candidate, CandidateSet, Draw, Picker, Policy, alias::Chances};
use crate::endpoint::load::{LoadTracker, PeakEwma};

/// Decay of the latency estimates. The table above shows other values. A shorter one costs more in
/// latency than it gains in fairness.
const DECAY: Duration = Duration::from_secs(1);

/// Sets of up to this number of endpoints are read as a whole, as with
/// [`LeastRequests`](super::LeastRequests).
const SCAN: usize = 16;

/// The number of endpoints that a pick reads in larger sets; the table above compares other numbers.
const LOOK: usize = 8;

/// How many times the load of the drawn endpoint must exceed the least load, as for [`P2c`](super::P2c).
/// It is above the noise of two estimates of the same endpoint, and below any difference that a user
/// would notice.
const MARGIN: f64 = 1.125;

/// Seconds, added to each estimate. Below this, estimates show the scheduling of this process more than
/// the endpoints. The value is that of [`P2c`](super::P2c).
const GRAIN: f64 = 0.000_5;

/// Seconds. A load above this exceeds any latency, so it belongs to an endpoint that was never measured.
const UNMEASURED: f64 = 1e9;

/// The least loaded endpoint, by recent latency × requests in flight and weight.
///
/// It compares all endpoints of a set of up to 16, and eight drawn by weight in a larger set. It is for
/// busy services whose endpoints change their speed within seconds, such as virtual machines on shared
/// hardware. Of the policies that need only a client's own requests, it comes nearest to joining the
/// shortest queue.
///
/// # How it works
/// One endpoint is drawn by weight. It gets the request, unless the least loaded endpoint that was read
/// is better by more than a margin; then that endpoint gets it. So equal endpoints get exactly their
/// shares, and clients that measure the same loads do not all choose the same endpoint.
///
/// With busy endpoints of changing speed, two things limit [`P2c`](super::P2c). It compares two
/// endpoints, and both are slow often enough to show in the last percentiles: with three slow endpoints
/// among ten, one pair in fifteen. And it remembers peaks for ten seconds, after their queues are gone.
/// This policy reads more endpoints and forgets within a second.
///
/// With 100 clients and ten servers at 75 % utilisation, three of them at half speed and others every
/// 5 s, the 99th percentile is 1.14 times that of joining the shortest queue. With two choices and peak
/// EWMA it is 1.75 times (`cargo bench --bench quality antagonist`).
///
/// # Costs
/// A pick reads the clock, and the load of each endpoint that it compares.
///
/// The other cost is fairness when latencies vary without a cause in the endpoints. A policy that
/// compares all endpoints finds the one with the luckiest measurement, so equal endpoints get unequal
/// shares for some seconds; which of them gets more changes all the time. In a model, the largest share
/// of ten equal endpoints over 10 s is 1.1 times its due while latencies are constant. It is 1.45 times
/// with log-normal latencies of σ 1 at 100 requests a second (random picks: 1.11), and 1.9 times with
/// spikes. With a memory of 10 s it is up to nine times. [`P2c::peak_ewma`](super::P2c::peak_ewma) keeps
/// the shares of equal endpoints equal.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::{balance::policy::LeastLoad, endpoint::load::PeakEwma};
///
/// let policy = LeastLoad::new();
/// let steadier = LeastLoad::by(PeakEwma::new().decay(Duration::from_secs(3)));
/// ```
#[derive(Clone, Debug)]
pub struct LeastLoad {
    tracker: PeakEwma,
}

impl LeastLoad {
    /// Creates the policy, with a [`PeakEwma`] that has a decay of 1 s.
    pub fn new() -> Self {
        Self::by(PeakEwma::new().decay(DECAY))
    }

    /// Creates the policy with another decay and penalty. A longer decay keeps measurements for longer,
    /// including misleading ones. With a very short one, only requests in flight count.
    pub fn by(tracker: PeakEwma) -> Self {
        Self { tracker }
    }
}

impl Default for LeastLoad {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for LeastLoad {
    type Load = PeakEwma;
    type Picker = Least;

    fn tracker(&self) -> PeakEwma {
        self.tracker.fresh(Instant::now())
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> Least {
        Least {
            shares: Chances::new(candidates),
        }
    }
}

#[derive(Debug)]
pub struct Least {
    shares: Chances,
}

/// The load of an endpoint that a pick reads.
#[derive(Clone, Copy)]
struct Look {
    index: usize,
    /// The latency of one request, in seconds.
    estimate: f64,
    in_flight: f64,
    weight: f64,
}

impl<L: LoadTracker> Picker<L> for Least {
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        let len = set.len();
        let first = self.shares.one(draw.rng);
        if len == 1 {
            return first;
        }
        let now = draw.now();
        let first = self.look(set, first, now);
        let mut least = first;
        let mut compare = |index| {
            let other = self.look(set, index, now);
            if other.used() < least.used() {
                least = other;
            }
        };
        if len <= SCAN {
            // The scan starts after the drawn endpoint, so that the random draw decides between equal
            // endpoints.
            (first.index + 1..len)
                .chain(0..first.index)
                .for_each(&mut compare);
        } else {
            (1..LOOK).for_each(|_| compare(self.shares.one(draw.rng)));
        }
        if least.is_better_than(first) {
            least.index
        } else {
            first.index
        }
    }
}

impl Least {
    fn look<L: LoadTracker>(&self, set: &CandidateSet<'_, L>, index: usize, now: Instant) -> Look {
        let in_flight = set.in_flight(index) as f64;
        let weight = match &self.shares {
            Chances::Even(_) => 1.0,
            Chances::Weighted(alias) => f64::from(alias.weights()[index]),
        };
        Look {
            index,
            estimate: set.load(index, now) / (in_flight + 1.0) + GRAIN,
            in_flight,
            weight,
        }
    }
}

impl Look {
    /// The load with one more request, relative to the weight.
    fn used(self) -> f64 {
        self.estimate * (self.in_flight + 1.0) / self.weight
    }

    /// Whether this endpoint is better than `other` by more than the margin. Requests in flight are
    /// counted in requests of the lighter of the two and rounded in favour of `other`, as with
    /// [`P2c`](super::P2c). Otherwise a heavy or a light endpoint would get more than its share of an
    /// idle set.
    fn is_better_than(self, other: Self) -> bool {
        let measured = self.used().min(other.used()) < UNMEASURED;
        let mine = (self.in_flight * (other.weight / self.weight).min(1.0) + 0.75).floor();
        let others = (other.in_flight * (self.weight / other.weight).min(1.0) + 0.25).floor();
        if !measured {
            return mine < others;
        }
        self.estimate * (mine + 1.0) * MARGIN < other.estimate * (others + 1.0)
    }
}
