//! Pick, call and completion, one request after the other.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::runtime::Runtime;
use tower::{
    Service, ServiceExt,
    discover::ServiceList,
    load::{CompleteOnResponse, Load, PeakEwma, PendingRequests},
};
use tower_roster::{
    balance::{
        Balance, BalanceLayer,
        policy::{Draw, P2c, Policy, RingHash, Trial},
    },
    endpoint::eject::Ejection,
};

use super::{
    cluster,
    measure::{Contender, Effort, Noop, Samples, allocations, here, interleave, requests},
    report::{Bar, Row},
};

const SIZES: [usize; 5] = [2, 10, 100, 1_000, 10_000];

pub fn ours<P: Policy>(runtime: &Runtime, policy: P, size: usize) -> Balance<Noop, P> {
    runtime.block_on(async {
        let services = ServiceList::new(vec![Noop; size]);
        let mut balance = BalanceLayer::builder()
            .policy(policy)
            .build()
            .expect("in range")
            .balance_plain(services);
        balance.ready().await.expect("endpoints");
        balance
    })
}

pub fn pending(_: usize) -> PendingRequests<Noop> {
    PendingRequests::new(Noop, CompleteOnResponse::default())
}

/// With the settings that tower's own documentation uses.
pub fn ewma(_: usize) -> PeakEwma<Noop> {
    let (rtt, decay) = (Duration::from_millis(30), Duration::from_secs(10));
    PeakEwma::new(
        Noop,
        rtt,
        decay.as_nanos() as f64,
        CompleteOnResponse::default(),
    )
}

fn theirs<S>(
    runtime: &Runtime,
    make: fn(usize) -> S,
    size: usize,
) -> tower::balance::p2c::Balance<ServiceList<Vec<S>>, u64>
where
    S: Service<u64> + Load,
    S::Metric: std::fmt::Debug,
    S::Error: Into<tower_roster::BoxError>,
{
    let list = ServiceList::new((0..size).map(make).collect::<Vec<_>>());
    let mut balance = tower::balance::p2c::Balance::new(list);
    runtime.block_on(async {
        balance.ready().await.expect("endpoints");
    });
    balance
}

fn timed<'a, S: Service<u64> + 'a>(mut service: S, effort: Effort) -> Contender<'a> {
    Box::new(move || requests(&mut service, effort.requests))
}

pub fn sizes(effort: Effort) -> Vec<Row> {
    let runtime = here();
    let mut rows = Vec::new();
    for size in SIZES {
        let contenders = vec![
            timed(ours(&runtime, P2c::in_flight(), size), effort),
            timed(theirs(&runtime, pending, size), effort),
            timed(ours(&runtime, P2c::peak_ewma(), size), effort),
            timed(theirs(&runtime, ewma, size), effort),
        ];
        let samples = interleave(effort.rounds, contenders);
        for (what, pair) in ["in flight", "peak EWMA"].iter().zip(samples.chunks(2)) {
            let row = Row::new(format!("p2c, {what}, of {size}"), "ns", &pair[0])
                .against("tower p2c", &pair[1])
                .bar(Bar::BaselineTakes(8.0));
            rows.push((*what, row));
        }
    }
    // By policy, then by size: the sort keeps the order within.
    rows.sort_by_key(|(what, _)| *what);
    rows.into_iter().map(|(_, row)| row).collect()
}

pub fn growth(effort: Effort) -> Vec<Row> {
    let runtime = here();
    let contenders = [10, 10_000, 100_000].into_iter().flat_map(|size| {
        [
            timed(ours(&runtime, P2c::in_flight(), size), effort),
            timed(ours(&runtime, P2c::peak_ewma(), size), effort),
        ]
    });
    let samples = interleave(effort.rounds, contenders.collect());
    let row = |what: &str, policy: usize, size: &str, at: usize, most: f64| {
        Row::new(
            format!("p2c, {what}, of {size}"),
            "ns",
            &samples[2 * at + policy],
        )
        .against("of 10", &samples[policy])
        .bar(Bar::AtMost(most))
    };
    vec![
        row("in flight", 0, "10,000", 1, 1.6),
        row("peak EWMA", 1, "10,000", 1, 1.6),
        row("in flight", 0, "100,000", 2, 6.0),
        row("peak EWMA", 1, "100,000", 2, 6.0),
    ]
}

