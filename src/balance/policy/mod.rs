//! The rules that choose the endpoint of a request.
//!
//! A [`Policy`] works in two places. When the set of endpoints changes, the policy *prepares* a
//! [`Picker`] for the new set: it builds tables, rings or orders. No request waits for that. For each
//! request, the picker then chooses an index from numbers that are already there. Both parts are pure:
//! they do not wait, take a lock or read a clock. Randomness and time come in with the [`Draw`].
//!
//! ```text
//! the set changes ──▶ Policy::prepare(&[Candidate]) ──▶ Picker       (driver's task, O(n))
//! a request       ──▶ Picker::pick(&CandidateSet, &mut Draw) ──▶ index   (caller's task, O(1) mostly)
//! ```
//!
//! A table that takes milliseconds, such as the one of [`RingHash`], is prepared on a tokio thread for
//! blocking work ([`Policy::is_costly`]). No task waits for it, even on a runtime with one thread. Until
//! it is ready, requests use the previous set.
//!
//! # Which policy to use
//! | policy | compares | a pick costs | for |
//! |---|---|---|---|
//! | [`P2c::peak_ewma`] | latency × requests in flight, weight | 50 to 90 ns, 5 while all responses take under 10 µs | nearly everything |
//! | [`P2c::in_flight`] | requests in flight, weight | 4 to 15 ns | requests of very different duration |
//! | [`LeastRequests`] | requests in flight, weight, of all endpoints of a small set | 4 ns for each endpoint | few endpoints, long requests |
//! | [`LeastLoad`] | recent latency × requests in flight, weight, of all endpoints of a small set | 10 ns for each endpoint | busy endpoints whose speed changes |
//! | [`ResponseTime`] | latency, weight | 50 to 170 ns | endpoints of constant but different speed |
//! | [`WeightedRoundRobin`], [`RoundRobin`] | nothing: endpoints take turns | 2 to 5 ns, more with many threads | exact shares |
//! | [`WeightedRandom`], [`Random`] | nothing: the choice is random | 1 to 4 ns | tests, and very short requests |
//! | [`RingHash`] | the request's key | 10 to 30 ns | caches, sessions |
//!
//! [`by_name`] makes any of them, with default settings, from its name in a configuration. The costs
//! were measured with `cargo bench --bench policies` on one core and do not include reading the clock.
//!
//! # Weights
//! A candidate's [`weight`](Candidate::weight) is its share relative to the other candidates: the weight
//! from the registry, multiplied by its slow-start factor. It is always finite and above zero. An
//! endpoint of weight 0 is not a candidate, unless all endpoints have weight 0; then each counts as
//! weight 1.
//!
//! # What the balancer does about a bad pick
//! The balancer replaces an index that is out of range by a random one. A panic of a picker propagates
//! to the caller of the request. When [`prepare`](Policy::prepare) panics, picks are random until the
//! next change of the set.
//!
//! A picker may return an endpoint that was ejected after the set was made, or that an earlier attempt
//! of the same request already tried. The balancer then asks the picker a few more times, and after that
//! takes the next usable endpoint. Pickers with an order of their own (rings) ask
//! [`CandidateSet::is_usable`]
//! themselves.

mod alias;
mod hashed;
mod least_load;
mod least_requests;
mod less_loaded;
mod named;
mod p2c;
mod random;
mod response_time;
mod ring_hash;
mod round_robin;
mod trial;
mod weighted_round_robin;

pub(crate) use self::alias::DrawnAhead;
pub use self::{
    least_load::LeastLoad,
    least_requests::LeastRequests,
    named::{AnyPolicy, NAMES, by_name},
    p2c::P2c,
    random::{Random, WeightedRandom},
    response_time::ResponseTime,
    ring_hash::RingHash,
    round_robin::RoundRobin,
    trial::Trial,
    weighted_round_robin::WeightedRoundRobin,
};
pub use super::pick::hash::hash_key;

/// The policy of a balancer for which no other policy is set.
pub type DefaultPolicy = P2c<crate::endpoint::load::PeakEwma>;

use std::borrow::Cow;

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::pick::state::Held;
use crate::{
    attempt::{self, EndpointId, Tried},
    endpoint::load::LoadTracker,
    instance::Key,
};

