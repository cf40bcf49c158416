//! Many clients near what the servers can bear, and beyond it for a while.

use std::{num::NonZeroU32, time::Duration};

use tower_roster::service::retry::RetrySettings;

use crate::{
    clients::{Contender, Load, Run, STACK, run_many},
    report::{Bar, Report, failed, percent, quantiles, ratio},
    sim::{Abandoned, Call, Feed, Latency, Node, SEC},
};

const SERVERS: usize = 10;
const WORKERS: usize = 8;
const WORK: Duration = Duration::from_millis(20);

/// What callers wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

const SERVER_KINDS: [(Abandoned, &str); 2] = [
    (Abandoned::Finished, "finish"),
    (Abandoned::Cancelled, "cancel"),
];
const CLIENTS: [u64; 2] = [1, 100];
const UTILISATIONS: [f64; 4] = [0.7, 0.8, 0.9, 0.95];

/// Until everything that is measured is known, and queues are as long as they get.
const WARM_UP: Duration = Duration::from_secs(10);

/// A minute, as a single busy period near capacity decides the 99th percentile of less.
const MEASURED: Duration = Duration::from_secs(60);

const BEFORE: Duration = Duration::from_secs(20);
const OVERLOAD: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(20);

const BARE: Contender = Contender::Stack("our stack, no retries, no hedges", |stack| {
    stack
        .retry(RetrySettings::new().max_attempts(NonZeroU32::MIN))
        .hedge(None)
});

/// Requests a second.
fn capacity() -> f64 {
    (SERVERS * WORKERS) as f64 / WORK.as_secs_f64()
}

fn play(
    contender: Contender,
    clients: u64,
    abandoned: Abandoned,
    phases: &[(Duration, f64)],
    seed: u64,
) -> Run {
    let phases: Vec<_> = phases
        .iter()
        .map(|(length, utilisation)| (*length, utilisation * capacity()))
        .collect();
    let world = |seed| {
        let node = |index| Node::serving(Latency::Exponential(WORK), seed, index);
        let nodes = (0..SERVERS).map(|index| node(index).workers(WORKERS, abandoned));
        let nodes: Vec<_> = nodes.collect();
        let feed = Feed::of(&nodes);
        (nodes, feed)
    };
    let load = Load::Open(&phases);
    run_many(contender, clients, world, &load, Some(PATIENCE), seed)
}

fn load(run: &Run, from: Duration, to: Duration) -> f64 {
    let received = run.nodes.iter().map(|node| node.received(from, to));
    ratio(received.sum(), run.between(from, to).len() as u64)
}

/// The 99th percentile, as the mean of what lies half a percentile around it: times come in whole
/// milliseconds, which is nearly as much as is to be told apart.
fn smooth_p99(calls: &[Call]) -> f64 {
    let around: [f64; 11] = std::array::from_fn(|step| 0.985 + step as f64 / 1_000.0);
    let quantiles = quantiles(calls, around);
    quantiles.iter().sum::<f64>() / quantiles.len() as f64
}

