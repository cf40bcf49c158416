//! A canary at 1 %, as requests through a balancer see it while nothing is in flight.

use std::sync::Arc;

use tower::{Service, ServiceExt};
use tower_roster::{
    Registry,
    balance::{
        BalanceLayer,
        policy::{P2c, Policy},
        topology::{Shares, SplitSettings, Topology},
    },
    registry::memory::Memory,
};

use crate::kit::{discover, instance, listed};

const REQUESTS: u32 = 1_000_000;

/// Sends one request after the other to servers of the old version and to canaries, of these weights.
async fn one_percent<P: Policy>(policy: P, old: &[u16], canaries: &[u16]) {
    let memory = Memory::new();
    let old = old.iter().map(|weight| ("v1", *weight));
    let canaries = canaries.iter().map(|weight| ("v2", *weight));
    for (i, (version, weight)) in old.chain(canaries).enumerate() {
        let server = instance("server", &format!("{version}-{i}"));
        let server = server.meta("version", version).weight(weight);
        memory.register(listed(server)).unwrap();
    }
    let split = SplitSettings::new(Shares::canary("v2", 0.01));
    let layer = BalanceLayer::builder().policy(policy).seed(1);
    let layer = layer.topology(Topology::new().split(split));
    let mut balance = layer
        .build()
        .unwrap()
        .balance(discover(&Registry::new(memory)));
    let mut hits = 0;
    for _ in 0..REQUESTS {
        let server: Arc<str> = balance.ready().await.unwrap().call(()).await.unwrap();
        hits += u32::from(server.starts_with("v2"));
    }
    // 10 000 ± 99.5, and four of these.
    assert!(hits.abs_diff(10_000) < 398, "{hits} of {REQUESTS}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_canary_gets_one_percent_by_peak_ewma() {
    one_percent(P2c::peak_ewma(), &[1; 10], &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_canary_gets_one_percent_by_requests_in_flight() {
    one_percent(P2c::in_flight(), &[1; 10], &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn many_heavy_canaries_get_one_percent_together() {
    one_percent(P2c::peak_ewma(), &[1; 2], &[100, 1, 1, 1, 1]).await;
}
