//! An endpoint whose address changed, and one whose service alone did.

use std::{convert::Infallible, time::Duration};

use tokio::sync::broadcast::Receiver;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_roster::{
    Instance,
    balance::{Balance, BalanceEvent, BalanceHandle, BalanceLayer, EndpointInfo, EndpointState},
    endpoint::eject::{EjectCause, Ejection},
    instance::Weight,
};

use crate::{
    kit::{Failed, events, key, settle},
    registry::{Listed, at},
};

/// What the process at a port does.
const WELL: u16 = 1;
const ALSO_WELL: u16 = 2;
const SLOW: u16 = 3;
const FAILS: u16 = 4;
const FAILS_LATE: u16 = 5;

/// When requests to [`FAILS_LATE`] fail.
const LATE: Duration = Duration::from_secs(8);

type Service = BoxCloneSyncService<(), u16, Failed>;

fn process(port: u16) -> Service {
    Service::new(service_fn(move |()| async move {
        let takes = |ms| tokio::time::sleep(Duration::from_millis(ms));
        match port {
            SLOW => takes(300).await,
            FAILS_LATE => tokio::time::sleep(LATE).await,
            _ => takes(10).await,
        }
        match port {
            FAILS | FAILS_LATE => Err(Failed("a process that fails")),
            _ => Ok(port),
        }
    }))
}

struct Scene {
    listed: Listed,
    balance: Balance<Service>,
    handle: BalanceHandle,
    events: Receiver<BalanceEvent>,
}

/// `a` at a port, and three others that are well.
fn with(port: u16) -> Vec<Instance> {
    let others = ["b", "c", "d"].map(|id| at(id, WELL, 1));
    [at("a", port, 1)].into_iter().chain(others).collect()
}

impl Scene {
    /// With peak EWMA, ejection after three failures in a row, and `a` at a port for long.
    async fn new(port: u16) -> Self {
        let listed = Listed::new(with(port));
        let maker = |instance: &Instance| Ok::<_, Infallible>(process(instance.address.port()));
        let discover = listed.watch().discover(maker);
        let discover = discover
            .rebuild_when(|old, new| old.address != new.address || old.metadata != new.metadata);
        let ejection = Ejection::new().consecutive_failures(3).slow_factor(None);
        let layer = BalanceLayer::builder().ejection(ejection).seed(3);
        let balance = layer.build().unwrap().balance(discover);
        let handle = balance.handle();
        settle().await;
        let events = handle.subscribe().await.unwrap();
        let scene = Self {
            listed,
            balance,
            handle,
            events,
        };
        assert_eq!(scene.info().await.state, EndpointState::Active);
        scene
    }

    async fn info(&self) -> EndpointInfo {
        let all = self.handle.endpoints().await.unwrap();
        all.into_iter().find(|info| info.key == key("a")).unwrap()
    }

    async fn call(&self) -> Option<u16> {
        self.balance.clone().oneshot(()).await.ok()
    }

    /// Sends requests until what is known of `a` is such.
    async fn call_until(&self, condition: impl Fn(&EndpointInfo) -> bool) -> EndpointInfo {
        for _ in 0..1_000 {
            let info = self.info().await;
            if condition(&info) {
                return info;
            }
            self.call().await;
        }
        panic!("it does not come to that: {:?}", self.info().await);
    }

    fn said(&mut self) -> Vec<String> {
        events(&mut self.events)
    }
}

/// It is as new: nothing is measured, and it ramps.
#[track_caller]
fn assert_fresh(info: &EndpointInfo) {
    assert_eq!(info.state, EndpointState::Warming);
    assert!(info.effective_weight < 0.11, "{}", info.effective_weight);
    assert_eq!((info.load, info.in_flight), (0.0, 0));
    assert_eq!(info.cause, None);
}

