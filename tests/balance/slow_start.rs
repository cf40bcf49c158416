//! Slow start: who ramps and how, as requests and the handle see it.

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, advance};
use tower::{ServiceExt, service_fn};
use tower_roster::{
    balance::{
        Balance, BalanceBuilder, BalanceHandle, BalanceLayer, EndpointState,
        policy::{P2c, Policy, WeightedRoundRobin},
    },
    endpoint::{
        SlowStart,
        eject::{EjectCause, Ejection},
    },
    instance::Weight,
};

use crate::kit::{Answer, Feed, Rig, key, layer, script, settle};

const MS: Duration = Duration::from_millis(1);

/// Long, so that a step of the ramp has room for many requests that take their time.
const WINDOW: Duration = Duration::from_secs(200);

/// What each request takes: above the grain of peak EWMA, so that latencies are compared.
const TAKES: Duration = Duration::from_millis(2);

/// How long what is known of an endpoint that left is kept.
const GRACE: Duration = Duration::from_secs(60);

/// Requests for each look: 10 s, which is half of a step.
const REQUESTS: usize = 5_000;

type Service = tower::util::BoxCloneSyncService<(), &'static str, Infallible>;

/// Answers with its name, after the time that it takes.
fn service(name: &'static str) -> Service {
    Service::new(service_fn(move |()| async move {
        // Not a sleep, which is off by up to a millisecond.
        advance(TAKES).await;
        Ok(name)
    }))
}

/// A balancer over endpoints that take their time.
struct Scene<P: Policy> {
    feed: Feed<Service>,
    balance: Balance<Service, P>,
    handle: BalanceHandle,
}