pub fn weights(effort: Effort) -> Vec<Row> {
    let runtime = here();
    let mut rows = Vec::new();
    for size in [10, 10_000] {
        let even = |_| 1;
        let uneven = |index: usize| (index % 5 + 1) as u16;
        let make = |weight: fn(usize) -> u16| {
            runtime.block_on(async {
                let discover = cluster::listed((0..size).map(|i| cluster::endpoint(i, weight(i))));
                let layer = BalanceLayer::new();
                let mut one = layer.balance(discover);
                one.ready().await.expect("endpoints");
                let discover = cluster::listed((0..size).map(|i| cluster::endpoint(i, weight(i))));
                let layer = BalanceLayer::builder().policy(P2c::in_flight());
                let mut other = layer.build().expect("in range").balance(discover);
                other.ready().await.expect("endpoints");
                (one, other)
            })
        };
        let (even, uneven) = (make(even), make(uneven));
        let contenders = vec![
            timed(uneven.0, effort),
            timed(even.0, effort),
            timed(uneven.1, effort),
            timed(even.1, effort),
        ];
        let samples = interleave(effort.rounds, contenders);
        for (what, pair) in ["peak EWMA", "in flight"].iter().zip(samples.chunks(2)) {
            let row = Row::new(
                format!("p2c, {what}, weights 1 to 5, of {size}"),
                "ns",
                &pair[0],
            )
            .against("unweighted", &pair[1])
            .bar(Bar::AtMost(1.3));
            rows.push(row);
        }
    }
    rows
}

pub fn allocated(_: Effort) -> Vec<Row> {
    let runtime = here();
    let mut rows = Vec::new();
    let mut row = |what: &str, ours: Samples| {
        rows.push(Row::new(format!("allocations, {what}"), "", &ours).bar(Bar::Limit(0.0)));
    };
    row(
        "p2c, in flight",
        allocations(&mut ours(&runtime, P2c::in_flight(), 100)),
    );
    row(
        "p2c, peak EWMA",
        allocations(&mut ours(&runtime, P2c::peak_ewma(), 100)),
    );
    let mut clones = ours(&runtime, P2c::peak_ewma(), 100);
    row(
        "a clone for each request",
        allocations(&mut Cloning(&mut clones)),
    );
    let mut ejecting = runtime.block_on(async {
        let layer = BalanceLayer::builder()
            .ejection(Ejection::new())
            .build()
            .expect("defaults");
        let mut balance = layer.balance_plain(ServiceList::new(vec![Noop; 100]));
        balance.ready().await.expect("endpoints");
        balance
    });
    row("with ejection", allocations(&mut ejecting));
    rows
}

/// Clones its service for each request, as servers do.
struct Cloning<'a, S>(&'a mut S);

impl<S: Service<u64> + Clone> Service<u64> for Cloning<'_, S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        *self.0 = self.0.clone();
        self.0.poll_ready(cx)
    }

    fn call(&mut self, n: u64) -> S::Future {
        self.0.call(n)
    }
}

pub fn hashing(effort: Effort) -> Vec<Row> {
    let mut rng = SmallRng::seed_from_u64(1);
    let started = Instant::now();
    let trial = Trial::new(&RingHash::new(), &[1.0; 10_000], &mut rng);
    let built = Samples(vec![started.elapsed().as_secs_f64() * 1e3]);
    let look_up = Box::new(move || {
        let started = Instant::now();
        for _ in 0..effort.requests {
            let hash = rng.next_u64();
            std::hint::black_box(trial.pick(&mut Draw::new(&mut rng).hash(Some(hash))));
        }
        started.elapsed().as_nanos() as f64 / f64::from(effort.requests)
    });
    let samples = interleave(effort.rounds, vec![look_up]);
    vec![
        Row::new("ring, look-up of 10,000", "ns", &samples[0]).bar(Bar::Limit(100.0)),
        Row::new("ring, table built, by the driver", "ms", &built),
    ]
}