#[tokio::test(start_paused = true)]
async fn another_address_ramps_with_fresh_load_and_keeps_its_counts() {
    let mut scene = Scene::new(SLOW).await;
    let before = scene.call_until(|info| info.requests > 0).await;
    assert!(before.load > 0.1, "it is known to be slow: {}", before.load);
    // Of these the driver does not know yet when the address changes.
    let calls = (0..80).map(|_| tokio::spawn(scene.balance.clone().oneshot(())));
    let mut requests = before.requests;
    for call in calls.collect::<Vec<_>>() {
        requests += u64::from(call.await.unwrap().unwrap() == SLOW);
    }
    assert!(requests > before.requests);
    scene.listed.apply(with(WELL)).await;
    let after = scene.info().await;
    assert_fresh(&after);
    assert_eq!(after.requests, requests, "no request is forgotten");
    assert!(after.age > before.age, "it was listed all the time");
    assert_eq!(scene.said(), ["~a"]);

    tokio::time::sleep(Duration::from_secs(5)).await;
    let info = scene.info().await;
    assert_eq!(
        (info.state, info.effective_weight),
        (EndpointState::Active, 1.0)
    );
}

#[tokio::test(start_paused = true)]
async fn counts_survive_two_changes_in_one_breath() {
    let scene = Scene::new(ALSO_WELL).await;
    let mut requests = 0;
    for _ in 0..100 {
        requests += u64::from(scene.call().await == Some(ALSO_WELL));
    }
    let others: Vec<_> = with(WELL).split_off(1);
    for instances in [with(SLOW), others, with(WELL)] {
        scene.listed.say(Ok((instances, true)));
        // The driver is asked to look at what there is, and not to wait for a while.
        tokio::task::yield_now().await;
    }
    scene.listed.apply(with(SLOW)).await;
    assert_eq!(scene.info().await.requests, requests);
}

