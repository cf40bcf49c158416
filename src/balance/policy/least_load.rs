//! The least latency × requests in flight, with a short memory.
//!
//! Where servers are busy and their speed changes, as that of virtual machines with neighbours does, two
//! things limit [`P2c`](super::P2c): it compares two endpoints, which are both slow ones often enough
//! for the last percentiles (of ten with three slow ones, one pair in fifteen), and it remembers peaks
//! for ten seconds, when the queues of a moment ago are gone. So this looks at all endpoints of a small
//! set, and forgets within a second.
//!
//! One endpoint is drawn by weight. It gets the request unless the least loaded of all is better by
//! more than a margin; then that gets it. So equal endpoints get exactly their shares, as with the other
//! policies that heed weights, and clients that measure the same do not all choose the same endpoint.
//! What this costs is fairness beside noise: of a few answers whose latency varies much, the last few
//! say little, and acting on them moves requests about for a second or two. Which of several equal
//! endpoints gets more then changes all the time.
//!
//! With 100 clients of ten servers, three of them half as fast, others every 5 s, at 75 % of what they can
//! bear, the 99th percentile is 1.14 times that of joining the shortest queue; by two choices and peak EWMA it
//! is 1.75 times (`cargo bench --bench quality antagonist`). What matters most is how many are looked at, and
//! the length of the memory hardly. 99th percentiles in a plain model of that world, where joining the
//! shortest queue comes to 124 ms:
//!
//! | looked at | memory 0.5 s | 1 s | 10 s |
//! |---|---|---|---|
//! | 2 | | 186 ms | 200 ms |
//! | 3 | | 165 ms | 167 ms |
//! | 5 | | 155 ms | 154 ms |
//! | 8 | | 150 ms | |
//! | all 10 | 157 ms | 141 ms | 135 ms |
//! | all 10, by requests in flight only | | | 325 ms |
//!
//! The price is fairness: whoever looks at all finds the one with the luckiest measurement. In the same model
//! the largest share of ten equal endpoints in 10 s is 1.1 times its due while latencies are constant, 1.45
//! times with log-normal latencies of σ 1 at 100 requests a second (chance alone: 1.11), and 1.9 times with
//! spikes; with a memory of 10 s up to nine times. Where that matters,
//! [`P2c::peak_ewma`](super::P2c::peak_ewma) is the policy.

use std::time::Duration;

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{Candidate, Draw, Picker, Policy, Set, alias::Shares};
use crate::endpoint::load::{LoadTracker, PeakEwma};

/// The memory: see the table above. A shorter one loses more in latency than it wins in fairness.
const DECAY: Duration = Duration::from_secs(1);

/// Sets up to here are looked at as a whole, as by [`LeastRequests`](super::LeastRequests).
const SCAN: usize = 16;

/// So many are looked at in larger sets: see the table above.
const LOOK: usize = 8;

/// How much cheaper the least loaded must be, as for [`P2c`](super::P2c): above the noise of two
/// estimates of the same endpoint, below any difference that a user would notice.
const MARGIN: f64 = 1.125;

/// In seconds, added to each estimate: below it, estimates tell more of this process's own scheduling
/// than of the endpoints. What it is for [`P2c`](super::P2c).
const GRAIN: f64 = 0.000_5;

/// In seconds: a load above any latency is that of an endpoint of which nothing is measured yet.
const UNMEASURED: f64 = 1e9;

/// The least loaded endpoint, by recent latency × requests in flight and weight.
///
/// The best of all in sets of up to 16 endpoints, else of eight drawn by weight. For busy services whose
/// endpoints change their speed within seconds: of the policies that need nothing but a client's own
/// requests, this comes nearest to joining the shortest queue. A pick costs a reading of the clock, and that
/// of a load for each endpoint that it looks at. Where latencies vary much without a reason, equal endpoints
/// get unequal shares for some seconds, up to about twice their due; [`P2c::peak_ewma`](super::P2c::peak_ewma)
/// keeps them equal.
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
    /// The policy, with a [`PeakEwma`] that has a decay of 1 s.
    pub fn new() -> Self {
        Self::by(PeakEwma::new().decay(DECAY))
    }

    /// The policy, with a decay and a penalty of your own. A longer decay holds on to what was measured,
    /// mistakes included; a shorter one comes to requests in flight alone.
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
            shares: Shares::new(candidates),
        }
    }
}

#[derive(Debug)]
pub struct Least {
    shares: Shares,
}

/// An endpoint that is looked at.
#[derive(Clone, Copy)]
struct Look {
    index: usize,
    /// What it takes for one request, in seconds.
    estimate: f64,
    in_flight: f64,
    weight: f64,
}

impl<L: LoadTracker> Picker<L> for Least {
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
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
            // From the one that was drawn, so that chance decides between equals.
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
    fn look<L: LoadTracker>(&self, set: &Set<'_, L>, index: usize, now: Instant) -> Look {
        let in_flight = set.in_flight(index) as f64;
        let weight = match &self.shares {
            Shares::Even(_) => 1.0,
            Shares::Weighted(alias) => f64::from(alias.weights()[index]),
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
    /// How much it would be used with one request more.
    fn used(self) -> f64 {
        self.estimate * (self.in_flight + 1.0) / self.weight
    }

    /// Whether it is by more than the margin. Requests in flight are counted in those of the lighter of
    /// both, and rounded in favour of the other, as by [`P2c`](super::P2c): else a heavy endpoint would
    /// get more than its share of an idle set, or a light one.
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
