use rand::{RngExt, rngs::SmallRng};

use super::*;
use crate::{classify::Outcome, rng::small_rng};

const SEED: u64 = 20_261;

/// A log-normal latency.
fn latency(rng: &mut SmallRng, median_ms: f64, sigma: f64) -> Duration {
    let normal = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt()
        * (std::f64::consts::TAU * rng.random::<f64>()).cos();
    Duration::from_secs_f64(median_ms / 1e3 * (sigma * normal).exp())
}

struct Side {
    per_look: u32,
    failures: f64,
    median_ms: f64,
}

/// The number of the first comparison at which the guard trips.
fn trips(guard: &Guard, canary: &Side, baseline: &Side, looks: u32, seed: u64) -> Option<u32> {
    let mut rng = small_rng(Some(seed));
    let (mut window, tallies) = (
        GuardWindow::default(),
        [VersionTally::default(), VersionTally::default()],
    );
    let start = Instant::now();
    (0..looks).find(|look| {
        for (side, tally) in [canary, baseline].into_iter().zip(&tallies) {
            for _ in 0..side.per_look {
                let failed = rng.random::<f64>() < side.failures;
                let outcome = if failed {
                    Outcome::Failure
                } else {
                    Outcome::Success
                };
                tally.record(outcome, latency(&mut rng, side.median_ms, 0.5));
            }
        }
        let now = start + guard.window / LOOKS * *look;
        let [canary, baseline] = &tallies;
        window.look(guard, 0, 0.1, canary, baseline, now).is_some()
    })
}

fn side(per_look: u32, failures: f64, median_ms: f64) -> Side {
    Side {
        per_look,
        failures,
        median_ms,
    }
}

#[test]
fn equal_versions_do_not_trip_it_in_a_million_requests() {
    // 40 runs of 500 comparisons, which take 50 minutes each with the default window. By the bound
    // of a single test with 4 sigmas, one run of all may trip. None does, because the margins are
    // above 0.
    for run in 0..40 {
        let (canary, baseline) = (side(12, 0.02, 20.0), side(40, 0.02, 20.0));
        let tripped = trips(&Guard::new("v2"), &canary, &baseline, 500, SEED + run);
        assert_eq!(tripped, None, "run {run} of seed {SEED}");
    }
}

#[test]
fn without_margins_it_errs_in_few_looks_at_equal_versions() {
    let strict = Guard::new("v2").failure_margin(0.0).latency_ratio(1.0);
    let errors = (0..40_u64).filter(|run| {
        let (canary, baseline) = (side(12, 0.02, 20.0), side(40, 0.02, 20.0));
        trips(&strict, &canary, &baseline, 250, SEED + run).is_some()
    });
    // 10,000 comparisons, of which about 1,000 are independent, with one error in 30,000 each.
    assert!(errors.count() <= 1, "seed {SEED}");
}

#[test]
fn a_version_that_fails_more_often_trips_it_within_a_window() {
    for run in 0..20 {
        let (canary, baseline) = (side(40, 0.2, 20.0), side(400, 0.02, 20.0));
        let tripped = trips(&Guard::new("v2"), &canary, &baseline, 20, SEED + run);
        assert!(
            tripped.is_some_and(|look| look <= 10),
            "{tripped:?} in run {run}"
        );
    }
}

#[test]
fn a_slower_version_trips_it_and_one_within_the_ratio_does_not() {
    for run in 0..20 {
        let baseline = side(400, 0.0, 20.0);
        let trips = |median_ms, failures| {
            let canary = side(100, failures, median_ms);
            trips(&Guard::new("v2"), &canary, &baseline, 20, SEED + run)
        };
        assert!(trips(44.0, 0.0).is_some(), "2.2 times as slow, run {run}");
        assert_eq!(trips(24.0, 0.0), None, "1.2 times as slow, run {run}");
    }
}

#[test]
fn few_requests_prove_nothing() {
    let (canary, baseline) = (side(9, 1.0, 20.0), side(400, 0.0, 20.0));
    assert_eq!(
        trips(&Guard::new("v2"), &canary, &baseline, 50, SEED),
        None,
        "90 within a window"
    );
    let enough = Guard::new("v2").min_requests(90);
    assert!(trips(&enough, &canary, &baseline, 50, SEED).is_some());
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let guard = Guard::new("v2");
    let (canary, baseline) = (VersionTally::default(), VersionTally::default());
    let mut window = GuardWindow::default();
    let start = Instant::now();
    let mut look = |seconds| {
        window.look(
            &guard,
            0,
            0.1,
            &canary,
            &baseline,
            start + Duration::from_secs(seconds),
        )
    };
    assert_eq!(look(0), None);
    for _ in 0..500 {
        canary.record(Outcome::Failure, Duration::ZERO);
        baseline.record(Outcome::Success, Duration::ZERO);
    }
    assert_eq!(look(1), None, "it has looked just now");
    assert!(look(6).is_some());
    assert!(look(60).is_some());
    assert_eq!(look(67), None, "a minute after they ended");
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let guard = || Guard::new("v2");
    for (guard, field) in [
        (Guard::new(""), "guard.version"),
        (
            guard().ignore_failures().ignore_latency(),
            "guard.failure_margin",
        ),
        (guard().window(Duration::ZERO), "guard.window"),
        (guard().window(Duration::MAX), "guard.window"),
        (guard().min_requests(0), "guard.min_requests"),
        (guard().sigmas(f64::NAN), "guard.sigmas"),
        (guard().failure_margin(1.1), "guard.failure_margin"),
        (guard().failure_margin(f64::NAN), "guard.failure_margin"),
        (guard().latency_ratio(0.5), "guard.latency_ratio"),
        (guard().latency_ratio(f64::NAN), "guard.latency_ratio"),
    ] {
        assert_eq!(guard.check().unwrap_err().field(), field);
    }
    assert!(guard().check().is_ok());
}

#[test]
fn a_trip_tells_its_figures_in_a_line() {
    let trip = |cause| {
        let trip = Trip {
            version: "v2".into(),
            share: 0.1,
            cause,
            requests: 200,
            baseline_requests: 900,
        };
        trip.to_string()
    };
    assert_eq!(
        trip(TripCause::Failures {
            canary: 0.5,
            baseline: 0.01
        }),
        "version \"v2\" lost its share of 10.00 %: 50.00 % of 200 requests failed, against 1.00 % of 900"
    );
    assert_eq!(
        trip(TripCause::Latency {
            canary: Duration::from_millis(40),
            baseline: Duration::from_millis(20)
        }),
        "version \"v2\" lost its share of 10.00 %: a tenth of 200 requests took 40.0ms or more, against 20.0ms of 900"
    );
}
