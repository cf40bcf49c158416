//! A canary whose share grows, and one whose share is taken back.

use std::collections::BTreeMap;

use tower_roster::{
    balance::{
        BalanceEvent, BalanceHandle,
        topology::{Guard, Shares, Split, SplitSettings, Topology},
    },
    client::Stack,
};

use crate::kit::*;

fn stack(split: &Split) -> HttpStack {
    let topology = Topology::new().shared_split(split.clone());
    let stack = Stack::http().balance(|balance| balance.topology(topology));
    stack.seed(7)
}

/// Waits until the driver has seen all that was set before.
async fn settle(handle: &BalanceHandle) {
    // Its answer to the second question comes after it has looked for changes.
    for _ in 0..3 {
        handle.endpoints().await.unwrap();
    }
}

#[tokio::test]
async fn a_canary_gets_its_share_as_it_is_set() {
    let servers = servers(["a", "b", "new"]).await;
    let listed = servers.each_ref().map(Server::instance).into_iter();
    let listed = listed.zip(["v1", "v1", "v2"]);
    let listed = listed.map(|(instance, version)| instance.meta("version", version));
    let split = SplitSettings::new(Shares::canary("v2", 0.1))
        .build()
        .unwrap();
    let (client, handles) = build(stack(&split), listed).await;
    const REQUESTS: usize = 1_000;
    for share in [0.1, 0.5, 1.0] {
        split.set(Shares::canary("v2", share)).unwrap();
        settle(&handles.balance).await;
        let mut counts = BTreeMap::<_, usize>::new();
        for _ in 0..REQUESTS / 20 {
            for answer in burst(&client, 20, || get("/")).await {
                let (status, name) = answer.unwrap();
                assert_eq!(status, 200);
                *counts.entry(name).or_default() += 1;
            }
        }
        let canary = counts.get("new").copied().unwrap_or_default() as f64;
        let expected = REQUESTS as f64 * share;
        let sigma = (expected * (1.0 - share)).sqrt();
        assert!(
            (canary - expected).abs() <= 4.0 * sigma,
            "{canary} of {REQUESTS} for {share}: {counts:?}"
        );
    }
    assert_eq!(handles.budget.as_ref().unwrap().refused(), 0);
}

#[tokio::test]
async fn the_guard_takes_the_share_of_a_bad_canary_back_and_says_so() {
    let servers = servers(["a", "b", "new"]).await;
    let listed = servers.each_ref().map(Server::instance).into_iter();
    let listed = listed.zip(["v1", "v1", "v2"]);
    let listed = listed.map(|(instance, version)| instance.meta("version", version));
    let guard = Guard::new("v2")
        .window(1_000 * MS)
        .min_requests(30)
        .ignore_latency();
    let split = SplitSettings::new(Shares::canary("v2", 0.5));
    let split = split.guard(guard).build().unwrap();
    let (client, handles) = build(stack(&split), listed).await;
    let mut events = handles.balance.subscribe().await.unwrap();
    // Too seldom to be ejected.
    servers[2].set(Mode::Sometimes(3));
    until("the guard has tripped", async || {
        for answer in burst(&client, 20, || get("/")).await {
            assert_eq!(answer.unwrap().0, 200, "a retry goes elsewhere");
        }
        split.trip().is_some()
    })
    .await;
    let trip = loop {
        if let BalanceEvent::SplitTripped { trip, .. } = events.recv().await.unwrap() {
            break trip;
        }
    };
    assert_eq!(&*trip.version, "v2");
    assert!((trip.share - 0.5).abs() < 1e-9, "{trip:?}");
    assert_eq!(split.trip(), Some(trip));
    assert_eq!(split.shares().share("v2"), 0.0);
    let before = servers[2].gets();
    for answer in burst(&client, 100, || get("/")).await {
        assert_eq!(answer.unwrap().0, 200);
    }
    assert_eq!(servers[2].gets(), before);
}
