//! Routes, policies, classifiers, clones, trackers and destructors that panic: what a request runs into is
//! its caller's, none is in flight for ever, and the balancer goes on.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use rand::rngs::SmallRng;
use tokio::{sync::mpsc::UnboundedSender, time::Instant};
use tower::{Service, ServiceExt, discover::Change};
use tower_roster::{
    balance::{
        BalanceBuilder, BalanceHandle, BalanceLayer, RequestGuard,
        policy::{Candidate, CandidateSet, Draw, Picker, Policy, RoundRobin},
        topology::Wish,
    },
    classify::{self, Classify, Observer, Verdict},
    endpoint::{
        eject::Ejection,
        load::{InFlight, LoadTracker, Outcome},
    },
};

use crate::kit::{Answer, Control, Failed, Mock, Ready, Rig, key, layer, script, settle};

/// Requests in flight and failures of all endpoints.
async fn totals(handle: &BalanceHandle) -> (usize, u64) {
    let all = handle.endpoints().await.unwrap();
    all.iter().fold((0, 0), |(in_flight, failures), info| {
        (in_flight + info.in_flight, failures + info.failures)
    })
}

/// Sends a request, whose panic is to be the caller's.
async fn panics<S, R>(service: S, request: R)
where
    S: Service<R> + Send + 'static,
    S::Future: Send,
    S::Response: std::fmt::Debug + Send,
    S::Error: std::fmt::Debug + Send,
    R: Send + 'static,
{
    let ended = tokio::spawn(service.oneshot(request)).await;
    assert!(ended.expect_err("a panic").is_panic());
}

