//! Sets, weights and loads that nobody planned for.

use std::{num::NonZeroU32, time::Duration};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;
use tower_roster::{
    balance::policy::{Draw, P2c, Policy, RingHash, Trial, by_name},
    classify::Outcome,
    endpoint::load::LoadTracker,
};

use crate::{all, rng};

/// Says the same, whatever happens.
#[derive(Clone, Copy, Debug)]
struct Says(f64);

impl LoadTracker for Says {
    fn fresh(&self, _: Instant) -> Self {
        *self
    }

    fn record(&self, _: Outcome, _: Duration, _: Instant) {}

    fn load(&self, _: usize, _: Instant) -> f64 {
        self.0
    }
}

#[test]
fn loads_that_are_no_numbers_leave_the_choice_to_chance() {
    for load in [f64::NAN, f64::INFINITY, -1.0, f64::MAX, 0.0] {
        for weights in [[1.0, 1.0, 1.0], [3.0, 2.0, 1.0]] {
            let mut rng = rng();
            let trial = Trial::new(&P2c::by(Says(load)), &weights, &mut rng);
            trial.start(0, Instant::now());
            let mut counts = [0; 3];
            for _ in 0..3_000 {
                counts[trial.pick(&mut Draw::new(&mut rng))] += 1;
            }
            assert!(
                counts.iter().all(|count| *count > 200),
                "{load}: {counts:?}"
            );
        }
    }
}

#[test]
fn one_endpoint_is_picked_whatever_it_does() {
    for (name, policy) in all() {
        let mut rng = rng();
        let mut now = Instant::now();
        let trial = Trial::new(&policy, &[0.3], &mut rng);
        for hash in [None, Some(0), Some(u64::MAX)] {
            assert_eq!(
                trial.pick(&mut Draw::new(&mut rng).at(now).hash(hash)),
                0,
                "{name}"
            );
            trial.start(0, now);
            now += Duration::from_secs(5);
            trial.end(0, Outcome::Failure, Duration::from_secs(5), now);
            trial.start(0, now);
        }
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    for margin in [0.99, -1.0, f64::NAN, f64::INFINITY] {
        let error = P2c::peak_ewma().margin(margin).unwrap_err();
        assert!(
            error.to_string().contains("at least 1.0 and at most 100.0"),
            "{error}"
        );
    }
    for grain in [-0.1, f64::NAN, f64::INFINITY] {
        assert_eq!(
            P2c::in_flight().grain(grain).unwrap_err().field(),
            "p2c.grain"
        );
    }
}

#[test]
fn an_unknown_name_is_told_the_known_ones() {
    let error = by_name("best").unwrap_err().to_string();
    assert!(
        error.contains("\"best\" is none of round-robin, "),
        "{error}"
    );
    assert!(error.ends_with("ring-hash"), "{error}");
}

/// Any positive weight, and what `Candidate::new` makes 1 of.
fn weights() -> impl Strategy<Value = Vec<f64>> {
    let weight = prop_oneof![
        4 => 0.001f64..100.0,
        2 => (1u32..65_536).prop_map(f64::from),
        1 => any::<f64>(),
        1 => Just(1.0),
    ];
    prop_oneof![
        prop::collection::vec(weight, 1..100),
        (1usize..100).prop_map(|len| vec![1.0; len]),
    ]
}

/// Sends requests and ends them in any order, and checks each pick.
fn stays_in_range<P: Policy>(
    what: &str,
    policy: &P,
    weights: &[f64],
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut now = Instant::now();
    let trial = Trial::new(policy, weights, &mut rng);
    let mut flying = Vec::new();
    for _ in 0..200 {
        let dice = rng.next_u64();
        now += Duration::from_micros(dice % 50_000);
        let hash = (dice % 3 > 0).then_some(dice);
        let picked = trial.pick(&mut Draw::new(&mut rng).at(now).hash(hash));
        prop_assert!(picked < weights.len(), "{what}: {picked} of {weights:?}");
        trial.start(picked, now);
        flying.push((picked, now));
        if dice % 5 > 1 {
            let (done, began) = flying.swap_remove(dice as usize % flying.len());
            let outcome = [Outcome::Success, Outcome::Failure, Outcome::Cancelled];
            trial.end(done, outcome[dice as usize % 3], now - began, now);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the weights and whatever happens, an index is in range.
    #[test]
    fn no_policy_returns_an_index_out_of_range(weights in weights(), seed: u64, size in 2u32..2_000) {
        // Its default table takes long to make.
        for (name, policy) in all().filter(|(name, _)| *name != "ring-hash") {
            stays_in_range(name, &policy, &weights, seed)?;
        }
        let places = NonZeroU32::new(size).unwrap();
        stays_in_range("ring", &RingHash::new().places(places), &weights, seed)?;
    }
}
