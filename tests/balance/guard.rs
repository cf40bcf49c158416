//! Latency as the guard of a split and the ejection see it, with policies that measure it and with
//! policies that do not.

use std::{convert::Infallible, time::Duration};

use tokio::sync::broadcast::Receiver;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_roster::{
    Instance,
    balance::{
        Balance, BalanceBuilder, BalanceEvent, BalanceHandle, BalanceLayer, EndpointState,
        policy::{P2c, Policy, RoundRobin},
        topology::{self, Guard, Shares, SplitSettings, Topology},
    },
    endpoint::eject::{EjectCause, Ejection},
};

use crate::{
    kit::{key, settle},
    registry::{Listed, at},
};

const MS: Duration = Duration::from_millis(1);

type Service = BoxCloneSyncService<(), u16, Infallible>;

/// Endpoints that take as many milliseconds as the number of their port, and answer with that.
async fn balance<P: Policy>(
    layer: BalanceBuilder<P>,
    instances: impl IntoIterator<Item = Instance>,
) -> Balance<Service, P> {
    let listed = Listed::new(instances);
    let discover = listed.watch().discover(|instance: &Instance| {
        let port = instance.address.port();
        let service = service_fn(move |()| async move {
            tokio::time::sleep(MS * u32::from(port)).await;
            Ok(port)
        });
        Ok::<_, Infallible>(Service::new(service))
    });
    let balance = layer.seed(11).build().unwrap().balance(discover);
    settle().await;
    balance
}

/// Sends requests from so many clients at a time; how many of them took so many milliseconds.
async fn send<P: Policy>(
    balance: &Balance<Service, P>,
    clients: usize,
    each: usize,
    ms: u16,
) -> usize {
    let clients = (0..clients).map(|_| {
        let balance = balance.clone();
        tokio::spawn(async move {
            let mut hits = 0;
            for _ in 0..each {
                hits += usize::from(balance.clone().oneshot(()).await.unwrap() == ms);
            }
            hits
        })
    });
    let mut hits = 0;
    for client in clients.collect::<Vec<_>>() {
        hits += client.await.unwrap();
    }
    hits
}

/// The trip that is told, once at most.
fn told(events: &mut Receiver<BalanceEvent>) -> Option<topology::Trip> {
    let mut trip = None;
    while let Ok(event) = events.try_recv() {
        if let BalanceEvent::SplitTripped { trip: told, .. } = event {
            assert!(trip.replace(told).is_none(), "it is told once");
        }
    }
    trip
}

/// A canary at 30 % that takes so many milliseconds, where the others take 10. Returns why the guard
/// took its share back.
async fn trip<P: Policy + Clone>(policy: P, canary: u16) -> Option<topology::Trip> {
    let guard = Guard::new("v2").window(Duration::from_secs(10));
    let split = SplitSettings::new(Shares::canary("v2", 0.3));
    let split = split.guard(guard).build().unwrap();
    let layer = BalanceLayer::builder().policy(policy);
    let layer = layer.topology(Topology::new().shared_split(split.clone()));
    let instances = [("a", 10, "v1"), ("b", 10, "v1"), ("new", canary, "v2")];
    let instances = instances.map(|(id, port, version)| at(id, port, 1).meta("version", version));
    // Another balancer of the process, with the same split and without requests.
    let other = balance(layer.clone(), instances.clone()).await;
    let balance = balance(layer, instances).await;
    let mut events = balance.handle().subscribe().await.unwrap();
    let mut others = other.handle().subscribe().await.unwrap();
    let to_canary = send(&balance, 4, 400, canary).await;
    assert!(to_canary > 100, "{to_canary} went to the canary");
    settle().await;
    let trip = split.trip();
    assert_eq!(told(&mut events), trip);
    assert_eq!(told(&mut others), trip, "its traffic moves, too");
    if trip.is_some() {
        assert_eq!(split.shares().share("v2"), 0.0);
        assert_eq!(send(&balance, 4, 100, canary).await, 0);
    }
    trip
}

/// Four times slower loses the share, and as swift as the others keeps it.
async fn a_slow_canary_loses_its_share<P: Policy + Clone>(policy: P) {
    let trip_of_slow = trip(policy.clone(), 40).await.expect("it is slow");
    assert_eq!(&*trip_of_slow.version, "v2");
    let topology::TripCause::Latency { canary, baseline } = trip_of_slow.cause else {
        panic!("no request failed: {trip_of_slow}");
    };
    // Known to an eighth, and a sleep ends up to a millisecond late.
    assert!((35 * MS..48 * MS).contains(&canary), "{canary:?}");
    assert!((8 * MS..13 * MS).contains(&baseline), "{baseline:?}");
    // 11 ms, so that its requests can be told from those of the others.
    assert_eq!(trip(policy, 11).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_canary_loses_its_share_in_turns() {
    a_slow_canary_loses_its_share(RoundRobin::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_canary_loses_its_share_by_peak_ewma() {
    a_slow_canary_loses_its_share(P2c::peak_ewma()).await;
}

async fn standing(handle: &BalanceHandle, id: &str) -> (EndpointState, Option<EjectCause>) {
    let all = handle.endpoints().await.unwrap();
    let info = all.into_iter().find(|info| info.key == key(id)).unwrap();
    (info.state, info.cause)
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_is_ejected_in_turns() {
    let layer = BalanceLayer::builder().policy(RoundRobin::new());
    let layer = layer.ejection(Ejection::new());
    let instances = [("a", 30), ("b", 30), ("c", 30), ("slow", 300)];
    let instances = instances.map(|(id, port)| at(id, port, 1));
    let balance = balance(layer, instances).await;
    let handle = balance.handle();
    let mut rounds = 0;
    let cause = loop {
        if let (EndpointState::Ejected, cause) = standing(&handle, "slow").await {
            break cause;
        }
        rounds += 1;
        assert!(rounds < 100, "it is never ejected");
        send(&balance, 8, 4, 300).await;
    };
    let Some(EjectCause::Slow { estimate, median }) = cause else {
        panic!("{cause:?}");
    };
    assert!((250 * MS..350 * MS).contains(&estimate), "{estimate:?}");
    assert!((25 * MS..35 * MS).contains(&median), "{median:?}");
    for id in ["a", "b", "c"] {
        assert_eq!(standing(&handle, id).await, (EndpointState::Active, None));
    }
    assert_eq!(send(&balance, 4, 2, 300).await, 0, "it gets nothing");
}
