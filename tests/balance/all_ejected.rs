//! What becomes of requests when every endpoint that they may go to is ejected, with rules and without.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::broadcast::Receiver;
use tower::{Service, ServiceExt};
use tower_roster::{
    Instance,
    attempt::Tried,
    balance::{
        BalanceError, BalanceEvent, EndpointState, NoEndpoint,
        policy::{Policy, RingHash},
        topology::{
            Locality, Notice, Otherwise, Priority, Shares, SplitSettings, Subset, Subsets,
            Topology, Wish, ZonePreference,
        },
    },
    endpoint::eject::Ejection,
    instance::Weight,
};

use crate::{
    kit::{Answer, Control, Ready, Rig, key, layer, settle},
    registry::{Placed, at},
};

/// No rules, and one that changes nothing.
fn topologies() -> [Topology; 2] {
    let rule = Priority::by_zone(["a"]);
    [Topology::new(), Topology::new().priority(rule)]
}

/// The first failure ejects, for a minute, whoever else is left or not.
pub(crate) fn at_once() -> Ejection {
    let minute = Duration::from_secs(60);
    let ejection = Ejection::new().consecutive_failures(1).slow_factor(None);
    ejection.time(minute, minute).max_ejected(1.0)
}

pub(crate) fn rig(topology: Topology, ejection: Ejection) -> Rig {
    let layer = layer().topology(topology);
    Rig::with(layer.ejection(ejection))
}

/// Has endpoints fail one after the other until they are ejected, and then answer again.
pub(crate) async fn fail<const N: usize>(rig: &Rig, ids: [&str; N], controls: &[Arc<Control>]) {
    for (id, control) in ids.iter().zip(controls) {
        control.answer(Answer::Fails);
        rig.call_until_ejected(id).await;
        control.answer(Answer::Name);
    }
}

fn panics(said: &mut Receiver<BalanceEvent>) -> usize {
    let events = std::iter::from_fn(|| said.try_recv().ok());
    let is_panic = |event: &BalanceEvent| {
        matches!(
            event,
            BalanceEvent::Notice {
                notice: Notice::Panic,
                ..
            }
        )
    };
    events.filter(is_panic).count()
}

/// Waits until an endpoint is on trial.
async fn probing(said: &mut Receiver<BalanceEvent>) -> String {
    loop {
        if let BalanceEvent::Probing { key, .. } = said.recv().await.unwrap() {
            return key.id().into();
        }
    }
}

fn reason(answer: Result<String, BalanceError>) -> NoEndpoint {
    let error = answer.unwrap_err();
    error.no_endpoint_reason().expect("a reason").clone()
}

