//! Handles that are shared with a running balancer, and what they change.

use std::sync::Arc;

use tower_roster::{
    Instance,
    balance::topology::{Shares, SplitSettings, Topology, Wish},
};

use crate::web;

#[test]
fn a_canary_goes_from_ten_to_fifty_to_a_hundred_percent() {
    let instances: Vec<Arc<Instance>> = (0..4)
        .map(|i| {
            let version = if i == 3 { "v2" } else { "v1" };
            Arc::new(web(i.to_string()).meta("version", version))
        })
        .collect();
    let split = SplitSettings::new(Shares::canary("v2", 0.1))
        .build()
        .unwrap();
    let topology = Topology::new().shared_split(split.clone());
    for percent in [10, 50, 100, 0] {
        let share = f64::from(percent) / 100.0;
        split.set(Shares::canary("v2", share)).unwrap();
        let shares = topology.shares(&instances, &Wish::new()).unwrap();
        assert!(
            (shares[3] - share).abs() < 1e-12,
            "{shares:?} at {percent} %"
        );
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
    assert!(split.set(Shares::canary("v2", f64::NAN)).is_err());
    let shares = topology.shares(&instances, &Wish::new()).unwrap();
    assert_eq!(shares[3], 0.0, "a mistake changes nothing");
}

#[cfg(feature = "memory")]
#[tokio::test(start_paused = true)]
async fn zones_follow_the_callers_own_service() {
    use tower_roster::{
        balance::topology::{Peers, ZonePreference},
        registry::{Registry, memory::Memory},
    };

    let memory = Memory::new();
    let callers = ["a", "a", "a", "b"].into_iter().enumerate();
    let listed = callers.map(|(i, zone)| memory.register(web(i.to_string()).zone(zone)));
    let me = listed.map(Result::unwrap).last().unwrap();
    let upstream: Vec<Arc<Instance>> = (0..8)
        .map(|i| Arc::new(web(i.to_string()).zone(if i < 4 { "a" } else { "b" })))
        .collect();
    let peers = Peers::new();
    let topology = Topology::new()
        .peers(peers.clone())
        .zone(ZonePreference::new("a"));
    let at_home = || -> f64 {
        let shares = topology.shares(&upstream, &Wish::new()).unwrap();
        shares[..4].iter().sum()
    };
    assert_eq!(at_home(), 1.0, "half of the callers, as far as is known");

    let mut watch = Registry::new(memory).watch("web").unwrap();
    let follow = tokio::spawn(peers.follow(me.key.clone(), watch.clone()));
    watch.resolved().await.unwrap();
    tokio::task::yield_now().await;
    let known = at_home();
    assert!(
        (known - 2.0 / 3.0).abs() < 1e-12,
        "three of four callers, half of the endpoints: {known}"
    );
    follow.abort();
}