#[tokio::test(start_paused = true)]
async fn a_weight_that_comes_with_another_address_is_told() {
    let mut scene = Scene::new(WELL).await;
    let mut instances = with(ALSO_WELL);
    instances[0] = at("a", ALSO_WELL, 5);
    scene.listed.apply(instances).await;
    assert_eq!(scene.said(), ["~a", "a weighs 5"]);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_for_failures_ends_with_the_address() {
    let mut scene = Scene::new(FAILS).await;
    let before = scene.call_until(|info| info.cause.is_some()).await;
    assert_eq!(before.failures, 3);
    scene.said();
    scene.listed.apply(with(WELL)).await;
    let after = scene.info().await;
    assert_fresh(&after);
    assert_eq!((after.requests, after.failures), (before.requests, 3));
    assert_eq!(scene.said(), ["~a", "restored a"]);
    // It may fail three times anew.
    let after = scene.call_until(|info| info.requests > 20).await;
    assert_eq!((after.cause, after.failures), (None, 3));
}

#[tokio::test(start_paused = true)]
async fn an_ejection_by_hand_is_of_the_endpoint_wherever_that_is() {
    let mut scene = Scene::new(WELL).await;
    scene.handle.eject(&key("a")).await.unwrap();
    scene.listed.apply(with(ALSO_WELL)).await;
    let info = scene.info().await;
    assert_eq!(
        (info.state, info.cause),
        (EndpointState::Ejected, Some(EjectCause::ByHand))
    );
    assert_eq!(scene.said(), ["ejected a", "~a", "ejected a"]);
    for _ in 0..50 {
        assert_eq!(scene.call().await, Some(WELL));
    }
    scene.handle.restore(&key("a")).await.unwrap();
    assert_fresh(&scene.info().await);
    scene.call_until(|info| info.requests > 0).await;
}

#[tokio::test(start_paused = true)]
async fn others_that_are_out_stay_out_when_an_address_changes() {
    let scene = Scene::new(WELL).await;
    let mut instances = with(WELL);
    instances[1] = at("b", FAILS, 1);
    instances[2] = at("c", FAILS, 1);
    scene.listed.apply(instances.clone()).await;
    let out = async || {
        let all = scene.handle.endpoints().await.unwrap();
        all.iter().filter(|info| info.cause.is_some()).count()
    };
    for _ in 0..1_000 {
        scene.call().await;
    }
    assert_eq!(out().await, 2);
    instances[0] = at("a", ALSO_WELL, 1);
    scene.listed.apply(instances).await;
    assert_eq!(out().await, 2, "half of the set, which is no smaller");
}

#[tokio::test(start_paused = true)]
async fn a_new_service_at_the_same_address_changes_nothing() {
    let mut scene = Scene::new(SLOW).await;
    let before = scene.call_until(|info| info.requests > 0).await;
    let mut instances = with(SLOW);
    instances[0] = at("a", SLOW, 1).meta("version", "2");
    scene.listed.apply(instances).await;
    assert_eq!(scene.said(), ["~a"]);
    let after = scene.info().await;
    assert_eq!(after.state, EndpointState::Active, "it does not ramp");
    assert!(after.load > before.load * 0.9, "{} is left", after.load);
    assert_eq!(after.requests, before.requests);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_one_with_a_new_service_at_the_same_address_stays_ejected() {
    let mut scene = Scene::new(FAILS).await;
    let before = scene.call_until(|info| info.cause.is_some()).await;
    scene.said();
    let mut instances = with(FAILS);
    instances[0] = at("a", FAILS, 1).meta("version", "2");
    scene.listed.apply(instances).await;
    assert_eq!(scene.said(), ["~a"]);
    assert_eq!(scene.info().await.cause, before.cause);
}

#[tokio::test(start_paused = true)]
async fn requests_at_the_old_address_say_nothing_of_the_new_one() {
    let scene = Scene::new(FAILS_LATE).await;
    let calls = (0..40).map(|_| {
        let balance = scene.balance.clone();
        tokio::spawn(async move { balance.oneshot(()).await.is_err() })
    });
    let calls: Vec<_> = calls.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = scene.info().await;
    assert!(before.in_flight > 3, "{}", before.in_flight);
    scene.listed.apply(with(WELL)).await;
    assert_fresh(&scene.info().await);
    let mut failed = 0;
    for call in calls {
        failed += usize::from(call.await.unwrap());
    }
    assert_eq!(failed, before.in_flight, "they end as they do");
    settle().await;
    let after = scene.info().await;
    assert_eq!(
        (after.failures, after.cause, after.load),
        (0, None, 0.0),
        "all that failed was the process before"
    );
    assert_eq!(after.requests, before.requests);
}

/// Removes `a`, and lists it again at a port a while later.
async fn returns_at(scene: &mut Scene, port: u16) -> EndpointInfo {
    let others: Vec<_> = with(port).split_off(1);
    scene.listed.apply(others).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    scene.said();
    scene.listed.apply(with(port)).await;
    scene.info().await
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_elsewhere_has_its_counts_and_what_was_ordered() {
    let mut scene = Scene::new(FAILS).await;
    let weight = Weight::from(7);
    scene.handle.set_weight(&key("a"), weight).await.unwrap();
    let before = scene.call_until(|info| info.cause.is_some()).await;
    let after = returns_at(&mut scene, WELL).await;
    assert_eq!(scene.said(), ["+a", "live"]);
    assert_eq!((after.state, after.cause), (EndpointState::Warming, None));
    assert_eq!((after.load, after.weight), (0.0, weight));
    assert_eq!(
        (after.requests, after.failures),
        (before.requests, before.failures)
    );

    scene.handle.eject(&key("a")).await.unwrap();
    let again = returns_at(&mut scene, ALSO_WELL).await;
    assert_eq!(again.cause, Some(EjectCause::ByHand));
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_where_it_was_is_out_if_it_was() {
    let mut scene = Scene::new(FAILS).await;
    let before = scene.call_until(|info| info.cause.is_some()).await;
    let after = returns_at(&mut scene, FAILS).await;
    assert_eq!(after.cause, before.cause);
    // Its time was up long ago.
    let probing = format!("Probing {{ key: {:?} }}", key("a"));
    assert_eq!(scene.said(), ["+a", "ejected a", &probing, "live"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_where_it_was_ramps_only_if_it_was_registered_anew() {
    let mut scene = Scene::new(SLOW).await;
    let before = scene.call_until(|info| info.requests > 0).await;
    let after = returns_at(&mut scene, SLOW).await;
    assert_eq!(after.state, EndpointState::Active, "it is the same process");
    assert_eq!(after.requests, before.requests);

    let mut instances = with(SLOW);
    let others = instances.split_off(1);
    scene.listed.apply(others.clone()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    instances[0].generation += 1;
    instances.extend(others);
    scene.listed.apply(instances).await;
    let anew = scene.info().await;
    assert_eq!(anew.state, EndpointState::Warming, "it is another");
    assert_eq!(anew.requests, before.requests);
}
