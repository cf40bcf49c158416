//! Who gets how much while nothing is in flight and nothing was measured, and with even load.

use rand::{Rng, RngExt};
use tokio::time::Instant;
use tower_roster::balance::policy::{
    Draw, LeastLoad, LeastRequests, P2c, Policy, ResponseTime, Trial, WeightedRandom,
    WeightedRoundRobin, by_name,
};

use crate::{all, assert_share, dues, rng, weighted};

const PICKS: u64 = 1_000_000;

/// Weights as registries, slow start and users make them.
fn vectors() -> Vec<Vec<f64>> {
    let mut thirty: Vec<f64> = (1..=30).map(f64::from).collect();
    thirty[7] = 65_535.0;
    vec![
        vec![1.0; 10],
        vec![0.99, 0.005, 0.005],
        vec![99.0, 1.0],
        vec![65_535.0, 1.0],
        vec![3.0, 2.0, 1.0],
        vec![1.0, 1.0, 1.0, 0.1],
        // Seventeen endpoints on their way through slow start.
        (1..=17).map(|age| f64::from(age) / 17.0 * 3.7).collect(),
        thirty,
    ]
}

fn counts<P: Policy>(policy: &P, weights: &[f64], picks: u64) -> Vec<u64> {
    let mut rng = rng();
    let now = Instant::now();
    let trial = Trial::new(policy, weights, &mut rng);
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        counts[trial.pick(&mut Draw::new(&mut rng).at(now))] += 1;
    }
    counts
}

#[test]
fn an_idle_set_gets_exactly_its_shares() {
    for (name, policy) in weighted() {
        for weights in vectors() {
            let counts = counts(&policy, &weights, PICKS);
            for (index, due) in dues(&weights).into_iter().enumerate() {
                let what = format!("{name}: endpoint {index} of {weights:?}");
                assert_share(counts[index], PICKS, due, &what);
            }
        }
    }
}

#[test]
fn policies_without_weights_share_evenly() {
    for name in ["round-robin", "random"] {
        for count in counts(&by_name(name).unwrap(), &[5.0, 1.0, 0.1], PICKS) {
            assert_share(count, PICKS, 1.0 / 3.0, name);
        }
    }
}

#[test]
fn hashed_keys_are_shared_out_by_weight() {
    let name = "ring-hash";
    let sloping = (1..=40).map(f64::from).collect();
    let few = [vec![1.0; 10], vec![3.0, 2.0, 1.0], vec![1.0, 1.0, 1.0, 0.1]];
    for weights in few
        .into_iter()
        .chain([vec![1.0; 50], vec![2.0; 200], sloping])
    {
        let mut rng = rng();
        let trial = Trial::new(&by_name(name).unwrap(), &weights, &mut rng);
        let mut counts = vec![0u64; weights.len()];
        for _ in 0..PICKS {
            let hash = Some(rng.next_u64());
            counts[trial.pick(&mut Draw::new(&mut rng).hash(hash))] += 1;
        }
        for (count, due) in counts.into_iter().zip(dues(&weights)) {
            assert_share(count, PICKS, due, &format!("{name}, {weights:?}"));
        }
    }
}

#[test]
fn equal_endpoints_share_evenly_with_requests_in_flight() {
    for (name, policy) in all() {
        let mut rng = rng();
        let now = Instant::now();
        let trial = Trial::new(&policy, &[2.5; 10], &mut rng);
        let mut counts = [0; 10];
        let mut flying = Vec::new();
        for _ in 0..PICKS / 4 {
            let hash = Some(rng.next_u64());
            let picked = trial.pick(&mut Draw::new(&mut rng).at(now).hash(hash));
            trial.start(picked, now);
            counts[picked] += 1;
            flying.push(picked);
            if flying.len() > 35 {
                let done = flying.swap_remove(rng.random_range(0..flying.len()));
                let rtt = std::time::Duration::from_millis(5);
                trial.end(done, tower_roster::classify::Outcome::Success, rtt, now);
            }
        }
        for count in counts {
            assert_share(count, PICKS / 4, 0.1, name);
        }
    }
}

