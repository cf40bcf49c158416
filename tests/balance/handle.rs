//! What operators see and do.

use std::{sync::Arc, time::Duration};

use tower::ServiceExt;
use tower_roster::{
    Instance,
    balance::{
        BalanceEvent, EndpointState,
        topology::{Shares, SplitSettings, Topology},
    },
    endpoint::{Endpoint, eject::EjectCause},
    instance::Weight,
};

use crate::kit::{Answer, Control, Rig, events, key, layer, script, settle};

#[tokio::test(start_paused = true)]
async fn the_list_tells_how_each_endpoint_stands() {
    let rig = Rig::new();
    let [_, b, _] = rig.list(["c", "b", "a"]).await;
    b.answer(Answer::Holds);
    tokio::time::sleep(Duration::from_secs(9)).await;
    rig.list(["d"]).await;
    rig.handle
        .set_weight(&key("d"), Weight::ZERO)
        .await
        .unwrap();
    rig.handle.eject(&key("c")).await.unwrap();
    // In turn: of four, two go to b, which holds them.
    let requests: Vec<_> = (0..4).map(|_| rig.start()).collect();
    for request in requests {
        request.await;
    }
    let list = rig.handle.endpoints().await.unwrap();
    let seen: Vec<_> = list
        .iter()
        .map(|info| {
            (
                info.key.id(),
                info.state,
                info.weight.get(),
                info.in_flight,
                info.requests,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("a", EndpointState::Active, 1, 0, 2),
            ("b", EndpointState::Active, 1, 2, 2),
            ("c", EndpointState::Ejected, 1, 0, 0),
            ("d", EndpointState::Weightless, 0, 0, 0),
        ]
    );
    let shares: Vec<_> = list.iter().map(|info| info.share).collect();
    assert_eq!(shares, [0.5, 0.5, 0.0, 0.0]);
    let ages: Vec<_> = list.iter().map(|info| info.age.as_secs()).collect();
    assert_eq!(ages, [9, 9, 9, 0]);
    assert!(list[1].load > list[0].load);
    assert!(
        list.iter().all(|info| info.instance.is_none()),
        "a plain service has none"
    );
    let status = rig.handle.status();
    assert_eq!((status.endpoints, status.usable), (4, 2));
    assert_eq!(rig.balance.usable(), 2);
    b.release(2);
}

#[tokio::test(start_paused = true)]
async fn a_list_before_anything_happened_is_empty() {
    let rig = Rig::new();
    assert!(rig.handle.endpoints().await.unwrap().is_empty());
    assert!(!rig.handle.status().resolved);
    rig.list(["a"]).await;
    assert_eq!(
        rig.info("a").await.share,
        0.0,
        "of no request it has no part"
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_holds_when_the_answer_comes() {
    let rig = Rig::new();
    rig.list(["a", "b"]).await;
    let a = key("a");
    for _ in 0..3 {
        assert!(rig.handle.eject(&a).await.unwrap());
        assert_eq!(rig.spread(4, ["a", "b"]).await, [0, 4]);
        assert!(rig.handle.restore(&a).await.unwrap());
        assert_eq!(rig.spread(4, ["a", "b"]).await, [2, 2]);
        assert!(rig.handle.set_weight(&a, Weight::ZERO).await.unwrap());
        assert_eq!(rig.spread(4, ["a", "b"]).await, [0, 4]);
        assert!(rig.handle.set_weight(&a, None).await.unwrap());
        assert_eq!(rig.spread(4, ["a", "b"]).await, [2, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_for_nobody_is_refused() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    let nobody = key("nobody");
    assert!(!rig.handle.eject(&nobody).await.unwrap());
    assert!(!rig.handle.restore(&nobody).await.unwrap());
    assert!(!rig.handle.set_weight(&nobody, Weight::ONE).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_happened_once() {
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    let a = key("a");
    rig.list(["a"]).await;
    rig.list(["a"]).await;
    // Twice each: the second changes nothing.
    for _ in 0..2 {
        rig.handle.eject(&a).await.unwrap();
    }
    for _ in 0..2 {
        rig.handle.restore(&a).await.unwrap();
    }
    for _ in 0..2 {
        rig.handle.set_weight(&a, Weight::from(5)).await.unwrap();
    }
    rig.feed.remove("a");
    settle().await;
    assert_eq!(
        events(&mut said),
        ["+a", "~a", "ejected a", "restored a", "a weighs 5", "-a 0"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_far_behind_is_told_so() {
    use tokio::sync::broadcast::error::RecvError;
    let rig = Rig::new();
    let mut said = rig.handle.subscribe().await.unwrap();
    for number in 0..2_000 {
        rig.feed.insert(&number.to_string());
    }
    settle().await;
    assert!(matches!(said.recv().await, Err(RecvError::Lagged(lost)) if lost == 2_000 - 1_024));
    assert!(matches!(said.recv().await, Ok(BalanceEvent::Added { .. })));
    assert_eq!(rig.handle.endpoints().await.unwrap().len(), 2_000);
}

#[tokio::test(start_paused = true)]
async fn weight_0_drains_and_its_requests_finish() {
    let rig = Rig::new();
    let [a, _] = rig.list(["a", "b"]).await;
    a.answer(Answer::Holds);
    let requests = [rig.start().await, rig.start().await];
    assert_eq!(a.open(), 1);
    rig.handle
        .set_weight(&key("a"), Weight::ZERO)
        .await
        .unwrap();
    assert_eq!(rig.spread(4, ["a", "b"]).await, [0, 4]);
    assert_eq!(rig.info("a").await.in_flight, 1);
    a.release(1);
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test(start_paused = true)]
async fn when_all_weights_are_0_all_count_the_same() {
    let rig = Rig::new();
    rig.list(["a", "b", "c"]).await;
    for id in ["a", "b", "c"] {
        rig.handle.set_weight(&key(id), Weight::ZERO).await.unwrap();
    }
    assert_eq!(rig.balance.usable(), 3);
    assert_eq!(rig.spread(9, ["a", "b", "c"]).await, [3, 3, 3]);
    for info in rig.handle.endpoints().await.unwrap() {
        assert_eq!(info.state, EndpointState::Active);
        assert_eq!((info.weight, info.effective_weight), (Weight::ZERO, 1.0));
    }
    // One of more is enough for the others to be drained.
    rig.handle.set_weight(&key("b"), Weight::ONE).await.unwrap();
    assert_eq!(rig.spread(4, ["a", "b", "c"]).await, [0, 4, 0]);
    let info = rig.info("a").await;
    assert_eq!(
        (info.state, info.effective_weight),
        (EndpointState::Weightless, 0.0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_holds_however_long_an_endpoint_is_away() {
    for grace in [60, 0].map(Duration::from_secs) {
        let rig = Rig::with(layer().grace(grace));
        let ids = ["a", "b", "c"];
        rig.list(ids).await;
        let [a, b, c] = ids.map(key);
        let handle = &rig.handle;
        assert!(handle.eject(&a).await.unwrap());
        assert!(handle.set_weight(&b, Weight::from(3)).await.unwrap());
        let leave = async || {
            ids.iter().for_each(|id| rig.feed.remove(id));
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        };
        leave().await;
        rig.list(ids).await;
        assert_eq!(rig.info("a").await.cause, Some(EjectCause::ByHand));
        assert_eq!(rig.info("b").await.weight, Weight::from(3));
        assert_eq!(rig.spread(4, ids).await[0], 0);

        // They may be changed while it is away, and are taken back one by one.
        leave().await;
        assert!(handle.restore(&a).await.unwrap());
        assert!(!handle.restore(&a).await.unwrap(), "nothing is left of it");
        assert!(handle.set_weight(&b, Weight::from(5)).await.unwrap());
        assert!(handle.eject(&b).await.unwrap());
        assert!(!handle.eject(&c).await.unwrap(), "nobody is known to be c");
        rig.list(ids).await;
        assert_eq!(rig.info("a").await.cause, None);
        assert_eq!(rig.info("b").await.cause, Some(EjectCause::ByHand));
        assert_eq!(rig.info("b").await.weight, Weight::from(5));

        // Taken back while it is listed, they are gone.
        assert!(handle.restore(&b).await.unwrap());
        assert!(handle.set_weight(&b, None).await.unwrap());
        leave().await;
        assert!(!handle.set_weight(&b, None).await.unwrap());
        rig.list(ids).await;
        assert_eq!(rig.spread(6, ids).await, [2, 2, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejection_does_not_bring_drained_endpoints_back() {
    let rig = Rig::new();
    rig.list(["a", "b"]).await;
    rig.handle
        .set_weight(&key("b"), Weight::ZERO)
        .await
        .unwrap();
    rig.handle.eject(&key("a")).await.unwrap();
    let error = rig.call().await.unwrap_err();
    assert!(
        error.is_no_endpoint(),
        "an operator drained b, and a alone may serve"
    );
    assert_eq!(rig.balance.usable(), 0);
    rig.handle.restore(&key("a")).await.unwrap();
    assert_eq!(rig.spread(4, ["a", "b"]).await, [4, 0]);
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_gets_everything_whatever_its_weight() {
    let rig = Rig::new();
    rig.list(["a"]).await;
    for weight in [Weight::ONE, Weight::MAX, Weight::ZERO] {
        rig.handle.set_weight(&key("a"), weight).await.unwrap();
        assert_eq!(rig.spread(3, ["a"]).await, [3]);
    }
    assert_eq!(rig.info("a").await.requests, 9);
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_through_snapshots() {
    let rig = Rig::new();
    rig.list(["a", "b", "c"]).await;
    let mut sent = 0;
    for round in 0..20 {
        rig.spread(6, ["a", "b", "c", "x"]).await;
        sent += 6;
        match round % 4 {
            0 => drop(rig.list(["x"]).await),
            1 => assert!(rig.handle.eject(&key("a")).await.unwrap()),
            2 => assert!(rig.handle.restore(&key("a")).await.unwrap()),
            _ => rig.feed.remove("x"),
        }
        settle().await;
        let list = rig.handle.endpoints().await.unwrap();
        let listed: u64 = list.iter().map(|info| info.requests).sum();
        let shares: f64 = list.iter().map(|info| info.share).sum();
        assert!((shares - 1.0).abs() < 1e-9);
        if list.len() == 4 {
            assert_eq!(
                listed, sent,
                "round {round}: also those of one that was away"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_split_is_seen_and_set_through_the_handle() {
    let plain = Rig::new();
    assert!(plain.handle.split().is_none());

    let split = SplitSettings::new(Shares::canary("v2", 0.0))
        .build()
        .unwrap();
    let layer = layer().topology(Topology::new().shared_split(split.clone()));
    let (feed, discover) = script();
    let balance = layer.build().unwrap().balance(discover);
    for (id, version) in [("a", "v1"), ("b", "v2")] {
        let instance = Instance::new("web", id, "10.0.0.1:80".parse().unwrap());
        let instance = Arc::new(instance.meta("version", version));
        feed.put(id, Endpoint::new(Control::new(id).service(), instance));
    }
    let handle = balance.handle();
    let theirs = handle.split().unwrap();
    for (share, name) in [(0.0, "a"), (1.0, "b"), (0.0, "a")] {
        theirs.set(Shares::canary("v2", share)).unwrap();
        settle().await;
        for _ in 0..10 {
            assert_eq!(balance.clone().oneshot(0).await.unwrap(), name);
        }
        assert_eq!(split.shares().share("v2"), share, "the same split");
    }
    split.set(Shares::canary("v2", 0.25)).unwrap();
    assert_eq!(theirs.shares().share("v2"), 0.25);
    // A handle keeps no balancer alive, and a split no handle.
    drop(balance);
    settle().await;
    assert!(!feed.lives() && handle.endpoints().await.is_err());
}
