//! What a pick costs, for each policy and for sets from 2 to 10 000 endpoints.
//!
//! `cargo bench --bench policies`; `-- peak` for those whose name contains that; `-- --test` runs
//! everything once. Each group also shows what changes the figure: weights that differ, requests in
//! flight, a key. The time comes in with the draw, as it does in the balancer, so no figure
//! holds a reading of the clock.
//!
//! `measure` is what peak EWMA does for a request beside the pick: start, record, load.

use std::{
    hint::black_box,
    time::{Duration, Instant as StdInstant},
};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;
use tower_roster::{
    balance::policy::{
        Draw, LeastRequests, P2c, Policy, Random, ResponseTime, RingHash, RoundRobin, Trial,
        WeightedRandom, WeightedRoundRobin,
    },
    classify::Outcome,
    endpoint::load::{LoadTracker, PeakEwma},
};

const SIZES: [usize; 5] = [2, 10, 100, 1_000, 10_000];

const RTT: Duration = Duration::from_millis(3);

fn even(size: usize) -> Vec<f64> {
    vec![1.0; size]
}

fn uneven(size: usize) -> Vec<f64> {
    (0..size).map(|index| (index % 5 + 1) as f64).collect()
}

/// Endpoints that were measured, with this many requests in flight on each.
fn trial<P: Policy>(policy: &P, weights: &[f64], in_flight: usize, now: Instant) -> Trial<P> {
    let trial = Trial::new(policy, weights, &mut SmallRng::seed_from_u64(1));
    for index in 0..weights.len() {
        trial.start(index, now);
        trial.end(index, Outcome::Success, RTT, now);
        (0..in_flight).for_each(|_| trial.start(index, now));
    }
    trial
}

fn picks<P: Policy>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    what: &str,
    policy: &P,
    weights: fn(usize) -> Vec<f64>,
    in_flight: usize,
    keyed: bool,
) {
    for size in SIZES {
        let now = Instant::now();
        let trial = trial(policy, &weights(size), in_flight, now);
        let now = now + RTT;
        let mut rng = SmallRng::seed_from_u64(2);
        group.bench_function(BenchmarkId::new(what, size), |bencher| {
            bencher.iter(|| {
                let hash = keyed.then(|| rng.next_u64());
                trial.pick(&mut Draw::new(&mut rng).at(now).hash(hash))
            });
        });
    }
}

fn policies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round-robin");
    picks(&mut group, "any", &RoundRobin::new(), even, 0, false);
    group.finish();

    let mut group = criterion.benchmark_group("weighted-round-robin");
    picks(
        &mut group,
        "even",
        &WeightedRoundRobin::new(),
        even,
        0,
        false,
    );
    picks(
        &mut group,
        "uneven",
        &WeightedRoundRobin::new(),
        uneven,
        0,
        false,
    );
    group.finish();

    let mut group = criterion.benchmark_group("random");
    picks(&mut group, "any", &Random::new(), even, 0, false);
    group.finish();

    let mut group = criterion.benchmark_group("weighted-random");
    picks(&mut group, "even", &WeightedRandom::new(), even, 0, false);
    picks(
        &mut group,
        "uneven",
        &WeightedRandom::new(),
        uneven,
        0,
        false,
    );
    group.finish();

    let mut group = criterion.benchmark_group("least-requests");
    picks(&mut group, "even", &LeastRequests::new(), even, 3, false);
    picks(
        &mut group,
        "uneven",
        &LeastRequests::new(),
        uneven,
        3,
        false,
    );
    group.finish();

    let mut group = criterion.benchmark_group("p2c");
    picks(&mut group, "even", &P2c::in_flight(), even, 3, false);
    picks(&mut group, "uneven", &P2c::in_flight(), uneven, 3, false);
    group.finish();

    let mut group = criterion.benchmark_group("peak-ewma");
    picks(&mut group, "even", &P2c::peak_ewma(), even, 3, false);
    picks(&mut group, "uneven", &P2c::peak_ewma(), uneven, 3, false);
    group.finish();

    let mut group = criterion.benchmark_group("response-time");
    picks(&mut group, "even", &ResponseTime::new(), even, 0, false);
    picks(&mut group, "uneven", &ResponseTime::new(), uneven, 0, false);
    group.finish();

    let mut group = criterion.benchmark_group("ring-hash");
    picks(&mut group, "idle", &RingHash::new(), even, 0, true);
    picks(&mut group, "busy", &RingHash::new(), even, 3, true);
    group.finish();
}

/// What peak EWMA costs beside the pick.
fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("measure");
    let base = Instant::now();
    for (what, pause) in [("busy", Duration::from_micros(1)), ("each", RTT)] {
        let ewma = PeakEwma::new().fresh(base);
        let mut now = base + RTT;
        group.bench_function(BenchmarkId::new("start and record", what), |bencher| {
            bencher.iter(|| {
                now += pause;
                ewma.start(now);
                ewma.record(Outcome::Success, black_box(RTT), now);
            });
        });
        group.bench_function(BenchmarkId::new("load", what), |bencher| {
            bencher.iter(|| ewma.load(black_box(2), now));
        });
    }
    group.finish();
}

/// What preparing costs, which happens off the path of any request. Printed, because criterion
/// would repeat for minutes what takes a tenth of a second.
fn preparing() {
    fn prepare<P: Policy>(what: &str, policy: &P, weights: fn(usize) -> Vec<f64>) {
        for size in SIZES {
            let weights = weights(size);
            let mut rng = SmallRng::seed_from_u64(1);
            let started = StdInstant::now();
            black_box(Trial::new(policy, &weights, &mut rng));
            println!("prepare {what:24} {size:6} {:10.1?}", started.elapsed());
        }
    }
    prepare("round-robin", &RoundRobin::new(), uneven);
    prepare("weighted-round-robin", &WeightedRoundRobin::new(), uneven);
    prepare("peak-ewma", &P2c::peak_ewma(), uneven);
    prepare("ring-hash", &RingHash::new(), uneven);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    policies(&mut criterion);
    measure(&mut criterion);
    criterion.final_summary();
    preparing();
}
