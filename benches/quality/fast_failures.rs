//! One of ten fails at once, and so looks like the fastest.

use std::time::Duration;

use crate::{
    clients::{ALL, Load, run},
    report::{Bar, Report, failed, percent, quantiles},
    sim::{Feed, Latency, MS, Mode, Node, SEC},
};

fn world(seed: u64) -> (Vec<Node>, Feed) {
    let usual = Latency::Fixed(50 * MS);
    let node = |index| Node::serving(usual, seed, index);
    let mut nodes: Vec<_> = (0..10).map(node).collect();
    let failing = Mode::Fail {
        share: 1.0,
        after: MS,
        others: usual,
    };
    nodes[0] = node(0).then(Duration::ZERO, failing);
    let feed = Feed::of(&nodes);
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for contender in ALL {
        let run = run(
            *contender,
            world,
            &Load::Open(&[(30 * SEC, 1_000.0)]),
            None,
            seed,
        );
        let failed = percent(failed(&run.calls), run.calls.len());
        let [p50, p99, p999] = quantiles(&run.calls, [0.5, 0.99, 0.999]);
        let (first, later) = (
            run.share(0, Duration::ZERO, SEC),
            run.share(0, SEC, 30 * SEC),
        );
        let name = contender.name();
        if name == "our default stack" {
            bars.push(Bar::at_most(format!("{name}: failed, %"), failed, 0.1));
            let what = format!("{name}: share of the failing one after the first second, %");
            bars.push(Bar::at_most(what, later, 1.0));
        }
        let extra = run.extra_percent();
        rows.push((name, vec![failed, first, later, p50, p99, p999, extra]));
    }
    Report {
        name: "fast failures",
        about: "10 backends, 1,000 requests a second for 30 s; one answers 503 in 1 ms, the others 200 in \
                50 ms.",
        columns: &[
            "failed %",
            "share of the failing one in the first second %",
            "after it %",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "extra %",
        ],
        rows,
        bars,
    }
}
