//! Ejection where some endpoints have no weight.

use std::{sync::Arc, time::Duration};

use tower_roster::{
    balance::{EndpointState, NoEndpoint, topology::Topology},
    instance::Weight,
};

use crate::{
    all_ejected::{at_once, fail, rig},
    kit::{Answer, Control, Rig, events, key, settle},
    reasons::reason,
};

/// Four of which half may be out, for a minute.
async fn four(topology: Topology) -> (Rig, [Arc<Control>; 4]) {
    let rig = rig(topology, at_once().max_ejected(0.5));
    let controls = rig.list(["a", "b", "c", "d"]).await;
    (rig, controls)
}

async fn drain<const N: usize>(rig: &Rig, ids: [&str; N]) {
    for id in ids {
        let found = rig.handle.set_weight(&key(id), Weight::ZERO).await;
        assert!(found.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_drained_takes_no_room_and_is_tried_when_it_has_a_weight() {
    let (rig, controls) = four(Topology::new()).await;
    fail(&rig, ["a", "b"], &controls).await;
    drain(&rig, ["a", "b"]).await;
    // Also when it comes back.
    rig.feed.remove("a");
    settle().await;
    rig.feed.put("a", controls[0].service());
    settle().await;
    let mut said = rig.handle.subscribe().await.unwrap();
    controls[2].answer(Answer::Fails);
    for _ in 0..2 {
        let _ = rig.call().await;
    }
    settle().await;
    controls[2].answer(Answer::Name);
    assert_eq!(events(&mut said), ["ejected c"], "one of two");
    assert_eq!(rig.spread(4, ["d"]).await, [4]);
    assert_eq!(rig.info("a").await.state, EndpointState::Ejected);

    // Its time runs, and the first request that may go there tries it.
    tokio::time::sleep(Duration::from_secs(80)).await;
    events(&mut said);
    rig.handle.set_weight(&key("a"), None).await.unwrap();
    rig.spread(4, ["a", "c", "d"]).await;
    settle().await;
    let said = events(&mut said);
    assert!(said.contains(&"restored a".into()), "{said:?}");
    assert_eq!(rig.info("b").await.state, EndpointState::Ejected);
}

#[tokio::test(start_paused = true)]
async fn when_others_are_drained_who_has_been_out_longest_returns() {
    for topology in [Topology::new(), Topology::new().panic(false)] {
        let (rig, controls) = four(topology).await;
        fail(&rig, ["a", "b"], &controls).await;
        let mut said = rig.handle.subscribe().await.unwrap();
        drain(&rig, ["c"]).await;
        assert_eq!(events(&mut said), ["c weighs 0", "restored a"]);
        assert_eq!(rig.info("a").await.state, EndpointState::Warming);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(rig.info("a").await.state, EndpointState::Active);
        drain(&rig, ["d"]).await;
        assert_eq!(events(&mut said), ["d weighs 0"]);
        assert_eq!(rig.spread(4, ["a"]).await, [4], "b is still out");
        assert_eq!(rig.handle.status().usable, 1);
        drain(&rig, ["a"]).await;
        assert_eq!(events(&mut said), ["a weighs 0", "restored b"]);
        drain(&rig, ["b"]).await;
        assert_eq!(rig.spread(4, ["a", "b", "c", "d"]).await, [1; 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_are_drained_are_not_said_to_be_ejected() {
    let (rig, _) = four(Topology::new()).await;
    drain(&rig, ["c", "d"]).await;
    for id in ["a", "b"] {
        rig.handle.eject(&key(id)).await.unwrap();
    }
    let error = rig.call().await.unwrap_err();
    assert_eq!(reason(&error), NoEndpoint::AllEjected(4));
    assert_eq!(
        error.to_string(),
        "no endpoint: all that the request may go to are ejected, of 4 endpoints listed"
    );
}