impl<P: Policy> Scene<P> {
    async fn new(policy: P, ids: &[&'static str]) -> Self {
        Self::with(BalanceLayer::builder().policy(policy), ids).await
    }

    async fn with(layer: BalanceBuilder<P>, ids: &[&'static str]) -> Self {
        let (feed, script) = script();
        let layer = layer
            .grace(GRACE)
            .slow_start(SlowStart::new().window(WINDOW));
        let balance = layer.seed(7).build().unwrap().balance_plain(script);
        let scene = Self {
            feed,
            handle: balance.handle(),
            balance,
        };
        scene.list(ids).await;
        scene
    }

    async fn list(&self, ids: &[&'static str]) {
        ids.iter().for_each(|id| self.feed.put(id, service(id)));
        settle().await;
    }

    /// Which part of the requests goes to `id` from now on.
    async fn share(&self, id: &str) -> f64 {
        let mut hits = 0;
        for _ in 0..REQUESTS {
            hits += usize::from(self.balance.clone().oneshot(()).await.unwrap() == id);
        }
        hits as f64 / REQUESTS as f64
    }

    async fn state(&self, id: &str) -> (EndpointState, f64) {
        let all = self.handle.endpoints().await.unwrap();
        let info = all.into_iter().find(|info| info.key == key(id)).unwrap();
        (info.state, info.effective_weight)
    }

    /// Watches `id` from `began` on through its ramp among `warm` others.
    async fn ramps(&self, id: &str, warm: f64, began: Instant) {
        for percent in [0, 20, 50, 70, 90, 100, 140] {
            let at = began + WINDOW * percent / 100;
            // A moment into the step.
            tokio::time::sleep_until(at + 5 * MS).await;
            let factor = f64::from(percent.clamp(10, 100)) / 100.0;
            let due = factor / (warm + factor);
            let (state, weight) = self.state(id).await;
            assert!(
                (weight - factor).abs() < 0.001,
                "weight {weight} at {percent} %"
            );
            let expected = if percent < 100 {
                EndpointState::Warming
            } else {
                assert_eq!(weight, 1.0, "exactly full after the window");
                EndpointState::Active
            };
            assert_eq!(state, expected, "at {percent} %");
            assert_share(self.share(id).await, due, &format!("at {percent} %"));
        }
    }
}

/// Within four standard errors.
#[track_caller]
fn assert_share(share: f64, due: f64, when: &str) {
    let sigma = (due * (1.0 - due) / REQUESTS as f64).sqrt();
    assert!(
        (share - due).abs() < 4.0 * sigma,
        "{share} {when}, and {due} is due"
    );
}

/// A new endpoint, one restored by hand, and one that comes back after the grace; but not one that comes
/// back before that.
async fn all_who_are_new_or_restored_ramp<P: Policy>(policy: P) {
    let scene = Scene::new(policy, &["a", "b", "c"]).await;
    for id in ["a", "b", "c"] {
        let (state, weight) = scene.state(id).await;
        assert_eq!(
            (state, weight),
            (EndpointState::Active, 1.0),
            "the first set does not ramp"
        );
        assert_share(scene.share(id).await, 1.0 / 3.0, "in the first set");
    }

    let new = Instant::now();
    scene.list(&["new"]).await;
    scene.ramps("new", 3.0, new).await;

    scene.handle.eject(&key("a")).await.unwrap();
    assert_eq!(scene.state("a").await.0, EndpointState::Ejected);
    assert_eq!(scene.share("a").await, 0.0);
    let restored = Instant::now();
    scene.handle.restore(&key("a")).await.unwrap();
    scene.ramps("a", 3.0, restored).await;

    scene.feed.remove("b");
    settle().await;
    assert_share(scene.share("c").await, 1.0 / 3.0, "while b is away");
    scene.list(&["b"]).await;
    assert_eq!(scene.state("b").await, (EndpointState::Active, 1.0));
    assert_share(scene.share("b").await, 0.25, "as soon as b is back");

    scene.feed.remove("b");
    tokio::time::sleep(GRACE + MS).await;
    let back = Instant::now();
    scene.list(&["b"]).await;
    scene.ramps("b", 3.0, back).await;
}

#[tokio::test(start_paused = true)]
async fn all_who_are_new_or_restored_ramp_by_peak_ewma() {
    all_who_are_new_or_restored_ramp(P2c::peak_ewma()).await;
}

#[tokio::test(start_paused = true)]
async fn all_who_are_new_or_restored_ramp_in_weighted_turns() {
    all_who_are_new_or_restored_ramp(WeightedRoundRobin::new()).await;
}

#[tokio::test(start_paused = true)]
async fn all_who_are_new_or_restored_ramp_by_requests_in_flight() {
    all_who_are_new_or_restored_ramp(P2c::in_flight()).await;
}

/// Where many ramp at once, the rest get half as much again as their due and no more.
async fn the_warm_ones_are_not_flooded<P: Policy>(policy: P) {
    let scene = Scene::new(policy, &["a"]).await;
    let began = Instant::now();
    scene
        .list(&["b", "c", "d", "e", "f", "g", "h", "i", "j"])
        .await;
    assert_eq!(scene.state("j").await.0, EndpointState::Warming);
    assert_share(scene.share("a").await, 0.15, "with nine that are new");
    // By then the ramp itself gives more than the limit asks for.
    tokio::time::sleep_until(began + WINDOW * 8 / 10 + 5 * MS).await;
    assert_share(
        scene.share("a").await,
        1.0 / (1.0 + 9.0 * 0.8),
        "at eight tenths",
    );
    tokio::time::sleep_until(began + WINDOW + 5 * MS).await;
    assert_share(scene.share("a").await, 0.1, "after the window");
    assert_share(scene.share("j").await, 0.1, "after the window");
}

#[tokio::test(start_paused = true)]
async fn the_warm_ones_are_not_flooded_by_peak_ewma() {
    the_warm_ones_are_not_flooded(P2c::peak_ewma()).await;
}

#[tokio::test(start_paused = true)]
async fn the_warm_ones_are_not_flooded_in_weighted_turns() {
    the_warm_ones_are_not_flooded(WeightedRoundRobin::new()).await;
}

/// How far `id` is in slow start, where a step is a tenth.
async fn assert_factor(rig: &Rig, id: &str, factor: f64, when: &str) {
    let info = rig.info(id).await;
    assert!(
        (info.effective_weight - factor).abs() < 0.01,
        "{} {when}, and {factor} is due",
        info.effective_weight
    );
    let state = if factor < 1.0 {
        EndpointState::Warming
    } else {
        EndpointState::Active
    };
    assert_eq!(info.state, state, "{when}");
}

/// Delists an endpoint for a while.
async fn away(rig: &Rig, id: &str, time: Duration) {
    rig.feed.remove(id);
    tokio::time::sleep(time).await;
    rig.feed.insert(id);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn time_away_makes_an_endpoint_neither_warmer_nor_colder() {
    let rig = Rig::new();
    rig.list(["a", "b", "c"]).await;
    rig.list(["new"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_factor(&rig, "new", 0.4, "after two of five seconds").await;
    away(&rig, "new", Duration::from_secs(30)).await;
    assert_factor(&rig, "new", 0.4, "when it is back").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_factor(&rig, "new", 0.8, "after two seconds more").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_factor(&rig, "new", 1.0, "after five seconds in all").await;
    away(&rig, "new", Duration::from_secs(30)).await;
    assert_factor(&rig, "new", 1.0, "once it was warm").await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_flaps_at_any_period_warms_while_it_is_listed() {
    for period in [7, 50, 250, 1_000, 10_000] {
        let rig = Rig::new();
        rig.list(["a", "b", "c"]).await;
        rig.list(["new"]).await;
        let listed = Duration::from_millis(period / 2);
        let mut age = Duration::ZERO;
        while age < Duration::from_secs(5) {
            let info = rig.info("new").await;
            let factor = (age.as_secs_f64() / 5.0).max(0.1);
            assert!(
                (info.effective_weight - factor).abs() < 0.01,
                "{} after {age:?} at {period} ms",
                info.effective_weight
            );
            tokio::time::sleep(listed).await;
            // And the millisecond that it takes to settle.
            age += listed + MS;
            away(&rig, "new", listed).await;
        }
        assert_factor(&rig, "new", 1.0, "when it was listed for long enough").await;
        // Those that were always warm stay so.
        for _ in 0..10 {
            away(&rig, "a", listed).await;
            assert_factor(&rig, "a", 1.0, "after each absence").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn time_without_weight_makes_an_endpoint_neither_warmer_nor_colder() {
    let rig = Rig::new();
    rig.list(["a", "b", "c"]).await;
    rig.list(["new"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let weigh = async |id: &str, weight: u16| {
        let weight = Weight::from(weight);
        rig.handle.set_weight(&key(id), weight).await.unwrap();
    };
    let drained = async |id: &str| {
        weigh(id, 0).await;
        assert_eq!(rig.info(id).await.state, EndpointState::Weightless);
        tokio::time::sleep(Duration::from_secs(20)).await;
        weigh(id, 1).await;
    };
    drained("new").await;
    assert_factor(&rig, "new", 0.2, "when it has its weight again").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_factor(&rig, "new", 0.6, "after three seconds in all").await;
    drained("a").await;
    assert_factor(&rig, "a", 1.0, "as it was warm").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_was_out_when_it_left_begins_anew() {
    let rig = Rig::new();
    rig.list(["a", "b", "c", "d"]).await;
    rig.handle.eject(&key("a")).await.unwrap();
    away(&rig, "a", Duration::from_secs(1)).await;
    assert_eq!(rig.info("a").await.state, EndpointState::Ejected);
    rig.handle.restore(&key("a")).await.unwrap();
    assert_factor(&rig, "a", 0.1, "when it is restored").await;
    rig.feed.remove("a");
    rig.handle.eject(&key("b")).await.unwrap();
    rig.feed.remove("b");
    settle().await;
    rig.handle.restore(&key("b")).await.unwrap();
    rig.list(["b"]).await;
    assert_factor(&rig, "b", 0.1, "when it was restored while it was away").await;
}

#[tokio::test(start_paused = true)]
async fn who_is_out_does_not_raise_what_others_begin_with() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    rig.list(["b", "c", "d", "e"]).await;
    let begins = async || rig.info("b").await.effective_weight;
    // (5 / 1.5 - 1) / 4, and (2 / 1.5 - 1) / 1.
    assert!((begins().await - 7.0 / 12.0).abs() < 1e-9);
    for id in ["c", "d", "e"] {
        rig.handle.eject(&key(id)).await.unwrap();
    }
    assert!((begins().await - 1.0 / 3.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_is_warm_nobody_ramps_in_whatever_order_they_come() {
    let rig = Rig::with(layer().policy(WeightedRoundRobin::new()));
    let states = async || {
        let all = rig.handle.endpoints().await.unwrap();
        all.into_iter().map(|info| info.state).collect::<Vec<_>>()
    };
    rig.list(["old"]).await;
    rig.feed.remove("old");
    settle().await;
    rig.list(["a", "b", "c"]).await;
    assert_eq!(states().await, [EndpointState::Active; 3], "all are new");
    assert_eq!(rig.spread(300, ["a", "b", "c"]).await, [100; 3]);

    // All are out, and come back together.
    for id in ["a", "b", "c"] {
        rig.handle.eject(&key(id)).await.unwrap();
    }
    rig.handle.restore(&key("a")).await.unwrap();
    assert_eq!(rig.info("a").await.state, EndpointState::Active);
    rig.handle.restore(&key("b")).await.unwrap();
    assert_eq!(rig.info("b").await.state, EndpointState::Warming);

    // Who is drained takes no requests, and so bears nothing for others.
    rig.handle.restore(&key("c")).await.unwrap();
    for id in ["a", "b", "c"] {
        let weight = Weight::ZERO;
        rig.handle.set_weight(&key(id), weight).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.list(["d", "e"]).await;
    for id in ["d", "e"] {
        assert_eq!(rig.info(id).await.state, EndpointState::Active);
    }
    assert_eq!(rig.spread(200, ["d", "e"]).await, [100; 2]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_ejected_while_it_ramps_begins_anew() {
    let ejection = Ejection::new().consecutive_failures(3);
    let rig = Rig::with(layer().ejection(ejection));
    rig.list(["a", "b", "c"]).await;
    let [new] = rig.list(["new"]).await;
    new.answer(Answer::Fails);
    tokio::time::sleep(Duration::from_secs(4)).await;
    while rig.info("new").await.cause.is_none() {
        let _ = rig.call().await;
    }
    let info = rig.info("new").await;
    assert_eq!(info.state, EndpointState::Ejected);
    assert!(matches!(
        info.cause,
        Some(EjectCause::ConsecutiveFailures { .. })
    ));

    new.answer(Answer::Name);
    while rig.info("new").await.cause.is_some() {
        tokio::time::sleep(100 * MS).await;
        rig.call().await.unwrap();
    }
    let info = rig.info("new").await;
    assert_eq!(info.state, EndpointState::Warming);
    assert_eq!(info.effective_weight, 0.1, "from the beginning");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.info("new").await.state, EndpointState::Active);
}

#[tokio::test(start_paused = true)]
async fn without_slow_start_a_new_endpoint_has_its_full_share_at_once() {
    let off = SlowStart::new().window(Duration::ZERO);
    let rig = Rig::with(layer().slow_start(off));
    rig.list(["a", "b"]).await;
    rig.list(["new"]).await;
    assert_eq!(rig.info("new").await.state, EndpointState::Active);
    assert_eq!(rig.spread(30, ["a", "b", "new"]).await, [10; 3]);
}
