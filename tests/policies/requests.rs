//! What policies make of the requests in flight.

use tokio::time::Instant;
use tower_roster::balance::policy::{AnyPolicy, Draw, LeastRequests, P2c, Policy, Trial, by_name};

use crate::{
    dues, rng,
    world::{Latency, World},
};

/// The policies that look at requests in flight.
fn by_requests() -> Vec<(&'static str, AnyPolicy)> {
    ["least-requests", "p2c", "peak-ewma"]
        .map(|name| (name, by_name(name).unwrap()))
        .into()
}

#[test]
fn the_less_loaded_of_two_gets_the_request() {
    for (name, policy) in by_requests() {
        let mut rng = rng();
        let now = Instant::now();
        let trial = Trial::new(&policy, &[1.0, 1.0], &mut rng);
        trial.start(0, now);
        for _ in 0..1_000 {
            let picked = trial.pick(&mut Draw::new(&mut rng).at(now));
            assert_eq!(picked, 1, "{name} prefers the idle one");
        }
    }
}

#[test]
fn one_more_request_decides_however_many_there_are() {
    let mut rng = rng();
    let now = Instant::now();
    for policy in [LeastRequests::new(), LeastRequests::new().scan_up_to(0)] {
        let trial = Trial::new(&policy, &[1.0, 1.0], &mut rng);
        (0..101).for_each(|_| trial.start(0, now));
        (0..100).for_each(|_| trial.start(1, now));
        for _ in 0..1_000 {
            assert_eq!(trial.pick(&mut Draw::new(&mut rng)), 1);
        }
    }
    let trial = Trial::new(&P2c::in_flight(), &[1.0, 1.0], &mut rng);
    (0..101).for_each(|_| trial.start(0, now));
    (0..100).for_each(|_| trial.start(1, now));
    for _ in 0..1_000 {
        assert_eq!(trial.pick(&mut Draw::new(&mut rng)), 1);
    }
}

#[test]
fn a_small_set_is_scanned_for_the_least() {
    let mut rng = rng();
    let now = Instant::now();
    let policies = [
        (LeastRequests::new(), 16, true),
        (LeastRequests::new(), 17, false),
        (LeastRequests::new().scan_up_to(17), 17, true),
    ];
    for (policy, endpoints, always) in policies {
        for uneven in [0.0, 0.01] {
            let weights: Vec<f64> = (0..endpoints)
                .map(|i| 1.0 + f64::from(i % 2) * uneven)
                .collect();
            let trial = Trial::new(&policy, &weights, &mut rng);
            for index in (0..weights.len()).filter(|index| *index != 5) {
                trial.start(index, now);
                trial.start(index, now);
            }
            let found = (0..1_000)
                .filter(|_| trial.pick(&mut Draw::new(&mut rng)) == 5)
                .count();
            assert_eq!(found == 1_000, always, "{endpoints}: {found} of 1000");
            assert!(found > 50, "by two choices, twice its share");
        }
    }
}

#[test]
fn no_endpoint_has_much_more_in_flight_than_another() {
    for (name, policy) in by_requests() {
        for endpoints in [10, 100] {
            let mut world = World::new(
                &policy,
                &vec![1.0; endpoints],
                &vec![Latency::Constant(0.01); endpoints],
            );
            // Five each on average.
            world.closed(20_000, endpoints * 5);
            let set = world.trial.set();
            let most = (0..endpoints).map(|index| set.in_flight(index)).max();
            assert!(most <= Some(9), "{name}: {most:?} where 5 are due");
        }
    }
}

/// Shares of `weights` after many requests, with this many in flight on average.
fn shares_under_load<P: Policy>(
    policy: &P,
    weights: &[f64],
    load: f64,
    latency: Latency,
) -> Vec<f64> {
    let mut world = World::new(policy, weights, &vec![latency; weights.len()]);
    world.open(5_000, load / 0.01);
    world.take_shares();
    world.open(40_000, load / 0.01);
    world.take_shares()
}

#[test]
fn weights_hold_under_any_load() {
    // A light endpoint cannot have half a request, and that is what is off.
    let fair = 0.75..1.3;
    for (name, policy) in by_requests() {
        for weights in [
            vec![0.98, 0.01, 0.01],
            vec![3.0, 1.0],
            vec![1.0, 1.0, 1.0, 0.1],
        ] {
            for load in [0.3, 10.0, 100.0] {
                for latency in [Latency::Constant(0.01), Latency::Random(0.01)] {
                    let shares = shares_under_load(&policy, &weights, load, latency);
                    for (share, due) in shares.iter().zip(dues(&weights)) {
                        assert!(
                            fair.contains(&(share / due)),
                            "{name}, {weights:?}, load {load}, {latency:?}: {share} for {due}"
                        );
                    }
                }
            }
        }
    }
}
