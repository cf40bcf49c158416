//! Ten endpoints of very different speed: the demo of tower's balancer.

use crate::{
    clients::{ALL, Load, run},
    report::{Bar, Report, mean, quantiles},
    sim::{Feed, Latency, MS, Node},
};

/// How long each takes at most, in ms.
const LONGEST: [u32; 10] = [1, 5, 10, 10, 10, 100, 100, 100, 500, 1_000];

fn world(seed: u64) -> (Vec<Node>, Feed) {
    let nodes = LONGEST.iter().enumerate();
    let nodes = nodes.map(|(index, most)| Node::serving(Latency::UpTo(MS * *most), seed, index));
    let nodes: Vec<_> = nodes.collect();
    let feed = Feed::of(&nodes);
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    let mut rows = Vec::new();
    for contender in ALL {
        let run = run(*contender, world, &Load::Closed(50_000, 50), None, seed);
        let [p50, p90, p99, p999] = quantiles(&run.calls, [0.5, 0.9, 0.99, 0.999]);
        let mean = mean(&run.calls);
        let values = vec![mean, p50, p90, p99, p999, run.extra_percent()];
        rows.push((contender.name(), values));
    }
    let p999 = |of: &str| {
        rows.iter()
            .find(|(name, _)| name == of)
            .map_or(f64::NAN, |row| row.1[4])
    };
    let tower = p999("tower p2c peak EWMA");
    let bars = ["our default stack", "our peak-ewma"].map(|name| {
        let what = format!("{name}: p99.9 by that of tower's peak EWMA");
        Bar::at_most(what, p999(name) / tower, 0.8)
    });
    Report {
        name: "ten unequal",
        about: "10 endpoints, uniform up to 1, 5, 10, 10, 10, 100, 100, 100, 500 and 1000 ms; 50,000 \
                requests, 50 at a time.",
        columns: &[
            "mean ms", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "extra %",
        ],
        bars: bars.into(),
        rows,
    }
}
