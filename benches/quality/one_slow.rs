//! One of eleven answers in 2 s for a while.

use std::time::Duration;

use crate::{
    clients::{ALL, Load, run},
    report::{Bar, Report, percent, quantiles},
    sim::{Feed, Latency, Mode, Node, SEC},
};

const FROM: Duration = Duration::from_secs(15);
const TO: Duration = Duration::from_secs(45);
const USUAL: Latency = Latency::LogNormal {
    median: Duration::from_millis(167),
    sigma: 0.3,
};

fn world(seed: u64) -> (Vec<Node>, Feed) {
    let mut nodes: Vec<_> = (0..11)
        .map(|index| Node::serving(USUAL, seed, index))
        .collect();
    let slow = nodes.remove(0);
    let slow = slow.then(FROM, Mode::Serve(Latency::Fixed(2 * SEC)));
    nodes.insert(0, slow.then(TO, Mode::Serve(USUAL)));
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
            &Load::Open(&[(60 * SEC, 1_000.0)]),
            None,
            seed,
        );
        let good = run.calls.iter().filter(|call| call.ok && call.took <= SEC);
        let success = percent(good.count(), run.calls.len());
        let [p50, p99, p999] = quantiles(&run.calls, [0.5, 0.99, 0.999]);
        let share = run.share(0, FROM, TO);
        // Before its first slow answer, and with what that says.
        let unaware = run.nodes[0].received(FROM, FROM + 2 * SEC) as f64;
        let aware = run.nodes[0].received(FROM + 2 * SEC, TO) as f64;
        let name = contender.name();
        let bar = match &*name {
            "our default stack" => Some(99.99),
            "our peak-ewma" => Some(99.9),
            _ => None,
        };
        let bar = bar.map(|bar| Bar::at_least(format!("{name}: success, %"), success, bar));
        bars.extend(bar);
        rows.push((
            name,
            vec![
                success,
                p50,
                p99,
                p999,
                share,
                unaware,
                aware,
                run.extra_percent(),
            ],
        ));
    }
    Report {
        name: "one slow of eleven",
        about: "11 backends, 1,000 requests a second for 60 s, log-normal latency with median 167 ms and \
                sigma 0.3; in the middle 30 s one answers in 2 s. Success is an answer within 1 s.",
        columns: &[
            "success %",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "slow one's share %",
            "its requests in the first 2 s",
            "after them",
            "extra %",
        ],
        rows,
        bars,
    }
}
