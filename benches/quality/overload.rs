//! More than the backends can bear.

use std::{num::NonZeroU32, time::Duration};

use tower_roster::service::retry::RetrySettings;

use crate::{
    clients::{ALL, Contender, Load, STACK, run},
    report::{Bar, Report, failed, fails, last_bad, mean, percent, quantiles, ratio},
    sim::{Feed, Latency, Node, SEC},
};

const BACKENDS: usize = 10;
const WORKERS: usize = 10;

/// How many may wait at a backend: for about as long as a request takes.
const ROOM: usize = 10;

/// What a backend works on a request, on average: `exp(σ²/2)` times the median.
const MEDIAN: Duration = Duration::from_millis(48);
const SIGMA: f64 = 0.3;

const BEFORE: Duration = Duration::from_secs(15);
const LONG: Duration = Duration::from_secs(30);
const AFTER: Duration = Duration::from_secs(15);

const BARE: Contender = Contender::Stack("our stack, no retries, no hedges", |stack| {
    stack
        .retry(RetrySettings::new().max_attempts(NonZeroU32::MIN))
        .hedge(None)
});
const RETRIES: Contender = Contender::Stack("our stack, no hedges", |stack| stack.hedge(None));

fn world(seed: u64) -> (Vec<Node>, Feed) {
    let latency = Latency::LogNormal {
        median: MEDIAN,
        sigma: SIGMA,
    };
    let nodes =
        (0..BACKENDS).map(|index| Node::serving(latency, seed, index).capacity(WORKERS, ROOM));
    let nodes: Vec<_> = nodes.collect();
    let feed = Feed::of(&nodes);
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    // Timers round up to the next millisecond, but not the work, which is reckoned exactly.
    let work = MEDIAN.mul_f64((SIGMA * SIGMA / 2.0).exp());
    let capacity = (BACKENDS * WORKERS) as f64 / work.as_secs_f64();
    let phases = [(BEFORE, 0.6), (LONG, 1.2), (AFTER, 0.6)];
    let phases = phases.map(|(length, load)| (length, load * capacity));
    let (from, to, end) = (BEFORE, BEFORE + LONG, BEFORE + LONG + AFTER);
    let mut rows = Vec::new();
    for contender in ALL.iter().chain(&[BARE, RETRIES]) {
        let run = run(*contender, world, &Load::Open(&phases), None, seed);
        let offered = run.between(from, to);
        let received: u64 = run.nodes.iter().map(|node| node.received(from, to)).sum();
        let load = ratio(received, offered.len() as u64);
        let good = run.calls.iter();
        let good = good.filter(|call| call.ok && (from..to).contains(&call.ended()));
        let goodput = good.count() as f64 / LONG.as_secs_f64();
        let usual = mean(&run.between(from - 5 * SEC, from));
        let normal = last_bad(&run.calls, to, end, |calls| {
            fails(calls) || mean(calls) > usual * 1.25
        });
        let failures = percent(failed(&offered), offered.len());
        let [p50, p99] = quantiles(&offered, [0.5, 0.99]);
        let values = vec![load, goodput, failures, p50, p99, normal, usual];
        rows.push((contender.name(), values));
    }
    let value = |of: &str, column: usize| {
        let row = rows.iter().find(|(name, _)| name == of);
        row.map_or(f64::NAN, |row| row.1[column])
    };
    let name = STACK.name();
    let goodput = value(&name, 1) / value(&BARE.name(), 1);
    // Else both could be as bad.
    let plain = value(&name, 1) / value(&Contender::RoundRobin.name(), 1);
    let bars = vec![
        Bar::at_most(
            format!("{name}: load by what is offered"),
            value(&name, 0),
            1.25,
        ),
        Bar::at_least(
            format!("{name}: goodput by that without retries"),
            goodput,
            0.95,
        ),
        Bar::at_least(
            format!("{name}: goodput by that of plain round robin"),
            plain,
            0.95,
        ),
        Bar::at_most(format!("{name}: back to normal, s"), value(&name, 5), 2.0),
    ];
    Report {
        name: "overload",
        about: "10 backends with 10 workers each, 50 ms a request, room for 10 more that wait and a 503 \
                for others; work goes on when its caller gives up. 60 % of their capacity for 15 s, 120 % \
                for 30 s, 60 % for 15 s.",
        columns: &[
            "load by offered",
            "goodput /s",
            "failed %",
            "p50 ms",
            "p99 ms",
            "normal after s",
            "mean before ms",
        ],
        rows,
        bars,
    }
}
