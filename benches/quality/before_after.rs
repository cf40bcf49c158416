//! A bad day: some slow, one failing, and a rolling deploy.

use std::time::Duration;

use tower::discover::Change;

use crate::{
    clients::{ALL, Load, run},
    report::{Bar, Report, failed, mean, percent, quantiles},
    sim::{Feed, Latency, MS, Mode, Node},
};

const END: Duration = Duration::from_secs(120);

/// One after the other is stopped; the registry hears of it a moment later, and of its return when it
/// is there.
const FIRST: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(10);
const HEARD: Duration = Duration::from_millis(400);
const DOWN: Duration = Duration::from_secs(5);

fn latency(times: f64) -> Latency {
    Latency::LogNormal {
        median: (130 * MS).mul_f64(times),
        sigma: 0.3,
    }
}

fn world(seed: u64) -> (Vec<Node>, Feed) {
    let does = |index| match index {
        3 | 7 => Mode::Serve(latency(10.0)),
        5 => Mode::Fail {
            share: 0.2,
            after: 20 * MS,
            others: latency(1.0),
        },
        _ => Mode::Serve(latency(1.0)),
    };
    let stops = |index| FIRST + EVERY * index as u32;
    let nodes = (0..10).map(|index| {
        Node::serving(latency(1.0), seed, index)
            .then(Duration::ZERO, does(index))
            .then(stops(index), Mode::Refuse)
            .then(stops(index) + DOWN, does(index))
    });
    let nodes: Vec<_> = nodes.collect();
    let feed = nodes
        .iter()
        .enumerate()
        .fold(Feed::of(&nodes), |feed, (index, node)| {
            feed.then(stops(index) + HEARD, Change::Remove(index))
                .then(stops(index) + DOWN, Change::Insert(index, node.clone()))
        });
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    let mut rows = Vec::new();
    for contender in ALL {
        let run = run(*contender, world, &Load::Open(&[(END, 500.0)]), None, seed);
        let failures = percent(failed(&run.calls), run.calls.len());
        let [p50, p99, p999] = quantiles(&run.calls, [0.5, 0.99, 0.999]);
        let values = vec![
            mean(&run.calls),
            failures,
            p50,
            p99,
            p999,
            run.extra_percent(),
        ];
        rows.push((contender.name(), values));
    }
    let value = |of: &str, column: usize| {
        let row = rows.iter().find(|(name, _)| name == of);
        row.map_or(f64::NAN, |row| row.1[column])
    };
    let better = |column| {
        let [before, after] =
            ["plain round robin", "our default stack"].map(|name| value(name, column));
        // None at all is better than any ratio says.
        before / after
    };
    let bars = vec![
        Bar::at_least(
            "mean latency, plain round robin by our default stack",
            better(0),
            2.6,
        ),
        Bar::at_least(
            "error ratio, plain round robin by our default stack",
            better(1),
            5.75,
        ),
    ];
    Report {
        name: "before and after",
        about: "10 backends, 500 requests a second for 120 s, log-normal latency with median 130 ms and \
                sigma 0.3; two take ten times as long, one fails 20 %, and from 10 s on one is restarted \
                every 10 s: down for 5 s, which the registry hears of after 0.4 s.",
        columns: &[
            "mean ms", "failed %", "p50 ms", "p99 ms", "p99.9 ms", "extra %",
        ],
        rows,
        bars,
    }
}
