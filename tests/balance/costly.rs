//! Policies that take long to prepare: what goes on meanwhile, and what becomes of a table that nobody
//! waits for any more.
//!
//! tokio's paused clock stands still while blocking work is under way, so nothing here waits for time
//! until it is let go on.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, mpsc as blocking},
    thread::{self, ThreadId},
};

use rand::rngs::SmallRng;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, yield_now},
};
use tower_roster::{
    Instance,
    balance::{
        BalanceGone,
        policy::{Candidate, NAMES, P2c, Policy, RoundRobin, WeightedRoundRobin, by_name},
        topology::{Shares, SplitSettings, Topology},
    },
    endpoint::{Endpoint, eject::Ejection},
    instance::Weight,
};

use crate::kit::{Answer, Control, Rig, events, key, layer, script, settle};

/// What a table is told to do.
#[derive(Clone, Copy, Debug)]
enum Go {
    On,
    Panic,
}

/// In turn, prepared when and as a test says; on any thread.
struct Slow {
    started: mpsc::UnboundedSender<(usize, ThreadId)>,
    go: Mutex<blocking::Receiver<Go>>,
    /// Where it must not prepare.
    test: ThreadId,
}

/// Steers a [`Slow`].
struct Workshop {
    started: mpsc::UnboundedReceiver<(usize, ThreadId)>,
    go: blocking::Sender<Go>,
}

fn slow() -> (Workshop, Slow) {
    let (starts, started) = mpsc::unbounded_channel();
    let (go, goes) = blocking::channel();
    let policy = Slow {
        started: starts,
        go: Mutex::new(goes),
        test: thread::current().id(),
    };
    (Workshop { started, go }, policy)
}

impl Policy for Slow {
    type Load = <RoundRobin as Policy>::Load;
    type Picker = <RoundRobin as Policy>::Picker;

    fn tracker(&self) -> Self::Load {
        RoundRobin::new().tracker()
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Self::Picker {
        let here = thread::current().id();
        let _ = self.started.send((candidates.len(), here));
        assert_ne!(here, self.test, "the wait below would have no end");
        // Given up when the test has.
        let go = self.go.lock().map_or(Ok(Go::On), |go| go.recv());
        assert!(!matches!(go, Ok(Go::Panic)), "a prepare that panics");
        RoundRobin::new().prepare(candidates, rng)
    }

    fn is_costly(&self, candidates: usize) -> bool {
        assert!(candidates > 0, "nobody to prepare for costs nothing");
        true
    }
}

impl Workshop {
    /// Waits until a table is begun; for how many.
    async fn begun(&mut self) -> usize {
        let (len, thread) = self.started.recv().await.unwrap();
        assert_ne!(thread, thread::current().id(), "no task may wait for it");
        len
    }

    fn go(&self, go: Go) {
        self.go.send(go).unwrap();
    }

