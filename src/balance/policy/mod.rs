//! Which endpoint gets a request: the rules, each in a file of its own.
//!
//! A [`Policy`] works in two places. When the set of endpoints changes, it *prepares* a [`Picker`] for
//! the new set, off the path of any request: tables, rings, orders. For each request the picker then
//! chooses an index from numbers that are there already. Both are pure: they neither wait, lock nor
//! read a clock; randomness and time come in with the [`Draw`].
//!
//! ```text
//! the set changes ──▶ Policy::prepare(&[Candidate]) ──▶ Picker       (driver's task, O(n))
//! a request       ──▶ Picker::pick(&Set, &mut Draw) ──▶ index        (caller's task, O(1) mostly)
//! ```
//!
//! A table that takes milliseconds, as that of [`RingHash`] does, is prepared on one of tokio's threads for blocking work instead ([`Policy::is_costly`]), so that no task waits for it, even
//! on a runtime of one thread. Until it is there requests are picked from the set before.
//!
//! # Which one
//! | | goes by | a pick costs | for |
//! |---|---|---|---|
//! | [`P2c::peak_ewma`] | latency × requests in flight, weight | 50 to 90 ns, 5 where endpoints are swift | nearly everything |
//! | [`P2c::in_flight`] | requests in flight, weight | 4 to 15 ns | requests of very different length |
//! | [`LeastRequests`] | the same, over all of a small set | 4 ns for each endpoint | few endpoints, long requests |
//! | [`LeastLoad`] | recent latency × requests in flight, weight, over all of a small set | 10 ns for each endpoint | busy endpoints whose speed changes |
//! | [`ResponseTime`] | latency, weight | 50 to 170 ns | endpoints of constant but different speed |
//! | [`WeightedRoundRobin`], [`RoundRobin`] | turns | 2 to 5 ns, more with many threads | exact shares |
//! | [`WeightedRandom`], [`Random`] | chance | 1 to 4 ns | tests, and tiny requests |
//! | [`RingHash`] | the request's key | 10 to 30 ns | caches, sessions |
//!
//! [`by_name`] makes any of them, with default settings, from a word in a configuration. The figures are
//! from `cargo bench --bench policies`, without the clock, on one core.
//!
//! # Weights
//! A candidate's [`weight`](Candidate::weight) is what it should get relative to the others: the weight
//! from the registry, times how far it is through slow start. It is never zero or infinite: an
//! endpoint of weight 0 is no candidate, unless all are of weight 0, and then all count as 1.
//!
//! # What the balancer does about a bad pick
//! An index out of range is replaced by a random one, and so is that of a picker that panics. When
//! [`prepare`](Policy::prepare) panics, picks are random until the next change. An endpoint that was ejected a moment ago, or that
//! an earlier attempt of the same request went to, is picked again a few times and else replaced by
//! the next that will do; pickers with an order of their own (rings) ask [`Set::is_usable`] themselves.

mod alias;
mod hashed;
mod least_load;
mod least_requests;
mod named;
mod p2c;
mod random;
mod response_time;
mod ring_hash;
mod round_robin;
mod weighted_round_robin;

pub(crate) use self::alias::Ahead;
pub use self::{
    least_load::LeastLoad,
    least_requests::LeastRequests,
    named::{AnyPolicy, NAMES, by_name},
    p2c::P2c,
    random::{Random, WeightedRandom},
    response_time::ResponseTime,
    ring_hash::RingHash,
    round_robin::RoundRobin,
    weighted_round_robin::WeightedRoundRobin,
};
pub use super::pick::hash::hash_key;

/// The policy of a balancer that is told nothing else.
pub type DefaultPolicy = P2c<crate::endpoint::load::PeakEwma>;

use std::{borrow::Cow, cell::RefCell, fmt, sync::Arc};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::pick::state::{Common, Held, SharedState};
use crate::{
    attempt::{EndpointId, Tried},
    endpoint::{eject::Round, load::LoadTracker},
    instance::Key,
};

/// Chooses endpoints; see the [module](self) for what it is asked and when.
pub trait Policy: Send + Sync + 'static {
    /// What is measured of each endpoint; [`InFlight`](crate::endpoint::load::InFlight) for nothing
    /// but the requests in flight, which are always counted.
    type Load: LoadTracker;

    /// The rule, prepared for one set of endpoints.
    type Picker: Picker<Self::Load>;

    /// A tracker with the settings of each endpoint's.
    fn tracker(&self) -> Self::Load;

    /// Prepares for a set of at least one candidate. The picker's indexes are those of `candidates`.
    ///
    /// Called for each change of the set or of its weights; changes that come meanwhile are taken
    /// together. On the driver's task, or, when this is costly, on a thread for blocking work.
    fn prepare(&self, candidates: &[Candidate<'_>], rng: &mut SmallRng) -> Self::Picker;

    /// Whether preparing for so many candidates takes longer than a task should hold up others, some
    /// 100 µs; by default it does not.
    ///
    /// When it is, a change costs a thread switch and copies of all keys, and is seen as much later as
    /// preparing takes: until then requests go to the endpoints of the set before, also to one that has
    /// left, and none to those that were ejected. Where tokio's threads for blocking work are all taken,
    /// it waits for one. With several sets (zones, versions, subsets), all are prepared there when one
    /// is costly.
    fn is_costly(&self, candidates: usize) -> bool {
        let _ = candidates;
        false
    }
}

/// Picks from one set of endpoints, from many threads at a time.
pub trait Picker<L>: Send + Sync + 'static {
    /// The index of the endpoint that gets the request, below [`Set::len`].
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize;
}