#[tokio::test(start_paused = true)]
async fn a_route_that_panics_is_the_callers_and_the_request_goes_nowhere() {
    let (feed, script) = script();
    let a = feed.insert("a");
    let route = |number: &u32| {
        assert_ne!(*number, 13, "a route that panics");
        Wish::new()
    };
    let balance = layer().route(route).build().unwrap().balance_plain(script);
    settle().await;
    for _ in 0..3 {
        panics(balance.clone(), 13).await;
        assert_eq!(balance.clone().oneshot(1).await.unwrap(), "a");
    }
    assert_eq!(a.calls(), 3, "what has no route is not sent");
    assert_eq!(totals(&balance.handle()).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_route_that_panics_when_the_request_is_sent_on_leaves_nothing_in_flight() {
    for waits in [false, true] {
        let (feed, script) = script();
        let endpoints = [feed.insert("a"), feed.insert("b")];
        let asked = Arc::new(AtomicUsize::new(0));
        // Once for the pick, and once for one that is ready, where that one is not.
        let well = if waits { 2 } else { 1 };
        let route = {
            let asked = Arc::clone(&asked);
            move |_: &u32| {
                assert!(asked.fetch_add(1, SeqCst) < well, "a route that panics");
                Wish::new()
            }
        };
        let balance = layer().route(route).build().unwrap().balance_plain(script);
        settle().await;
        // In `call`, and when the future is polled.
        let ready = if waits { Ready::Waits } else { Ready::Fails };
        endpoints.iter().for_each(|endpoint| endpoint.ready(ready));
        let request = tokio::spawn(balance.clone().oneshot(0));
        settle().await;
        endpoints.iter().for_each(|it| it.ready(Ready::Fails));
        assert!(request.await.unwrap_err().is_panic());
        assert_eq!(asked.load(SeqCst), well + 1);
        // The one endpoint that was not ready failed it.
        assert_eq!(totals(&balance.handle()).await, (0, 1));
    }
}

fn judge(result: Result<&String, &Failed>) -> Verdict {
    assert_ne!(result.unwrap(), "bad", "a classifier that panics");
    Verdict::SUCCESS
}

/// Panics when it hands on the answer of `bad`.
#[derive(Clone)]
struct Hands;

impl Classify<String, Failed> for Hands {
    type Observed<O: Observer> = String;

    fn judge(&self, _: Result<&String, &Failed>) -> Option<Verdict> {
        Some(Verdict::SUCCESS)
    }

    fn observe<O: Observer>(&self, response: String, _: Option<Verdict>, _: O) -> String {
        assert_ne!(response, "bad", "a classifier that panics");
        response
    }
}

async fn is_the_callers<C>(layer: BalanceBuilder<RoundRobin, C>)
where
    C: Classify<String, Failed, Observed<RequestGuard<InFlight>> = String>,
{
    let (feed, script) = script();
    feed.insert("good");
    feed.insert("bad");
    let balance = layer.build().unwrap().balance_plain(script);
    settle().await;
    let mut failed = 0;
    for _ in 0..10 {
        match tokio::spawn(balance.clone().oneshot(0)).await {
            Ok(name) => assert_eq!(name.unwrap(), "good"),
            Err(panic) => {
                assert!(panic.is_panic());
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 5);
    assert_eq!(
        totals(&balance.handle()).await,
        (0, 0),
        "it is not the endpoint's fault"
    );
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_is_the_callers_and_the_balancer_goes_on() {
    is_the_callers(layer().classify(classify::from_fn(judge))).await;
    is_the_callers(layer().classify(Hands)).await;
}

/// A service whose clones panic where it is told to.
struct Unique(Arc<AtomicBool>);

impl Clone for Unique {
    fn clone(&self) -> Self {
        assert!(!self.0.load(SeqCst), "a clone that panics");
        Self(Arc::clone(&self.0))
    }
}

impl Service<()> for Unique {
    type Response = ();
    type Error = Infallible;
    type Future = std::future::Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_panics_is_the_callers_and_the_balancer_goes_on() {
    let (feed, script) = script();
    let panics = Arc::new(AtomicBool::new(false));
    feed.put("a", Unique(Arc::clone(&panics)));
    let balance = layer().build().unwrap().balance_plain(script);
    settle().await;
    panics.store(true, SeqCst);
    for _ in 0..100 {
        let request = tokio::spawn(balance.clone().oneshot(()));
        assert!(request.await.unwrap_err().is_panic());
    }
    panics.store(false, SeqCst);
    balance.clone().oneshot(()).await.unwrap();
    assert_eq!(totals(&balance.handle()).await, (0, 0));
}

/// A service whose last copy panics when it is dropped.
#[derive(Clone)]
struct Bomb(#[allow(dead_code)] Arc<Fuse>);

struct Fuse(bool);

impl Drop for Fuse {
    fn drop(&mut self) {
        assert!(!self.0 || std::thread::panicking(), "a drop that panics");
    }
}

impl tower::Service<u32> for Bomb {
    type Response = u32;
    type Error = Infallible;
    type Future = std::future::Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u32) -> Self::Future {
        std::future::ready(Ok(number))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_when_it_is_dropped_stops_nothing() {
    let (feed, script) = script();
    let balance = layer().build().unwrap().balance_plain(script);
    let bomb = |id: &str, goes_off| feed.put(id, Bomb(Arc::new(Fuse(goes_off))));
    bomb("a", true);
    bomb("b", false);
    settle().await;
    let handle = balance.handle();
    // When it is replaced, and when it leaves.
    bomb("a", true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    feed.remove("a");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.status().usable, 1);
    bomb("c", false);
    settle().await;
    assert_eq!(handle.endpoints().await.unwrap().len(), 2);
    assert_eq!(balance.clone().oneshot(7).await.unwrap(), 7);
}

/// Cannot say its load, nor forget it.
#[derive(Clone, Debug, Default)]
struct Defect;

impl LoadTracker for Defect {
    fn fresh(&self, _: Instant) -> Self {
        Self
    }

    fn record(&self, _: Outcome, _: Duration, _: Instant) {}

    fn load(&self, _: usize, _: Instant) -> f64 {
        panic!("a load that panics")
    }

    fn forget(&self, _: Instant) {
        panic!("a tracker that panics")
    }
}

#[derive(Debug)]
struct ByDefect;

impl Policy for ByDefect {
    type Load = Defect;
    type Picker = First;

    fn tracker(&self) -> Defect {
        Defect
    }

    fn prepare(&self, _: &[Candidate<'_>], _: &mut SmallRng) -> First {
        First
    }
}

struct First;

impl Picker<Defect> for First {
    fn pick(&self, _: &CandidateSet<'_, Defect>, _: &mut Draw<'_>) -> usize {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_panics_does_not_stop_the_driver() {
    let rig = Rig::with(BalanceLayer::builder().policy(ByDefect).seed(1));
    rig.list(["a", "b"]).await;
    assert!(rig.handle.eject(&key("a")).await.unwrap());
    assert!(rig.handle.restore(&key("a")).await.unwrap());
    rig.spread(10, ["a", "b"]).await;
    let loads = rig.handle.endpoints().await.unwrap();
    assert!(loads.iter().all(|info| info.load.is_nan()), "{loads:?}");
    rig.feed.remove("a");
    rig.list(["c"]).await;
    rig.spread(10, ["b", "c"]).await;
}

/// A name that cannot always be told.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Name(&'static str);

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert_ne!(self.0, "bad", "a name that panics");
        f.write_str(self.0)
    }
}

type Named = Change<Name, Mock>;

/// A discovery of names that are sent to it.
fn named() -> (
    UnboundedSender<Named>,
    impl Stream<Item = Result<Named, Infallible>> + Send,
) {
    let (names, listed) = tokio::sync::mpsc::unbounded_channel();
    let discover = futures_util::stream::unfold(listed, |mut listed| async {
        let change = listed.recv().await?;
        Some((Ok(change), listed))
    });
    (names, Box::pin(discover))
}

#[tokio::test(start_paused = true)]
async fn one_whose_name_panics_takes_no_part_in_anything() {
    let (names, discover) = named();
    let ejection = Ejection::new().consecutive_failures(1).max_ejected(1.0);
    let balance = layer()
        .ejection(ejection)
        .build()
        .unwrap()
        .balance_plain(discover);
    let control = Control::new("a");
    for name in ["a", "bad", "bad", "bad"] {
        let change = Change::Insert(Name(name), control.service());
        names.send(change).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    control.answer(Answer::Fails);
    for _ in 0..10 {
        assert!(balance.clone().oneshot(0).await.is_err());
        settle().await;
    }
    let all = balance.handle().endpoints().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].cause, None, "the last one stays");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_goes_on_with_what_is_left() {
    let (names, discover) = named();
    let balance = layer().build().unwrap().balance_plain(discover);
    let control = Control::new("a");
    let list = |name| {
        let change = Change::Insert(Name(name), control.service());
        names.send(change).unwrap();
    };
    ["a", "b"].into_iter().for_each(list);
    settle().await;
    let handle = balance.handle();
    // All that is there is taken in at once: one that came before is listed all the same.
    ["c", "bad", "d"].into_iter().for_each(list);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = handle.endpoints().await.unwrap();
    let ids: Vec<_> = all.iter().map(|info| info.key.id()).collect();
    assert_eq!(ids, ["a", "b", "c", "d"]);
    assert_eq!(handle.status().usable, 4);
    assert_eq!(balance.clone().oneshot(0).await.unwrap(), "a");
    drop((balance, names));
    settle().await;
    assert!(!control.lives(), "it ends with the last balancer");
}
