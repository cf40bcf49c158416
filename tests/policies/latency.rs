//! What policies make of measured latency.

use std::time::Duration;

use tokio::time::Instant;
use tower_roster::{
    balance::policy::{AnyPolicy, Draw, P2c, Policy, ResponseTime, Trial, by_name},
    classify::Outcome,
    endpoint::load::PeakEwma,
};

use crate::{
    assert_share, rng,
    world::{Latency, World},
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn equal_endpoints_get_equal_shares_while_measured() {
    for latency in [Latency::Constant(0.01), Latency::Random(0.01)] {
        let mut world = World::new(&P2c::peak_ewma(), &[1.0; 10], &[latency; 10]);
        world.closed(100_000, 20);
        for share in world.take_shares() {
            assert!(
                (0.085..0.115).contains(&share),
                "{latency:?}: {share} for 0.1"
            );
        }
    }
}

/// How many of 10,000 requests each server gets, 20 a second and one after the other. `takes` tells how
/// long the nth request to a server takes, from 0.
fn one_by_one(
    policy: &AnyPolicy,
    weights: &[f64],
    takes: impl Fn(usize, u64) -> Duration,
) -> Vec<u64> {
    let mut rng = rng();
    let trial = Trial::new(policy, weights, &mut rng);
    let mut counts = vec![0; weights.len()];
    let mut now = Instant::now();
    for _ in 0..10_000 {
        now += 50 * MS;
        let server = trial.pick(&mut Draw::new(&mut rng).at(now));
        let takes = takes(server, counts[server]);
        counts[server] += 1;
        trial.start(server, now);
        trial.end(server, Outcome::Success, takes, now + takes);
    }
    counts
}

#[test]
fn equal_endpoints_share_by_weight_whatever_a_few_of_their_answers_take() {
    let usual = MS * 3 / 10;
    for policy in ["peak-ewma", "response-time"].map(|name| by_name(name).unwrap()) {
        for (weights, share) in [([1.0, 1.0], 0.5), ([3.0, 1.0], 0.75), ([1.0, 3.0], 0.25)] {
            let connects = |server, nth| match (server, nth) {
                (0, 0) => 30 * MS,
                (1, 0) => MS,
                _ => usual,
            };
            let counts = one_by_one(&policy, &weights, connects);
            assert_share(counts[0], 10_000, share, &format!("{policy:?}: connects"));
            let stutters = |server, nth: u64| match (server, nth % 1_000) {
                (0, 500) => 40 * MS,
                _ => usual,
            };
            let counts = one_by_one(&policy, &weights, stutters);
            assert_share(counts[0], 10_000, share, &format!("{policy:?}: stutters"));
        }
    }
}

#[test]
fn twice_the_latency_gets_about_half_the_load() {
    let mut servers = [Latency::Constant(0.01); 5];
    servers[0] = Latency::Constant(0.02);
    let mut world = World::new(&P2c::peak_ewma(), &[1.0; 5], &servers);
    world.closed(5_000, 30);
    world.take_shares();
    let (mut slow, mut others) = (0, 0);
    for _ in 0..20_000 {
        world.closed(1, 30);
        let set = world.trial.set();
        slow += set.in_flight(0);
        others += (1..5).map(|index| set.in_flight(index)).sum::<usize>();
    }
    // Half of it and, of so few requests, what the margin and chance make of that.
    let ratio = slow as f64 / (others as f64 / 4.0);
    assert!(
        (0.4..0.75).contains(&ratio),
        "in flight, to the others': {ratio}"
    );
    let shares = world.take_shares();
    assert!(
        shares[0] < 0.1,
        "so it gets a third of the others' requests: {shares:?}"
    );
}

#[test]
fn a_slow_endpoint_gets_little_while_nothing_is_in_flight() {
    let servers = [
        Latency::Constant(0.5),
        Latency::Constant(0.01),
        Latency::Constant(0.01),
    ];
    let mut world = World::new(&P2c::peak_ewma(), &[1.0; 3], &servers);
    world.open(20_000, 5.0);
    let shares = world.take_shares();
    assert!(shares[0] < 0.1, "{shares:?}");
    assert!(shares[0] > 0.0005, "but it is asked again: {shares:?}");
}

#[test]
fn an_endpoint_never_measured_is_probed_once() {
    let mut rng = rng();
    let now = Instant::now();
    fn probes<P: Policy>(
        policy: &P,
        len: usize,
        rng: &mut rand::rngs::SmallRng,
        now: Instant,
    ) -> u64 {
        let trial = Trial::new(policy, &vec![1.0; len], rng);
        for index in 1..len {
            trial.start(index, now);
            trial.end(index, Outcome::Success, 20 * MS, now + 20 * MS);
        }
        let mut probes = 0;
        for at in 20..2_020 {
            let now = now + at * MS;
            let picked = trial.pick(&mut Draw::new(rng).at(now));
            trial.start(picked, now);
            if picked == 0 {
                // Its answer does not come.
                probes += 1;
            } else {
                trial.end(picked, Outcome::Success, 20 * MS, now);
            }
        }
        probes
    }
    for len in [2, 5, 20, 100] {
        assert_eq!(
            probes(&P2c::peak_ewma(), len, &mut rng, now),
            1,
            "peak ewma, {len}"
        );
        assert_eq!(
            probes(&ResponseTime::new(), len, &mut rng, now),
            1,
            "response time, {len}"
        );
    }
}

#[test]
fn a_failing_endpoint_does_not_attract() {
    let mut rng = rng();
    let mut now = Instant::now();
    let trial = Trial::new(&P2c::peak_ewma(), &[1.0; 4], &mut rng);
    let mut failures = 0;
    for _ in 0..10_000 {
        now += MS;
        let picked = trial.pick(&mut Draw::new(&mut rng).at(now));
        trial.start(picked, now);
        if picked == 0 {
            failures += 1;
            trial.end(picked, Outcome::Failure, MS / 10, now);
        } else {
            trial.end(picked, Outcome::Success, 30 * MS, now);
        }
    }
    // One at first, and one a second to see whether it is back.
    assert!(failures <= 11, "{failures} went to one that fails at once");
}

#[test]
fn a_canary_gets_its_percent_also_when_its_estimate_has_sunk() {
    // One request in 50 s, or in 5 s, or 10 a second: over all of which estimates sink by 63 % in 10 s.
    for (rate, requests) in [(2.0, 40_000), (20.0, 40_000), (1_000.0, 60_000)] {
        for latency in [Latency::Constant(0.01), Latency::Random(0.01)] {
            let mut world = World::new(&P2c::peak_ewma(), &[99.0, 1.0], &[latency; 2]);
            world.open(requests, rate);
            let what = format!("{latency:?} at {rate}/s");
            assert_share(world.counts[1], requests, 0.01, &what);
        }
    }
}

#[test]
fn a_new_endpoint_in_slow_start_gets_no_more_than_its_weight() {
    let mut world = World::new(
        &P2c::peak_ewma(),
        &[1.0, 1.0, 1.0, 0.1],
        &[Latency::Random(0.02); 4],
    );
    // The first three are at work since long.
    for index in 0..3 {
        for _ in 0..50 {
            world.trial.start(index, world.now);
            world.trial.end(index, Outcome::Success, 40 * MS, world.now);
        }
    }
    world.open(20_000, 100.0);
    let share = world.take_shares()[3];
    assert!((0.022..0.042).contains(&share), "{share} for 0.032");
}

#[test]
fn noise_below_the_grain_says_nothing() {
    let mut rng = rng();
    let now = Instant::now();
    let trial = Trial::new(&P2c::peak_ewma(), &[1.0, 1.0], &mut rng);
    for (index, micros) in [(0, 2), (1, 40)] {
        trial.start(index, now);
        trial.end(index, Outcome::Success, Duration::from_micros(micros), now);
    }
    let first = (0..10_000)
        .filter(|_| trial.pick(&mut Draw::new(&mut rng).at(now)) == 0)
        .count();
    assert!((4_800..5_200).contains(&first), "{first}");
    let trial = Trial::new(&P2c::peak_ewma().grain(0.0).unwrap(), &[1.0, 1.0], &mut rng);
    for (index, micros) in [(0, 2), (1, 40)] {
        trial.start(index, now);
        trial.end(index, Outcome::Success, Duration::from_micros(micros), now);
    }
    for _ in 0..100 {
        assert_eq!(
            trial.pick(&mut Draw::new(&mut rng).at(now)),
            0,
            "without a grain all counts"
        );
    }
}

#[test]
fn response_time_shares_by_speed() {
    let servers = [0.01, 0.02, 0.04].map(Latency::Constant);
    let mut world = World::new(&ResponseTime::new(), &[1.0, 1.0, 2.0], &servers);
    world.closed(1_000, 10);
    world.take_shares();
    world.closed(200_000, 10);
    // 1/10, 1/20 and 2/40, but estimates of those asked less often sink a little more.
    for (share, due) in world.take_shares().into_iter().zip([0.5, 0.25, 0.25]) {
        assert!((share - due).abs() < due * 0.02, "{share} for {due}");
    }
}

#[test]
fn response_time_shares_by_speed_in_a_large_set() {
    for (slow, share_of_slow) in [(0.02, 1.0 / 3.0), (0.1, 1.0 / 11.0)] {
        let servers: Vec<Latency> = (0..400)
            .map(|index| Latency::Constant(if index % 2 == 0 { slow } else { 0.01 }))
            .collect();
        let policy = ResponseTime::by(PeakEwma::new().decay(Duration::from_secs(600)));
        let mut world = World::new(&policy, &[1.0; 400], &servers);
        world.closed(20_000, 500);
        world.take_shares();
        world.closed(200_000, 500);
        let got: f64 = world.take_shares().iter().step_by(2).sum();
        let off = (got / share_of_slow - 1.0).abs();
        assert!(off < 0.03, "{got} for {share_of_slow}");
    }
}

#[test]
fn one_fast_endpoint_among_many_does_not_stop_the_others() {
    let mut servers = vec![Latency::Constant(1.0); 100];
    servers[42] = Latency::Constant(0.001);
    let mut world = World::new(&ResponseTime::new(), &[1.0; 100], &servers);
    world.open(50_000, 1_000.0);
    world.take_shares();
    world.open(50_000, 1_000.0);
    let shares = world.take_shares();
    assert!(shares[42] > 0.1, "far above its percent: {}", shares[42]);
    assert!(shares.iter().all(|share| *share > 0.001), "{shares:?}");
}

#[test]
fn by_requests_means_by_requests_whatever_is_measured() {
    let mut rng = rng();
    let now = Instant::now();
    for policy in [AnyPolicy::new(P2c::in_flight()), by_name("p2c").unwrap()] {
        let trial = Trial::new(&policy, &[1.0, 1.0], &mut rng);
        for (index, latency) in [(0, MS), (1, 900 * MS)] {
            trial.start(index, now);
            trial.end(index, Outcome::Success, latency, now);
        }
        let slow = (0..10_000).filter(|_| trial.pick(&mut Draw::new(&mut rng).at(now)) == 1);
        let slow = slow.count();
        assert!(
            (4_800..5_200).contains(&slow),
            "{slow} of 10000 to the slow one"
        );
    }
}
