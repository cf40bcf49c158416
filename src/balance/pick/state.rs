//! The state of one endpoint while it is in use, shared by snapshots, requests and the driver.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{home::Home, version_tally::VersionTally};
use crate::{
    attempt::EndpointId,
    classify::Outcome,
    endpoint::{
        eject::{Ejection, EndpointHealth, Round, Signal},
        load::LoadTracker,
    },
    instance::Key,
    sync,
};

/// The state of one endpoint, kept by its key through every update.
///
/// The fields that each request reads come first, in a cache line that requests do not write to unless
/// something is measured. The counter of the `Arc`, which each request changes, has the line before it to
/// itself. Otherwise the cost of two threads varies by half, depending on where the allocator puts the
/// states of a few endpoints.
#[repr(C, align(64))]
pub(crate) struct LiveEndpoint<L> {
    /// Number of references that are not requests; see [`Held`].
    held: AtomicU32,
    mark: Mark,
    /// The gate, the data beside it, and the counts for ejection.
    pub(crate) health: EndpointHealth<BesideGate<L>>,
    /// Number of requests that were sent to this process and to the ones before it, which share the counter.
    /// Relaxed: a statistic, as all counts here; none publishes other memory.
    requests: Arc<AtomicU64>,
    /// Number of those that failed. Not shared but copied at a move, because a failure at the old address
    /// says nothing of the new one. So a request that fails there after the move is not counted.
    failed: AtomicU64,
    /// Whether the endpoint has the version that is guarded. Relaxed: it is read on its own and publishes
    /// no other memory.
    canary: AtomicBool,
    pub(crate) key: Key,
}

/// The data beside the gate. In this order, because only timed requests need the tracker.
#[repr(C)]
pub(crate) struct BesideGate<L> {
    common: Arc<Common>,
    tracker: L,
}

/// The id of an endpoint, and the flags of [`Common`] that a request needs, copied here to save a load.
#[derive(Clone, Copy)]
struct Mark(u32);

impl Mark {
    /// Whether outcomes are needed beyond the tracker.
    const WATCHED: u32 = 1 << 30;
    /// Whether every request is timed.
    const TIMED: u32 = 1 << 31;

    fn new(common: &Common) -> Self {
        let watched = common.rules.is_some() || common.tallies.is_some();
        let watched = if watched { Self::WATCHED } else { 0 };
        let timed = if common.timed { Self::TIMED } else { 0 };
        Self(EndpointId::next().bits() | watched | timed)
    }
}

/// The data that all states of one balancer share.
pub(crate) struct Common {
    /// The zero point of the times that requests store.
    pub(crate) epoch: Instant,
    /// The rules of ejection; `None` for no ejection.
    pub(crate) rules: Option<Ejection>,
    /// The channel for signals that the driver must decide on. Boxed, because a channel allocates room for
    /// 32 items at once.
    pub(crate) alarm: mpsc::UnboundedSender<Box<(EndpointId, Signal)>>,
    /// Counts for the guard of a traffic split: those of the canary, and those of all other versions.
    pub(crate) tallies: Option<[Arc<VersionTally>; 2]>,
    /// Whether every request is timed, even if the tracker does not need it.
    pub(crate) timed: bool,
    /// The balancer, for a request that must go to another endpoint.
    pub(crate) home: Home,
}

impl Common {
    /// For a state that belongs to no balancer.
    pub(crate) fn lonely() -> Self {
        Self {
            epoch: Instant::now(),
            rules: None,
            alarm: mpsc::unbounded_channel().0,
            tallies: None,
            timed: false,
            home: Home::none(),
        }
    }
}

impl<L> LiveEndpoint<L> {
    fn new(key: Key, tracker: L, round: Round, common: Arc<Common>) -> Self {
        Self {
            held: AtomicU32::new(1),
            mark: Mark::new(&common),
            health: EndpointHealth::with(round, BesideGate { common, tracker }),
            requests: Arc::default(),
            failed: AtomicU64::new(0),
            canary: AtomicBool::new(false),
            key,
        }
    }

    #[inline]
    pub(crate) fn tracker(&self) -> &L {
        &self.health.beside.tracker
    }

    #[inline]
    pub(crate) fn common(&self) -> &Common {
        &self.health.beside.common
    }

    #[inline]
    pub(crate) fn id(&self) -> EndpointId {
        EndpointId::of_bits(self.mark.0)
    }

    /// Whether every request is timed, even if the tracker does not need it.
    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        self.mark.0 & Mark::TIMED != 0
    }

    /// Whether a success is recorded beyond the tracker.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.mark.0 & Mark::WATCHED != 0
    }

    /// Number of requests that were sent, as of the last collection.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Adds requests that were sent.
    pub(crate) fn add_requests(&self, requests: u64) {
        self.requests.fetch_add(requests, Relaxed);
    }

    /// Number of requests that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    pub(crate) fn set_canary(&self, canary: bool) {
        self.canary.store(canary, Relaxed);
    }

    /// Records the outcome of a request that passed with `pass`, except in the tracker. `latency` is `None`
    /// if the request was not timed. `revised` means that the request was recorded as a success before.
    #[inline]
    pub(crate) fn conclude(
        &self,
        pass: u32,
        outcome: Outcome,
        latency: Option<Duration>,
        revised: bool,
    ) {
        if matches!(outcome, Outcome::Failure | Outcome::Overloaded) {
            self.failed.fetch_add(1, Relaxed);
        }
        if !self.is_watched() {
            return;
        }
        let common = self.common();
        if let Some(rules) = &common.rules {
            let pass = self.health.unpack(pass);
            let signal = if revised {
                self.health.revise(pass, latency, rules)
            } else {
                self.health.record(pass, outcome, latency, rules)
            };
            if let Some(signal) = signal {
                // The send fails once the driver has ended with the last balancer.
                let _ = common.alarm.send(Box::new((self.id(), signal)));
            }
        }
        if let Some([canary, baseline]) = &common.tallies {
            let canaries = self.canary.load(Relaxed);
            let tally = if canaries { canary } else { baseline };
            if revised {
                tally.revise();
            } else {
                tally.record(outcome, latency.unwrap_or_default());
            }
        }
    }
}