/// Chooses endpoints; the [module](self) describes when its methods are called.
pub trait Policy: Send + Sync + 'static {
    /// The measurement of each endpoint. Use [`InFlight`](crate::endpoint::load::InFlight) to measure
    /// nothing: requests in flight are always counted.
    type Load: LoadTracker;

    /// The rule, prepared for one set of endpoints.
    type Picker: Picker<Self::Load>;

    /// Returns a tracker with the settings that every endpoint's tracker gets.
    fn tracker(&self) -> Self::Load;

    /// Prepares a picker for a set of at least one candidate. The indexes that the picker returns are
    /// indexes into `candidates`.
    ///
    /// The balancer calls it after a change of the set or of its weights. Changes that arrive while it
    /// runs are taken together in the next call. It runs on the driver's task, or on a thread for
    /// blocking work when [`is_costly`](Self::is_costly) returns `true`.
    fn prepare(&self, candidates: &[Candidate<'_>], rng: &mut SmallRng) -> Self::Picker;

    /// Returns whether preparing a picker for this number of candidates blocks a task for too long,
    /// which is about 100 µs; `false` by default.
    ///
    /// Costly preparation runs on a thread for blocking work. That costs a switch of threads and a copy
    /// of every key. The new set is used only when the picker is ready. Until then, requests go to the
    /// endpoints of the previous set, including endpoints that have left it, but not to ejected
    /// endpoints. If all of tokio's threads for blocking work are busy, the preparation waits for one.
    /// When a balancer has several sets (zones, versions, subsets) and one of them is costly, all of
    /// them are prepared there.
    fn is_costly(&self, candidates: usize) -> bool {
        let _ = candidates;
        false
    }
}

/// Picks an endpoint from one set. Many threads call it at the same time.
pub trait Picker<L>: Send + Sync + 'static {
    /// Returns the index of the endpoint that gets the request. It must be below [`CandidateSet::len`].
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize;
}

impl<L, P: Picker<L> + ?Sized> Picker<L> for Box<P> {
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        (**self).pick(set, draw)
    }
}

/// An endpoint, as a policy sees it while it prepares a picker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// The identity of the endpoint. It is the same across updates and restarts of this process. The
    /// balancer lends it, because most policies do not read it, and copying ten thousand keys costs as
    /// much as the rest of the preparation.
    pub key: Cow<'a, Key>,
    /// Its share relative to the other candidates; finite and above zero.
    pub weight: f64,
}

impl Candidate<'static> {
    /// Creates a candidate. A weight that is not a finite number above zero counts as 1.
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

/// The endpoints of one set, as a picker sees them. It is never empty.
pub struct CandidateSet<'a, L> {
    states: &'a [Held<L>],
    /// Whether all endpoints of the set are ejected and are used anyway (panic mode).
    panic: bool,
}

impl<'a, L: LoadTracker> CandidateSet<'a, L> {
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

    /// Returns the number of endpoints.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Returns the number of requests in flight to an endpoint.
    ///
    /// # Panics
    /// Panics when the index is out of range, as every method of this type does.
    #[inline]
    pub fn in_flight(&self, index: usize) -> usize {
        self.states[index].in_flight()
    }

    /// Returns the load of an endpoint, from 0 to infinity and never `NaN`: a negative or `NaN` value of
    /// the tracker counts as infinite. The load is not divided by the weight.
    #[inline]
    pub fn load(&self, index: usize, now: Instant) -> f64 {
        self.states[index].load(now)
    }

    /// Returns the load if the tracker knows it without the time ([`LoadTracker::timeless`]).
    #[inline]
    pub fn timeless(&self, index: usize) -> Option<f64> {
        let state = &self.states[index];
        let load = state.tracker().timeless(state.in_flight())?;
        Some(if load >= 0.0 { load } else { f64::INFINITY })
    }

    /// Returns the tracker of an endpoint.
    #[inline]
    pub fn tracker(&self, index: usize) -> &L {
        self.states[index].tracker()
    }

    /// Returns whether an endpoint can take this request: it was not ejected after the set was made, and
    /// no earlier attempt of the same request tried it. In
    /// [panic mode](super::topology::Topology::panic), when all endpoints of the set are ejected, only
    /// the second condition counts.
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

impl_debug!([L] CandidateSet<'_, L>: |this| len = this.states.len());

/// The inputs of one pick: randomness, time, and what the request asks for.
#[derive(Debug)]
pub struct Draw<'a> {
    /// A random number generator that belongs to this thread.
    pub rng: &'a mut SmallRng,
    /// The hash of the request's key, if the request has a key.
    pub hash: Option<u64>,
    /// The endpoints that earlier attempts of the same request tried.
    pub tried: Tried,
    now: Option<Instant>,
    /// The time that an earlier pick on this thread read.
    recent: Option<Instant>,
    /// The index that the previous pick drew for this one.
    ahead: Option<&'a mut DrawnAhead>,
}

impl<'a> Draw<'a> {
    /// Creates a draw for a request without a key and without earlier attempts. It reads the clock at
    /// most once, when a picker first asks for the time.
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

    /// Sets the time, so that the clock is not read.
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

    /// Returns the time of this pick. Every call within one pick returns the same time.
    #[inline]
    pub fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(attempt::now)
    }

    /// Returns the time of this pick if it is known, else the time of a pick some requests earlier, and
    /// reads the clock only if neither is known. It is for loads that [may lag](LoadTracker::may_lag).
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

    /// Sets the index that was drawn ahead. The pick replaces it by the one for the next pick.
    #[inline]
    pub(crate) fn ahead(mut self, ahead: &'a mut DrawnAhead) -> Self {
        self.ahead = Some(ahead);
        self
    }

    /// The time, if this pick has read the clock.
    #[inline]
    pub(crate) fn read(&self) -> Option<Instant> {
        self.now
    }
}