impl<L, P: Picker<L> + ?Sized> Picker<L> for Box<P> {
    fn pick(&self, set: &Set<'_, L>, draw: &mut Draw<'_>) -> usize {
        (**self).pick(set, draw)
    }
}

/// An endpoint, as a policy sees it while it prepares.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its identity, the same across updates and restarts of this process. Lent by the balancer: most
    /// policies do not look at it, and copies of ten thousand cost as much as all else.
    pub key: Cow<'a, Key>,
    /// Its share relative to the others': finite and above zero.
    pub weight: f64,
}

impl Candidate<'static> {
    /// A candidate. A weight that is no finite number above zero is taken for 1.
    #[inline]
    pub fn new(key: Key, weight: f64) -> Self {
        Self::with(Cow::Owned(key), weight)
    }
}

impl<'a> Candidate<'a> {
    pub(crate) fn lent(key: &'a Key, weight: f64) -> Self {
        Self::with(Cow::Borrowed(key), weight)
    }

    pub(crate) fn into_owned(self) -> Candidate<'static> {
        Candidate {
            key: Cow::Owned(self.key.into_owned()),
            weight: self.weight,
        }
    }

    #[inline]
    fn with(key: Cow<'a, Key>, weight: f64) -> Self {
        let usable = weight.is_finite() && weight > 0.0;
        Self {
            key,
            weight: if usable { weight } else { 1.0 },
        }
    }
}

/// The endpoints of one set, as a picker sees them; never empty.
pub struct Set<'a, L> {
    states: &'a [Held<L>],
    /// Whether all are ejected, and used all the same.
    panic: bool,
}

impl<'a, L: LoadTracker> Set<'a, L> {
    #[inline]
    pub(crate) fn new(states: &'a [Held<L>]) -> Self {
        Self {
            states,
            panic: false,
        }
    }

    #[inline]
    pub(crate) fn in_panic(self, panic: bool) -> Self {
        Self { panic, ..self }
    }

    /// The number of endpoints.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// The requests of an endpoint that are not complete.
    ///
    /// # Panics
    /// When the index is out of range, as all methods here.
    #[inline]
    pub fn in_flight(&self, index: usize) -> usize {
        self.states[index].in_flight()
    }

    /// The load of an endpoint, from 0 to infinity and never `NaN`: what a tracker says that is no
    /// such number is taken as infinite. Not divided by its weight.
    #[inline]
    pub fn load(&self, index: usize, now: Instant) -> f64 {
        self.states[index].load(now)
    }

    /// The same where it is known without looking at the time.
    #[inline]
    pub fn timeless(&self, index: usize) -> Option<f64> {
        let state = &self.states[index];
        let load = state.tracker().timeless(state.in_flight())?;
        Some(if load >= 0.0 { load } else { f64::INFINITY })
    }

    /// What is measured of an endpoint.
    #[inline]
    pub fn tracker(&self, index: usize) -> &L {
        self.states[index].tracker()
    }

    /// Whether an endpoint has been neither ejected since the set was made nor tried before by an
    /// attempt of the same request. In a set of ejected endpoints, which are used [for want of
    /// others](super::topology::Topology::panic), the latter only.
    #[inline]
    pub fn is_usable(&self, index: usize, draw: &Draw<'_>) -> bool {
        let state = &self.states[index];
        let takes = state.health.is_open() || self.panic;
        takes && (draw.tried.is_empty() || !draw.tried.contains(state.id()))
    }

    pub(crate) fn id(&self, index: usize) -> EndpointId {
        self.states[index].id()
    }
}

impl<L> fmt::Debug for Set<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set")
            .field("len", &self.states.len())
            .finish()
    }
}

/// What comes into one pick from outside: chance, time, and the request's wishes.
#[derive(Debug)]
pub struct Draw<'a> {
    /// A generator of this thread's own.
    pub rng: &'a mut SmallRng,
    /// The hash of the request's key, where it has one.
    pub hash: Option<u64>,
    /// The endpoints that earlier attempts of the same request went to.
    pub tried: Tried,
    now: Option<Instant>,
    /// The time of an earlier pick.
    recent: Option<Instant>,
    /// What the pick before drew for this one.
    ahead: Option<&'a mut Ahead>,
}

impl<'a> Draw<'a> {
    /// A draw for a request without a key and without earlier attempts. Reads the clock when it is
    /// asked for the time, and then once.
    #[inline]
    pub fn new(rng: &'a mut SmallRng) -> Self {
        Self {
            rng,
            hash: None,
            tried: Tried::new(),
            now: None,
            recent: None,
            ahead: None,
        }
    }