    /// A balancer of a and b.
    async fn open(mut self, policy: Slow) -> (Self, Rig<Slow>) {
        let rig = Rig::with(layer().policy(policy));
        self.go(Go::On);
        rig.list(["a", "b"]).await;
        assert_eq!(self.begun().await, 2);
        (self, rig)
    }
}

/// Lets the other tasks run, without time.
async fn turns() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_from_the_old_set_while_a_table_is_made() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    let mut said = rig.handle.subscribe().await.unwrap();
    rig.feed.insert("c");
    assert_eq!(workshop.begun().await, 3);
    assert_eq!(rig.spread(10, ["a", "b"]).await, [5, 5]);
    assert_eq!(rig.handle.status().usable, 2);
    assert!(events(&mut said).is_empty(), "what is told holds");
    workshop.go(Go::On);
    settle().await;
    assert_eq!(events(&mut said), ["+c"]);
    assert_eq!(rig.spread(9, ["a", "b", "c"]).await, [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn changes_meanwhile_are_taken_together_and_none_is_lost() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    rig.feed.insert("c");
    assert_eq!(workshop.begun().await, 3);
    rig.feed.insert("d");
    rig.feed.remove("a");
    rig.feed.insert("e");
    rig.feed.insert("f");
    rig.feed.remove("e");
    turns().await;
    workshop.go(Go::On);
    assert_eq!(workshop.begun().await, 4, "b, c, d and f");
    workshop.go(Go::On);
    settle().await;
    assert_eq!(rig.spread(8, ["b", "c", "d", "f"]).await, [2, 2, 2, 2]);
    assert!(workshop.started.try_recv().is_err(), "two tables, not six");
}

#[tokio::test(start_paused = true)]
async fn one_that_left_is_told_and_let_go_when_the_table_without_it_is_there() {
    let (mut workshop, policy) = slow();
    let rig = Rig::with(layer().policy(policy));
    workshop.go(Go::On);
    let [a, _] = rig.list(["a", "b"]).await;
    assert_eq!(workshop.begun().await, 2);
    let mut said = rig.handle.subscribe().await.unwrap();
    rig.feed.remove("a");
    assert_eq!(workshop.begun().await, 1);
    assert_eq!(rig.spread(4, ["a", "b"]).await, [2, 2]);
    a.answer(Answer::Holds);
    let held = [rig.balance.clone(), rig.balance.clone()]
        .map(|balance| tokio::spawn(tower::ServiceExt::oneshot(balance, 0)));
    turns().await;
    assert_eq!(a.open(), 1);
    assert!(events(&mut said).is_empty());
    workshop.go(Go::On);
    settle().await;
    assert_eq!(events(&mut said), ["-a 1"]);
    assert_eq!(rig.spread(4, ["a", "b"]).await, [0, 4]);
    a.release(1);
    for request in held {
        request.await.unwrap().unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(events(&mut said), ["drained a 0"]);
    assert!(!a.lives());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_ejected_gets_nothing_before_the_table_is_there() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    let order = {
        let handle = rig.handle.clone();
        tokio::spawn(async move { handle.eject(&key("a")).await })
    };
    assert_eq!(workshop.begun().await, 1);
    assert_eq!(rig.spread(6, ["a", "b"]).await, [0, 6]);
    assert!(!order.is_finished(), "it holds when the answer comes");
    workshop.go(Go::On);
    assert_eq!(order.await.unwrap(), Ok(true));
    assert_eq!(rig.spread(6, ["a", "b"]).await, [0, 6]);
}

/// Orders a weight from a task of its own.
fn weigh(rig: &Rig<Slow>, id: &str, weight: u16) -> JoinHandle<Result<bool, BalanceGone>> {
    let (handle, key) = (rig.handle.clone(), key(id));
    tokio::spawn(async move { handle.set_weight(&key, Weight::from(weight)).await })
}

#[tokio::test(start_paused = true)]
async fn orders_meanwhile_are_obeyed_together_and_all_hold_when_they_are_answered() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    rig.feed.insert("c");
    assert_eq!(workshop.begun().await, 3);
    let weights: Vec<_> = (2..50).map(|weight| weigh(&rig, "b", weight)).collect();
    let nobody = weigh(&rig, "nobody", 2);
    turns().await;
    let handle = rig.handle.clone();
    let eject = tokio::spawn(async move { handle.eject(&key("a")).await });
    turns().await;
    workshop.go(Go::On);
    assert_eq!(workshop.begun().await, 2, "b and c");
    // Or it panics: the gate of a is shut already.
    rig.spread(6, ["b", "c"]).await;
    assert!(!eject.is_finished() && weights.iter().all(|order| !order.is_finished()));
    workshop.go(Go::On);
    assert_eq!(eject.await.unwrap(), Ok(true));
    for order in weights {
        assert_eq!(order.await.unwrap(), Ok(true));
    }
    assert_eq!(nobody.await.unwrap(), Ok(false));
    assert_eq!(rig.info("b").await.weight, Weight::from(49));
    settle().await;
    assert!(
        workshop.started.try_recv().is_err(),
        "two tables, not fifty"
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_that_changes_nothing_makes_no_table() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    // Any that is made must not keep the answer.
    (0..6).for_each(|_| workshop.go(Go::On));
    let [a, nobody] = ["a", "nobody"].map(key);
    assert_eq!(rig.handle.set_weight(&a, Weight::ONE).await, Ok(true));
    assert_eq!(rig.handle.set_weight(&a, None).await, Ok(true));
    assert_eq!(rig.handle.restore(&a).await, Ok(true));
    assert_eq!(rig.handle.set_weight(&nobody, None).await, Ok(false));
    assert_eq!(rig.handle.eject(&nobody).await, Ok(false));
    assert_eq!(rig.handle.restore(&nobody).await, Ok(false));
    assert!(workshop.started.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_requests_tell_is_heard_though_orders_never_pause() {
    let (mut workshop, policy) = slow();
    let ejection = Ejection::new().consecutive_failures(3);
    let rig = Rig::with(layer().policy(policy).ejection(ejection));
    workshop.go(Go::On);
    let [a, ..] = rig.list(["a", "b", "c"]).await;
    assert_eq!(workshop.begun().await, 3);
    let first = weigh(&rig, "b", 2);
    assert_eq!(workshop.begun().await, 3);
    // While the table is made; the next order is there as soon as the table is.
    a.answer(Answer::Fails);
    for _ in 0..9 {
        let _ = rig.call().await;
    }
    let second = weigh(&rig, "b", 3);
    turns().await;
    workshop.go(Go::On);
    assert_eq!(workshop.begun().await, 2, "a has failed");
    workshop.go(Go::On);
    for order in [first, second] {
        assert_eq!(order.await.unwrap(), Ok(true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_a_table_leaves_the_choice_to_chance_and_the_set_right() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    rig.feed.insert("c");
    rig.feed.remove("a");
    assert_eq!(workshop.begun().await, 2);
    workshop.go(Go::Panic);
    settle().await;
    let [_, b, c] = rig.spread(100, ["a", "b", "c"]).await;
    assert!(b > 20 && c > 20 && b != c, "{b} and {c}");
    rig.feed.insert("d");
    assert_eq!(workshop.begun().await, 3);
    workshop.go(Go::On);
    settle().await;
    assert_eq!(rig.spread(9, ["b", "c", "d"]).await, [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_driver_ends_with_the_last_balancer_though_a_table_is_made() {
    let (workshop, policy) = slow();
    let (mut workshop, rig) = workshop.open(policy).await;
    let c = rig.feed.insert("c");
    assert_eq!(workshop.begun().await, 3);
    let Rig {
        feed,
        balance,
        handle,
    } = rig;
    drop(balance);
    turns().await;
    assert!(!feed.lives(), "discovery has no one to tell");
    assert!(!c.lives(), "a table must not keep connections open");
    assert!(handle.endpoints().await.is_err());
    workshop.go(Go::On);
}

#[test]
fn a_runtime_shuts_down_though_a_table_is_made() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (workshop, policy) = slow();
    let (workshop, rig, c) = runtime.block_on(async {
        let (mut workshop, rig) = workshop.open(policy).await;
        let c = rig.feed.insert("c");
        assert_eq!(workshop.begun().await, 3);
        (workshop, rig, c)
    });
    // Does not wait for blocking work, as dropping it does.
    runtime.shutdown_background();
    assert!(!rig.feed.lives());
    assert!(!c.lives());
    tokio_test::block_on(async {
        assert_eq!(rig.spread(4, ["a", "b"]).await, [2, 2], "as it was last");
        assert!(rig.handle.endpoints().await.is_err());
    });
    workshop.go(Go::On);
}

/// A policy that says otherwise of what it costs, and on which thread it prepared.
#[derive(Clone)]
struct Says<P> {
    policy: P,
    costly: bool,
    threads: mpsc::UnboundedSender<ThreadId>,
}

impl<P: Policy> Policy for Says<P> {
    type Load = P::Load;
    type Picker = P::Picker;

    fn tracker(&self) -> P::Load {
        self.policy.tracker()
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> P::Picker {
        let _ = self.threads.send(thread::current().id());
        self.policy.prepare(candidates, rng)
    }

    fn is_costly(&self, _: usize) -> bool {
        self.costly
    }
}

/// Where the first table was prepared, and the order of picks through some changes.
async fn order(costly: bool) -> (ThreadId, Vec<String>) {
    let (threads, mut prepared) = mpsc::unbounded_channel();
    let rig = Rig::with(layer().policy(Says {
        policy: WeightedRoundRobin::new(),
        costly,
        threads,
    }));
    let mut picks = Vec::new();
    let mut ids: VecDeque<_> = ["a", "b", "c", "d", "e", "f", "g"].into();
    while let Some(id) = ids.pop_front() {
        rig.list([id]).await;
        for _ in 0..5 {
            picks.push(rig.call().await.unwrap());
        }
    }
    (prepared.recv().await.unwrap(), picks)
}

#[tokio::test(start_paused = true)]
async fn picks_are_repeatable_wherever_a_policy_prepares() {
    let (here, inline) = order(false).await;
    let (elsewhere, costly) = order(true).await;
    assert_eq!(here, thread::current().id());
    assert_ne!(elsewhere, here);
    assert_eq!(inline, costly);
    assert_eq!(order(true).await.1, costly);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_costly_is_seen_as_soon_as_the_driver_has_run() {
    let rig = Rig::with(layer().policy(P2c::in_flight()));
    rig.feed.insert("a");
    // No time passes, and no other thread is waited for.
    turns().await;
    assert_eq!(rig.handle.status().usable, 1);
}

#[tokio::test(start_paused = true)]
async fn several_sets_are_prepared_in_one_go() {
    let (mut workshop, policy) = slow();
    let split = SplitSettings::new(Shares::canary("v2", 0.5));
    let layer = layer().policy(policy);
    let layer = layer.topology(Topology::new().split(split));
    let (feed, discover) = script();
    let balance = layer.build().unwrap().balance(discover);
    for (id, version) in [("a", "v1"), ("b", "v2")] {
        let instance = Instance::new("web", id, "10.0.0.1:80".parse().unwrap());
        let instance = Arc::new(instance.meta("version", version));
        feed.put(id, Endpoint::new(Control::new(id).service(), instance));
    }
    assert_eq!(workshop.begun().await, 1);
    workshop.go(Go::On);
    let (len, thread) = workshop.started.recv().await.unwrap();
    assert_eq!(len, 1);
    assert_ne!(thread, thread::current().id());
    assert_eq!(balance.usable(), 0, "all or nothing");
    workshop.go(Go::On);
    settle().await;
    assert_eq!(balance.usable(), 2);
    assert!(workshop.started.try_recv().is_err());
}

#[test]
fn the_policy_with_a_table_is_costly_and_no_other_is() {
    for name in NAMES {
        let tables = *name == "ring-hash";
        let policy = by_name(name).unwrap();
        for candidates in [1, 10, 10_000] {
            assert_eq!(policy.is_costly(candidates), tables, "{name}");
        }
    }
}
