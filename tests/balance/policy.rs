//! Policies of users that do what they should not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_roster::{
    Instance,
    balance::policy::{Candidate, CandidateSet, Draw, Picker, Policy},
    endpoint::{
        Endpoint,
        load::{InFlight, LoadTracker, Outcome},
    },
};

use crate::kit::{Control, Rig, key, layer, script, settle};

/// Counts how often it prepares, and always picks the first.
pub(crate) struct Counting(pub(crate) Arc<AtomicUsize>);

impl Policy for Counting {
    type Load = InFlight;
    type Picker = At;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> At {
        assert!(!candidates.is_empty(), "a policy prepares for candidates");
        self.0.fetch_add(1, SeqCst);
        At(0)
    }
}

pub(crate) struct At(usize);

impl<L: LoadTracker> Picker<L> for At {
    fn pick(&self, set: &CandidateSet<'_, L>, _: &mut Draw<'_>) -> usize {
        assert!(set.len() > 0, "a set is never empty");
        self.0
    }
}

/// Always picks this index.
struct Always(usize);

impl Policy for Always {
    type Load = InFlight;
    type Picker = At;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> At {
        At(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_out_of_range_is_any_endpoint() {
    for index in [3, 4, usize::MAX] {
        let rig = Rig::with(layer().policy(Always(index)));
        rig.list(["a", "b", "c"]).await;
        let counts = rig.spread(300, ["a", "b", "c"]).await;
        // 100 each, and 4.9 standard deviations of 8.2.
        assert!(
            counts.iter().all(|count| (60..140).contains(count)),
            "{counts:?}"
        );
        assert_eq!(rig.in_flight().await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_insists_on_an_endpoint_that_fails_is_overruled() {
    use crate::kit::Ready;
    let rig = Rig::with(layer().policy(Always(0)));
    let all = rig.list(["a", "b", "c"]).await;
    let first = rig.call().await.unwrap();
    for control in all.iter().filter(|control| control.name == first) {
        control.ready(Ready::Fails);
    }
    for _ in 0..10 {
        assert_ne!(rig.call().await.unwrap(), first);
    }
}

/// Counts the requests that start and that end, over all endpoints.
#[derive(Clone, Debug, Default)]
struct Measured(Arc<[AtomicUsize; 2]>);

impl LoadTracker for Measured {
    fn fresh(&self, _: Instant) -> Self {
        self.clone()
    }

    fn start(&self, _: Instant) {
        self.0[0].fetch_add(1, SeqCst);
    }

    fn record(&self, _: Outcome, _: Duration, _: Instant) {
        self.0[1].fetch_add(1, SeqCst);
    }

    fn load(&self, in_flight: usize, _: Instant) -> f64 {
        in_flight as f64
    }
}

impl Policy for Measured {
    type Load = Self;
    type Picker = At;

    fn tracker(&self) -> Self {
        self.clone()
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> At {
        At(0)
    }
}

#[tokio::test(start_paused = true)]
async fn the_load_of_a_discovered_endpoint_is_measured_once() {
    let measured = Measured::default();
    let (feed, discover) = script();
    // The balancer takes an endpoint that does not measure, so there is no second tracker.
    let balance = layer()
        .policy(measured.clone())
        .build()
        .unwrap()
        .balance(discover);
    let instance = Instance::new("web", "a", "10.0.0.1:80".parse().unwrap());
    let service = Control::new("a").service();
    feed.put("a", Endpoint::new(service, Arc::new(instance)));
    for requests in 1..=10 {
        balance.clone().oneshot(0).await.unwrap();
        let counts = measured.0.each_ref().map(|count| count.load(SeqCst));
        assert_eq!(counts, [requests; 2]);
    }
}

/// Says this of every load.
#[derive(Debug)]
struct Says(f64);

impl LoadTracker for Says {
    fn fresh(&self, _: Instant) -> Self {
        Self(self.0)
    }

    fn record(&self, _: Outcome, _: Duration, _: Instant) {}

    fn load(&self, _: usize, _: Instant) -> f64 {
        self.0
    }
}

/// Picks the smallest load, as somebody would write it who trusts numbers.
struct Smallest(f64);

impl Policy for Smallest {
    type Load = Says;
    type Picker = SmallestOf;

    fn tracker(&self) -> Says {
        Says(self.0)
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> SmallestOf {
        SmallestOf
    }
}

struct SmallestOf;

impl Picker<Says> for SmallestOf {
    fn pick(&self, set: &CandidateSet<'_, Says>, draw: &mut Draw<'_>) -> usize {
        let now = draw.now();
        let load = |index: &usize| set.load(*index, now);
        let order = |a: &usize, b: &usize| load(a).partial_cmp(&load(b)).expect("a number");
        (0..set.len()).min_by(order).expect("an endpoint")
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_no_number_is_a_number_to_policies() {
    for load in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.0] {
        let rig = Rig::with(layer().policy(Smallest(load)));
        rig.list(["a", "b"]).await;
        for _ in 0..4 {
            rig.call().await.unwrap();
        }
        let info = rig.info("a").await;
        assert!(
            info.load >= 0.0,
            "operators are told {} for {load}",
            info.load
        );
    }
}

/// In turn, and panics where it is told to.
#[derive(Clone, Default)]
struct Panics {
    prepare: Arc<AtomicBool>,
    pick: Arc<AtomicBool>,
    turn: Arc<AtomicUsize>,
}

impl Policy for Panics {
    type Load = InFlight;
    type Picker = Self;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> Self {
        assert!(!self.prepare.load(SeqCst), "a prepare that panics");
        self.clone()
    }
}

impl Picker<InFlight> for Panics {
    fn pick(&self, set: &CandidateSet<'_, InFlight>, _: &mut Draw<'_>) -> usize {
        assert!(!self.pick.load(SeqCst), "a pick that panics");
        self.turn.fetch_add(1, SeqCst) % set.len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pick_that_panics_is_the_callers_and_the_balancer_goes_on() {
    let policy = Panics::default();
    let rig = Rig::with(layer().policy(policy.clone()));
    rig.list(["a", "b"]).await;
    policy.pick.store(true, SeqCst);
    for _ in 0..10 {
        let ended = tokio::spawn(rig.balance.clone().oneshot(0)).await;
        assert!(ended.unwrap_err().is_panic());
    }
    let info = rig.info("a").await;
    assert_eq!(
        (info.failures, info.requests, rig.in_flight().await),
        (0, 0, 0)
    );
    policy.pick.store(false, SeqCst);
    assert_eq!(rig.spread(100, ["a", "b"]).await, [50, 50]);
    // Whatever the panic left behind, a change is published.
    rig.list(["c"]).await;
    assert_eq!(rig.spread(90, ["a", "b", "c"]).await, [30, 30, 30]);
}

#[tokio::test(start_paused = true)]
async fn a_prepare_that_panics_leaves_the_choice_to_chance_and_the_set_right() {
    let policy = Panics::default();
    let rig = Rig::with(layer().policy(policy.clone()));
    rig.list(["a", "b"]).await;
    policy.prepare.store(true, SeqCst);
    let [_] = rig.list(["c"]).await;
    rig.feed.remove("a");
    settle().await;
    // Not the old set: a removed endpoint gets nothing, whatever the policy does.
    let [_, b, c] = rig.spread(100, ["a", "b", "c"]).await;
    assert!(b > 20 && c > 20, "{b} and {c}");
    assert!(
        rig.handle.eject(&key("b")).await.unwrap(),
        "the driver lives"
    );
    assert_eq!(rig.spread(10, ["b", "c"]).await, [0, 10]);

    policy.prepare.store(false, SeqCst);
    rig.handle.restore(&key("b")).await.unwrap();
    assert_eq!(rig.spread(100, ["b", "c"]).await, [50, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_first_prepare_that_panics_leaves_nobody_waiting() {
    let policy = Panics::default();
    policy.prepare.store(true, SeqCst);
    let rig = Rig::with(layer().policy(policy.clone()));
    rig.list(["a"]).await;
    assert_eq!(rig.call().await.unwrap(), "a");
}

/// One whose trackers cannot be made for a while.
struct NoTracker(Arc<AtomicBool>);

impl Policy for NoTracker {
    type Load = InFlight;
    type Picker = At;

    fn tracker(&self) -> InFlight {
        assert!(!self.0.load(SeqCst), "a tracker that panics");
        InFlight::new()
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> At {
        At(0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_makes_no_tracker_does_not_stop_the_driver() {
    let panics = Arc::new(AtomicBool::new(false));
    let rig = Rig::with(layer().policy(NoTracker(Arc::clone(&panics))));
    rig.list(["a"]).await;
    panics.store(true, SeqCst);
    rig.list(["b"]).await;
    assert_eq!(rig.call().await.unwrap(), "a");
    panics.store(false, SeqCst);
    rig.list(["c"]).await;
    let list = rig.handle.endpoints().await.unwrap();
    let ids: Vec<_> = list.iter().map(|info| info.key.id()).collect();
    assert_eq!(ids, ["a", "c"], "b is the price");
}

/// Panics when it is told of an outcome.
#[derive(Debug)]
struct Deaf;

impl LoadTracker for Deaf {
    fn fresh(&self, _: Instant) -> Self {
        Self
    }

    fn record(&self, _: Outcome, _: Duration, _: Instant) {
        panic!("a tracker that panics");
    }

    fn load(&self, _: usize, _: Instant) -> f64 {
        0.0
    }
}

struct ByDeaf;

impl Policy for ByDeaf {
    type Load = Deaf;
    type Picker = At;

    fn tracker(&self) -> Deaf {
        Deaf
    }

    fn prepare(&self, _: &[Candidate], _: &mut SmallRng) -> At {
        At(0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_panics_costs_the_request_and_not_the_process() {
    let rig = Rig::with(layer().policy(ByDeaf));
    rig.list(["a"]).await;
    // Once, not again while that panic unwinds, which would abort.
    let panic = tokio::spawn(rig.balance.clone().oneshot(0))
        .await
        .unwrap_err();
    assert!(panic.is_panic());
    assert_eq!(rig.in_flight().await, 0);
}