/// A reference to a state that is a request, or is inside a [`Held`].
pub(crate) type SharedState<L> = sync::Arc<LiveEndpoint<L>>;

/// A reference to a state that is not a request.
///
/// Each request holds an `Arc` of the state of its endpoint in any case. So the `Arc`'s own counter counts
/// requests, once the number of other references is known. A request then costs two atomic operations
/// instead of the four that a separate counter costs. All other holders use this type, which counts itself.
///
/// A clone or a drop counts one request too many for a moment, and drops on another thread may hide
/// requests from a reader. Only the driver clones and drops, so its numbers are exact. A picker on another
/// thread accepts the error.
pub(crate) struct Held<L>(SharedState<L>);

impl<L> Held<L> {
    pub(crate) fn new(key: Key, tracker: L, round: Round, common: Arc<Common>) -> Self {
        Self(SharedState::new(LiveEndpoint::new(
            key, tracker, round, common,
        )))
    }

    /// The state of a new process with the same name. It keeps the counts only, and does not count the
    /// requests in flight of this one.
    pub(crate) fn succeeded_by(&self, tracker: L, round: Round) -> Self {
        let common = Arc::clone(&self.0.health.beside.common);
        let mut state = LiveEndpoint::new(self.0.key.clone(), tracker, round, common);
        state.requests = Arc::clone(&self.0.requests);
        state.failed = AtomicU64::new(self.failed());
        Self(SharedState::new(state))
    }

    /// Whether both refer to the same state.
    #[inline]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        SharedState::ptr_eq(&self.0, &other.0)
    }

    /// Number of requests in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        let others = self.0.held.load(Relaxed) as usize;
        SharedState::strong_count(&self.0).saturating_sub(others)
    }

    /// The load from the tracker, from 0 to infinity; infinity if the tracker returns any other value.
    #[inline]
    pub(crate) fn load(&self, now: Instant) -> f64
    where
        L: LoadTracker,
    {
        let load = self.0.tracker().load(self.in_flight(), now);
        // False for NaN, too.
        if load >= 0.0 { load } else { f64::INFINITY }
    }

    /// Starts a request at this endpoint.
    #[inline]
    pub(crate) fn begin(&self) -> SharedState<L> {
        SharedState::clone(&self.0)
    }
}

impl<L> Clone for Held<L> {
    fn clone(&self) -> Self {
        let state = SharedState::clone(&self.0);
        state.held.fetch_add(1, Relaxed);
        Self(state)
    }
}

impl<L> Drop for Held<L> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

impl<L> Deref for Held<L> {
    type Target = LiveEndpoint<L>;

    fn deref(&self) -> &LiveEndpoint<L> {
        &self.0
    }
}

#[cfg(all(test, not(roster_loom)))]
mod tests {
    use super::*;
    use crate::endpoint::load::InFlight;

    #[test]
    fn only_requests_count_as_in_flight() {
        let common = Arc::new(Common::lonely());
        let state = Held::new(Key::new("a", ""), InFlight::new(), Round::default(), common);
        let others: Vec<_> = (0..5).map(|_| state.clone()).collect();
        assert_eq!(state.in_flight(), 0);
        let requests = [state.begin(), others[3].begin()];
        assert_eq!(state.in_flight(), 2);
        drop(others);
        assert_eq!(state.in_flight(), 2);
        drop(requests);
        assert_eq!(state.in_flight(), 0);
    }
}

#[cfg(all(test, roster_loom))]
mod model {
    use loom::thread;

    use super::*;
    use crate::endpoint::load::InFlight;

    fn state() -> Held<InFlight> {
        let common = Arc::new(Common::lonely());
        Held::new(Key::new("a", ""), InFlight::new(), Round::default(), common)
    }

    #[test]
    fn requests_that_come_and_go_leave_nothing_and_the_driver_counts_none_too_few() {
        loom::model(|| {
            let state = state();
            let snapshot = sync::Arc::new(state.clone());
            let mine = state.begin();
            let other = snapshot.clone();
            let request = thread::spawn(move || drop(other.begin()));
            // Meanwhile the driver makes the next snapshot, which holds the state too, and drops the old one.
            let next = state.clone();
            assert!((1..=2).contains(&state.in_flight()));
            drop(next);
            assert!((1..=2).contains(&state.in_flight()));
            request.join().unwrap();
            drop(snapshot);
            assert_eq!(state.in_flight(), 1);
            drop(mine);
            assert_eq!(state.in_flight(), 0);
        });
    }
}