#[test]
fn weighted_round_robin_is_exact_over_any_whole_cycle() {
    for weights in [
        &[1.0, 1.0, 1.0][..],
        &[5.0, 1.0, 1.0],
        &[3.0, 2.0, 1.0],
        &[65_535.0, 1.0],
        &[700.0, 300.0, 123.0, 1.0],
        &[100.0, 20.0, 30.0, 10_000.0],
    ] {
        let mut rng = rng();
        let trial = Trial::new(&WeightedRoundRobin::new(), weights, &mut rng);
        let common = [2, 5, 10]
            .into_iter()
            .filter(|d| weights.iter().all(|w| w % f64::from(*d) == 0.0));
        let common = f64::from(common.max().unwrap_or(1));
        let cycle = (weights.iter().sum::<f64>() / common) as usize;
        for _ in 0..3 {
            let mut counts = vec![0; weights.len()];
            for _ in 0..cycle {
                counts[trial.pick(&mut Draw::new(&mut rng))] += 1;
            }
            let exact: Vec<usize> = weights.iter().map(|w| (w / common) as usize).collect();
            assert_eq!(counts, exact, "one cycle of {weights:?}");
            // Wherever one begins to count.
            trial.pick(&mut Draw::new(&mut rng));
        }
    }
}

#[test]
fn weighted_round_robin_has_no_bursts() {
    let mut heavy = vec![1.0; 200];
    heavy[0] = 2_000.0;
    let sloping: Vec<f64> = (1..=50).map(|w| f64::from(w) * 0.137).collect();
    for weights in [
        vec![5.0, 1.0, 1.0],
        vec![3.0, 2.0, 1.0],
        vec![0.99, 0.005, 0.005],
        heavy,
        sloping,
    ] {
        let mut rng = rng();
        let trial = Trial::new(&WeightedRoundRobin::new(), &weights, &mut rng);
        let dues = dues(&weights);
        let mut counts = vec![0.0; weights.len()];
        for turn in 1..=200_000u32 {
            counts[trial.pick(&mut Draw::new(&mut rng))] += 1.0;
            for (count, due) in counts.iter().zip(&dues) {
                let off: f64 = count - due * f64::from(turn);
                assert!(off.abs() < 5.0, "{weights:?}: {count} after {turn} turns");
            }
        }
    }
}

#[test]
fn each_set_starts_elsewhere() {
    for name in ["round-robin", "weighted-round-robin"] {
        let mut rng = rng();
        let first = |rng: &mut _| {
            let trial = Trial::new(&by_name(name).unwrap(), &[1.0; 100], rng);
            trial.pick(&mut Draw::new(rng))
        };
        let firsts: std::collections::BTreeSet<usize> = (0..50).map(|_| first(&mut rng)).collect();
        assert!(firsts.len() > 25, "{name} starts at {firsts:?}");
    }
}

#[test]
fn large_sets_get_their_shares_too() {
    let weights: Vec<f64> = (0..1_000).map(|index| f64::from(index % 10 + 1)).collect();
    let heaviest = dues(&weights)[9] * 100.0;
    fn heavy<P: Policy>(policy: P, weights: &[f64]) -> u64 {
        let counts = counts(&policy, weights, PICKS);
        counts.iter().skip(9).step_by(10).sum()
    }
    for (name, count) in [
        ("weighted random", heavy(WeightedRandom::new(), &weights)),
        (
            "weighted round robin",
            heavy(WeightedRoundRobin::new(), &weights),
        ),
        ("p2c", heavy(P2c::in_flight(), &weights)),
        ("peak ewma", heavy(P2c::peak_ewma(), &weights)),
        ("least requests", heavy(LeastRequests::new(), &weights)),
        ("least load", heavy(LeastLoad::new(), &weights)),
        ("response time", heavy(ResponseTime::new(), &weights)),
    ] {
        assert_share(count, PICKS, heaviest, name);
    }
}