#[tokio::test(start_paused = true)]
async fn ejected_endpoints_take_turns_until_one_is_back_and_it_is_told_once() {
    for topology in topologies() {
        let rig = rig(topology.panic(true), at_once().eject_last(true));
        let mut said = rig.handle.subscribe().await.unwrap();
        // Round robin over four: whoever asked the policy again and again would always get the same.
        let ids = ["a", "b", "c", "d"];
        let controls = rig.list(ids).await;
        rig.list(["spare"]).await;
        fail(&rig, ids, &controls).await;
        assert_eq!(panics(&mut said), 0);
        assert_eq!(rig.spread(4, ["spare"]).await, [4]);

        // Now nobody else has a weight.
        let spare = key("spare");
        rig.handle.set_weight(&spare, Weight::ZERO).await.unwrap();
        assert_eq!(rig.spread(8, ids).await, [2, 2, 2, 2]);
        assert_eq!((rig.balance.usable(), rig.handle.status().usable), (4, 4));
        for weight in [3, 1] {
            let weight = Weight::from(weight);
            rig.handle.set_weight(&key("a"), weight).await.unwrap();
        }
        assert_eq!(panics(&mut said), 1, "once, and not with each snapshot");

        // On trial, each is still one of them; and the first that answers is back.
        let first = probing(&mut said).await;
        assert_eq!(rig.balance.usable(), 4);
        for _ in 0..4 {
            rig.call().await.unwrap();
        }
        settle().await;
        let info = rig.info(&first).await;
        assert_ne!(info.state, EndpointState::Ejected, "{first} has answered");
        assert_eq!(panics(&mut said), 0);
        for _ in 0..4 {
            assert_eq!(rig.call().await.unwrap(), first, "the others are ejected");
        }

        // The same again is told again.
        let back = key(&first);
        rig.handle.set_weight(&back, Weight::ZERO).await.unwrap();
        assert_eq!(panics(&mut said), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn one_on_trial_does_not_end_a_panic() {
    for topology in topologies() {
        let rig = rig(topology.panic(true), at_once().eject_last(true));
        let mut said = rig.handle.subscribe().await.unwrap();
        let ids = ["a", "b"];
        let controls = rig.list(ids).await;
        fail(&rig, ids, &controls).await;
        assert_eq!(panics(&mut said), 1);
        for _ in 0..5 {
            let first = probing(&mut said).await;
            let at = ids.iter().position(|id| *id == first).unwrap();
            controls[at].answer(Answer::Holds);
            // In turn, so the one on trial gets two, and the first of them tries it.
            let before = controls.each_ref().map(|control| control.calls());
            let requests = [(); 4].map(|()| tokio::spawn(rig.balance.clone().oneshot(0)));
            settle().await;
            let after = controls.each_ref().map(|control| control.calls());
            assert_eq!(after, before.map(|calls| calls + 2), "{first} is on trial");
            controls[at].answer(Answer::Fails);
            controls[at].release(2);
            for request in requests {
                request.await.unwrap().unwrap();
            }
            // Lost, so that both are out again when the other one's time comes.
            rig.handle.eject(&key(&first)).await.unwrap();
            rig.handle.restore(&key(&first)).await.unwrap();
            fail(&rig, [&first], &controls[at..]).await;
            controls[1 - at].answer(Answer::Name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_requests_in_panic_neither_ejects_nor_restores() {
    for topology in topologies() {
        let rig = rig(topology.panic(true), at_once().eject_last(true));
        let ids = ["a", "b"];
        let controls = rig.list(ids).await;
        fail(&rig, ids, &controls).await;
        let mut said = rig.handle.subscribe().await.unwrap();
        let before = rig.info("a").await.failures;
        rig.spread(100, ids).await;
        controls[0].answer(Answer::Fails);
        for _ in 0..100 {
            let _ = rig.call().await;
        }
        settle().await;
        assert!(said.try_recv().is_err(), "nothing has happened");
        let info = rig.info("a").await;
        assert_eq!(info.state, EndpointState::Ejected);
        assert_eq!(info.failures, before + 50, "they are counted");
    }
}

/// Of three, one is ejected for its failures, one by hand, and one is drained.
async fn one_that_fails(rig: &Rig) -> [Arc<Control>; 3] {
    let controls = rig.list(["a", "b", "drained"]).await;
    let drained = key("drained");
    rig.handle.set_weight(&drained, Weight::ZERO).await.unwrap();
    fail(rig, ["a"], &controls).await;
    rig.handle.eject(&key("b")).await.unwrap();
    controls
}

#[tokio::test(start_paused = true)]
async fn who_is_ejected_by_hand_gets_nothing_in_panic() {
    for topology in topologies() {
        let rig = rig(topology, at_once().eject_last(true));
        let mut said = rig.handle.subscribe().await.unwrap();
        let controls = one_that_fails(&rig).await;
        let [calls, ..] = controls.each_ref().map(|control| control.calls());
        for answer in [rig.call().await, rig.call().await] {
            assert_eq!(reason(answer), NoEndpoint::AllEjected(3));
        }
        assert_eq!(controls[0].calls(), calls, "it is to fail at once");
        assert_eq!((rig.balance.usable(), panics(&mut said)), (0, 0));
    }
    for topology in topologies() {
        let rig = rig(topology.panic(true), at_once().eject_last(true));
        let mut said = rig.handle.subscribe().await.unwrap();
        one_that_fails(&rig).await;
        assert_eq!(rig.spread(4, ["a"]).await, [4]);
        assert_eq!((rig.balance.usable(), panics(&mut said)), (1, 1));

        rig.handle.eject(&key("a")).await.unwrap();
        assert_eq!(reason(rig.call().await), NoEndpoint::AllEjected(3));
        assert_eq!((rig.balance.usable(), panics(&mut said)), (0, 0));
        for id in ["a", "b"] {
            rig.handle.set_weight(&key(id), Weight::ZERO).await.unwrap();
        }
        assert_eq!(rig.spread(4, ["drained"]).await, [4], "all have weight 0");
    }
}

#[tokio::test(start_paused = true)]
async fn whether_to_panic_is_for_the_topology_to_say_and_else_for_the_ejection() {
    for topology in topologies() {
        // Without `eject_last`, it takes rules to be left with none.
        for (said, panics) in [(None, false), (Some(true), true), (Some(false), false)] {
            let topology = topology.clone();
            let topology = match said {
                Some(panic) => topology.panic(panic),
                None => topology,
            };
            let rig = rig(topology, at_once().eject_last(true));
            let mut events = rig.handle.subscribe().await.unwrap();
            let controls = rig.list(["a", "b"]).await;
            fail(&rig, ["a"], &controls).await;
            rig.handle
                .set_weight(&key("b"), Weight::ZERO)
                .await
                .unwrap();
            if panics {
                assert_eq!(rig.spread(2, ["a"]).await, [2]);
                continue;
            }
            let ejected = NoEndpoint::AllEjected(2);
            assert_eq!(reason(rig.call().await), ejected);
            assert_eq!((rig.balance.usable(), self::panics(&mut events)), (0, 0));
            // One on trial gets one request and no more.
            rig.handle.set_weight(&key("b"), Weight::ONE).await.unwrap();
            rig.handle
                .set_weight(&key("b"), Weight::ZERO)
                .await
                .unwrap();
            probing(&mut events).await;
            controls[0].answer(Answer::Holds);
            let probe = rig.start().await;
            assert_eq!(reason(rig.call().await), ejected, "{said:?}");
            controls[0].release(1);
            assert_eq!(probe.await.unwrap().unwrap(), "a");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_panic_the_policy_decides_and_a_second_attempt_goes_elsewhere() {
    for topology in topologies() {
        let layer = layer().topology(topology.panic(true));
        let layer = layer.ejection(at_once().eject_last(true));
        let layer = layer
            .policy(RingHash::new())
            .route(|n: &u32| Wish::new().key(n.to_le_bytes()));
        let (feed, script) = crate::kit::script();
        let balance = layer.build().unwrap().balance_plain(script);
        let ids = ["a", "b", "c"];
        let controls = ids.map(|id| feed.insert(id));
        let call = async |key: u32| balance.clone().oneshot(key).await;
        let owners = async || {
            let mut owners = Vec::new();
            for key in 0..100 {
                owners.push(call(key).await.unwrap());
            }
            owners
        };
        let handle = balance.handle();
        handle.wait_for(|status| status.usable == 3).await.unwrap();
        let before = owners().await;
        for (id, control) in ids.iter().zip(&controls) {
            control.answer(Answer::Fails);
            let is_ejected = async || {
                let all = handle.endpoints().await.unwrap();
                let info = all.iter().find(|info| info.key == key(id)).unwrap();
                info.state == EndpointState::Ejected
            };
            for requests in 0..1_000 {
                if is_ejected().await {
                    break;
                }
                let _ = call(requests).await;
            }
            assert!(is_ejected().await, "some keys are its own");
            control.answer(Answer::Name);
        }
        assert_eq!(balance.usable(), 3);
        assert_eq!(owners().await, before, "each key stays with its owner");

        // A retry, and a request that the first one could not take.
        for key in 0..20 {
            let mut tried = Tried::new();
            let mut seen = Vec::new();
            for _ in 0..3 {
                let mut balance = balance.clone();
                balance.ready().await.unwrap();
                seen.push(tried.enter(|| balance.call(key)).await.unwrap());
            }
            assert_eq!(seen[0], before[key as usize]);
            seen.sort_unstable();
            assert_eq!(seen, ids);
        }
        controls[0].ready(Ready::Fails);
        for (key, owner) in before.iter().enumerate() {
            let name = call(key as u32).await.unwrap();
            assert!(name != "a" && (owner == "a" || name == *owner));
        }
    }
}

const PROD: Subset = Subset::new("stage", "prod");
const BETA: Subset = Subset::new("stage", "beta");
const LARGE: Subset = Subset::new("model", "large");

/// What requests 0 to 4 wish.
fn wish(number: &u32) -> Wish {
    let wish = Wish::new();
    match number {
        0 => wish,
        1 => wish.subset(PROD),
        2 => wish.subset(BETA),
        3 => wish.subset(LARGE),
        _ => wish.subset(Subset::new("stage", "unknown")),
    }
}

fn staged(id: &str, stage: &str, model: &str) -> Instance {
    at(id, 80, 1).meta("stage", stage).meta("model", model)
}

async fn placed(topology: Topology) -> Placed {
    let layer = layer().topology(topology);
    let layer = layer.ejection(at_once());
    let instances = [
        staged("a", "prod", "large"),
        staged("b", "prod", "small"),
        staged("c", "beta", "large"),
    ];
    Placed::new(layer, wish, instances).await
}

impl<P: Policy> Placed<P> {
    /// Has an endpoint fail a request that goes nowhere else.
    async fn fail(&self, id: &str, number: u32) {
        let control = self.listed.control(id);
        control.answer(Answer::Fails);
        self.call(number).await.unwrap_err();
        settle().await;
        control.answer(Answer::Name);
    }
}

#[tokio::test(start_paused = true)]
async fn usable_endpoints_are_counted_once_however_many_subsets_they_are_in() {
    let subsets = Subsets::by(["stage"])
        .and_by(["model"])
        .and_by(["stage", "model"]);
    let placed = placed(Topology::new().subsets(subsets)).await;
    let usable = || {
        assert_eq!(placed.balance.usable(), placed.handle.status().usable);
        placed.balance.usable()
    };
    assert_eq!(usable(), 3);
    placed.handle.eject(&key("a")).await.unwrap();
    assert_eq!(usable(), 2);
    placed
        .handle
        .set_weight(&key("b"), Weight::ZERO)
        .await
        .unwrap();
    assert_eq!(usable(), 1);
    placed.handle.eject(&key("c")).await.unwrap();
    assert_eq!(usable(), 0);
    assert_eq!(reason(placed.call(1).await), NoEndpoint::AllEjected(3));
    placed.handle.restore(&key("a")).await.unwrap();
    assert_eq!(usable(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_subset_that_requests_may_leave_is_left_when_it_is_ejected_or_on_trial() {
    let subsets = Subsets::by(["stage"]);
    let prod = Otherwise::Subset(PROD);
    for (otherwise, others) in [(Otherwise::Any, 0), (prod, 1)] {
        let topology = Topology::new().subsets(subsets.clone().otherwise(otherwise));
        let placed = placed(topology).await;
        let mut said = placed.handle.subscribe().await.unwrap();
        assert_eq!(placed.count(4, 2).await, BTreeMap::from([("c".into(), 4)]));
        placed.fail("c", 2).await;
        assert_eq!(placed.count(4, 2).await, placed.count(4, others).await);
        assert_eq!(probing(&mut said).await, "c");
        let c = placed.listed.control("c");
        let calls = c.calls();
        c.answer(Answer::Holds);
        // One tries it, and those that come meanwhile do not have to wait for what becomes of it.
        let probe = tokio::spawn(placed.balance.clone().oneshot(2));
        settle().await;
        assert_eq!(c.calls(), calls + 1);
        assert_eq!(placed.count(4, 2).await, placed.count(4, 1).await);
        c.release(1);
        probe.await.unwrap().unwrap();
        settle().await;
        c.answer(Answer::Name);
        assert_eq!(placed.count(4, 2).await, BTreeMap::from([("c".into(), 4)]));
        assert_eq!(panics(&mut said), 0, "others were there all the time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subset_that_requests_may_not_leave_is_used_although_it_is_ejected() {
    let subsets = Subsets::by(["stage"]).otherwise(Otherwise::Fail);
    let topology = Topology::new().subsets(subsets);
    let placed = placed(topology.clone()).await;
    let mut said = placed.handle.subscribe().await.unwrap();
    placed.fail("c", 2).await;
    let all_c = BTreeMap::from([("c".into(), 4)]);
    assert_eq!(placed.count(4, 2).await, all_c);
    assert_eq!(placed.balance.usable(), 3);
    assert_eq!(probing(&mut said).await, "c");
    assert_eq!(placed.count(4, 2).await, all_c);
    assert_eq!(panics(&mut said), 0, "it is not about all endpoints");
    placed.handle.eject(&key("c")).await.unwrap();
    assert_eq!(reason(placed.call(2).await), NoEndpoint::AllEjected(3));
    assert_eq!(reason(placed.call(4).await), NoEndpoint::EmptySubset);

    let placed = self::placed(topology.panic(false)).await;
    placed.fail("c", 2).await;
    assert_eq!(reason(placed.call(2).await), NoEndpoint::EmptySubset);
    assert_eq!(placed.balance.usable(), 2);
}

#[tokio::test(start_paused = true)]
async fn why_the_rules_leave_nobody_is_told() {
    let strict = |zone| ZonePreference::new(zone).locality(Locality::Strict);
    let listed = || [at("a", 80, 1).zone("here"), at("b", 80, 1).zone("there")];
    let with = async |topology| {
        let layer = layer().topology(topology);
        Placed::new(layer, wish, listed()).await
    };
    let nowhere = with(Topology::new().zone(strict("elsewhere"))).await;
    assert_eq!(reason(nowhere.call(0).await), NoEndpoint::EmptyZone);
    let here = with(Topology::new().zone(strict("here"))).await;
    here.handle.eject(&key("a")).await.unwrap();
    assert_eq!(reason(here.call(0).await), NoEndpoint::AllEjected(2));
    let split = SplitSettings::new(Shares::new().version("v1", 1.0));
    let unversioned = with(Topology::new().split(split).panic(false)).await;
    assert_eq!(reason(unversioned.call(0).await), NoEndpoint::NoVersion);
}