pub(crate) fn steady(seed: u64) -> Report {
    let contenders = [
        STACK,
        BARE,
        Contender::Policy("peak-ewma"),
        Contender::TowerPeakEwma,
        Contender::Oracle,
    ];
    let (from, to) = (WARM_UP, WARM_UP + MEASURED);
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for (abandoned, kind) in SERVER_KINDS {
        for clients in CLIENTS {
            for utilisation in UTILISATIONS {
                let world = format!("{kind}, {clients} at {utilisation}");
                let measure = |contender: Contender| {
                    let run = play(contender, clients, abandoned, &[(to, utilisation)], seed);
                    let calls = run.between(from, to);
                    let [p50, p999] = quantiles(&calls, [0.5, 0.999]);
                    let p99 = smooth_p99(&calls);
                    let failures = percent(failed(&calls), calls.len());
                    vec![failures, p50, p99, p999, load(&run, from, to)]
                };
                let figures = contenders.map(measure);
                let [ours, bare] = [&figures[0], &figures[1]];
                let more = ours[0] - bare[0];
                bars.push(Bar::at_most(format!("{world}: failed more, %"), more, 0.0));
                // Better is by a thousandth at least.
                let most = match abandoned {
                    Abandoned::Finished => 1.1,
                    Abandoned::Cancelled => 0.999,
                };
                let what = format!("{world}: p99 by that without retries and hedges");
                bars.push(Bar::at_most(what, ours[2] / bare[2], most));
                let named = contenders.map(|of| format!("{world}: {}", of.name()));
                rows.extend(named.into_iter().zip(figures));
            }
        }
    }
    Report {
        name: "near capacity",
        about: "10 servers with 8 workers each, exponentially distributed work of 20 ms, 1 client or 100 at \
                a share of their capacity; callers wait 2 s. Servers finish the work of callers that \
                have gone, or cancel it. 60 s after 10 s to warm up.",
        columns: &[
            "failed %",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "load by offered",
        ],
        rows,
        bars,
    }
}

/// How many seconds pass until all that follow are normal: no call fails, and the 99th percentile of
/// each is within one and a half of that before the overload, which is four standard errors.
fn normal_after(run: &Run, end: Duration, usual: f64) -> f64 {
    let seconds = AFTER.as_secs() as u32;
    let is_normal = |second: u32| {
        let from = end + SEC * second;
        let calls = run.between(from, from + SEC);
        let [p99] = quantiles(&calls, [0.99]);
        failed(&calls) == 0 && p99 <= usual * 1.5
    };
    let last = (0..seconds).rev().find(|second| !is_normal(*second));
    last.map_or(0.0, |second| f64::from(second + 1))
}

pub(crate) fn overload(seed: u64) -> Report {
    let phases = [(BEFORE, 0.8), (OVERLOAD, 1.2), (AFTER, 0.8)];
    let (start, end) = (BEFORE, BEFORE + OVERLOAD);
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for (abandoned, kind) in SERVER_KINDS {
        for clients in CLIENTS {
            let world = format!("{kind}, {clients}");
            let measure = |contender: Contender| {
                let run = play(contender, clients, abandoned, &phases, seed);
                let [usual] = quantiles(&run.between(WARM_UP, start), [0.99]);
                let calls = run.between(start, end + AFTER);
                let failures = percent(failed(&calls), calls.len());
                let [worst] = quantiles(&run.between(end - SEC, end), [0.99]);
                let normal = normal_after(&run, end, usual);
                let last = load(&run, end - 3 * SEC, end);
                vec![usual, failures, worst, last, normal]
            };
            let contenders = [STACK, BARE, Contender::TowerPeakEwma];
            let figures = contenders.map(measure);
            let [ours, bare] = [&figures[0], &figures[1]];
            let more = ours[1] - bare[1];
            bars.push(Bar::at_most(format!("{world}: failed more, %"), more, 0.0));
            // Without hedges a backlog of a second is left, which a fifth of the capacity works off in 5 s. One
            // more is the grain of this.
            let what = format!("{world}: normal, s after that without retries and hedges");
            bars.push(Bar::at_most(what, ours[4] - bare[4], 1.0));
            let what = format!("{world}: load of the last 3 s of the overload");
            bars.push(Bar::at_most(what, ours[3], 1.01));
            let named = contenders.map(|of| format!("{world}: {}", of.name()));
            rows.extend(named.into_iter().zip(figures));
        }
    }
    Report {
        name: "near capacity, overload",
        about: "The same at 0.8 for 20 s, 1.2 for 5 s and 0.8 for 20 s. Normal is when of all seconds that \
                follow each is without a failure and has a p99 within 1.5 of that before.",
        columns: &[
            "p99 before ms",
            "failed %",
            "p99 in it ms",
            "load by offered, last 3 s",
            "normal after s",
        ],
        rows,
        bars,
    }
}