    /// Sets the time instead of reading it.
    #[must_use]
    #[inline]
    pub fn at(mut self, now: Instant) -> Self {
        self.now = Some(now);
        self
    }

    /// Sets the hash of the request's key.
    #[must_use]
    #[inline]
    pub fn hash(mut self, hash: Option<u64>) -> Self {
        self.hash = hash;
        self
    }

    /// Sets the endpoints to avoid.
    #[must_use]
    #[inline]
    pub fn tried(mut self, tried: Tried) -> Self {
        self.tried = tried;
        self
    }

    /// The time of the pick, the same for the whole of it.
    #[inline]
    pub fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// The time of this pick or of one some requests earlier, without reading the clock where one is
    /// known; for loads that [may lag](LoadTracker::may_lag).
    #[inline]
    pub fn recent(&mut self) -> Instant {
        match self.now.or(self.recent) {
            Some(recent) => recent,
            None => self.now(),
        }
    }

    #[inline]
    pub(crate) fn since(mut self, recent: Option<Instant>) -> Self {
        self.recent = recent;
        self
    }

    /// Sets what was drawn ahead, to be replaced.
    #[inline]
    pub(crate) fn ahead(mut self, ahead: &'a mut Ahead) -> Self {
        self.ahead = Some(ahead);
        self
    }

    /// The time, if it was read.
    #[inline]
    pub(crate) fn read(&self) -> Option<Instant> {
        self.now
    }
}

/// A set of endpoints without services, to try a policy on.
///
/// # Examples
/// ```
/// use rand::{SeedableRng, rngs::SmallRng};
/// use tower_roster::balance::policy::{Draw, RoundRobin, Trial};
///
/// let mut rng = SmallRng::seed_from_u64(7);
/// let trial = Trial::new(&RoundRobin::new(), &[1.0, 1.0, 1.0], &mut rng);
/// let picks: Vec<usize> = (0..3).map(|_| trial.pick(&mut Draw::new(&mut rng))).collect();
/// assert_eq!(picks.iter().sum::<usize>(), 3, "each of 0, 1 and 2 once");
/// ```
pub struct Trial<P: Policy> {
    states: Vec<Held<P::Load>>,
    /// Requests in flight.
    requests: RefCell<Vec<Begun<P::Load>>>,
    picker: P::Picker,
}

/// A request in flight, and on which endpoint.
type Begun<L> = (usize, SharedState<L>);

impl<P: Policy> Trial<P> {
    /// Prepares `policy` for endpoints `0`, `1`, … of these weights.
    ///
    /// # Panics
    /// When there are no weights.
    #[inline]
    pub fn new(policy: &P, weights: &[f64], rng: &mut SmallRng) -> Self {
        let key = |index: usize| Key::new(index.to_string(), "");
        let candidates = weights.iter().enumerate();
        let candidates = candidates.map(|(i, weight)| Candidate::new(key(i), *weight));
        Self::with_candidates(policy, &candidates.collect::<Vec<_>>(), rng)
    }

    /// Prepares `policy` for these endpoints.
    ///
    /// # Panics
    /// When there are none.
    pub fn with_candidates(policy: &P, candidates: &[Candidate<'_>], rng: &mut SmallRng) -> Self {
        assert!(!candidates.is_empty(), "a policy prepares for candidates");
        let now = Instant::now();
        let (tracker, common) = (policy.tracker(), Arc::new(Common::lonely()));
        let state = |candidate: &Candidate<'_>| {
            Held::new(
                Key::clone(&candidate.key),
                tracker.fresh(now),
                Round::default(),
                Arc::clone(&common),
            )
        };
        Self {
            states: candidates.iter().map(state).collect(),
            requests: RefCell::default(),
            picker: policy.prepare(candidates, rng),
        }
    }

    /// Picks an endpoint.
    pub fn pick(&self, draw: &mut Draw<'_>) -> usize {
        self.picker.pick(&self.set(), draw)
    }

    /// The endpoints.
    pub fn set(&self) -> Set<'_, P::Load> {
        Set::new(&self.states)
    }

    /// Identifies an endpoint, as [`Tried`] does.
    pub fn id(&self, index: usize) -> EndpointId {
        self.set().id(index)
    }

    /// Starts a request on an endpoint.
    pub fn start(&self, index: usize, now: Instant) {
        self.states[index].tracker().start(now);
        let request = (index, self.states[index].begin());
        self.requests.borrow_mut().push(request);
    }

    /// Ends a request on an endpoint.
    pub fn end(
        &self,
        index: usize,
        outcome: crate::classify::Outcome,
        rtt: std::time::Duration,
        now: Instant,
    ) {
        let state = &self.states[index];
        state.tracker().record(outcome, rtt, now);
        let mut requests = self.requests.borrow_mut();
        if let Some(at) = requests.iter().position(|(of, _)| *of == index) {
            requests.swap_remove(at);
        }
    }
}

impl<P: Policy> fmt::Debug for Trial<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial")
            .field("endpoints", &self.states.len())
            .finish_non_exhaustive()
    }
}
