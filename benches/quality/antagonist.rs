//! Neighbours take half of what some servers can do, and move on.

use std::time::Duration;

use rand::{SeedableRng, rngs::SmallRng, seq::index::sample};

use crate::{
    clients::Contender,
    fleet::{ALL, SERVERS, WARM, WORK, every, run, servers},
    report::{Bar, Report, failed, percent, quantiles},
    sim::{Feed, Latency, Mode, Node},
};

const UTILISATION: f64 = 0.75;
const END: Duration = Duration::from_secs(60);

/// How many are slow at a time, and for how long.
const SLOW: usize = 3;
const STAY: Duration = Duration::from_secs(5);

fn world(seed: u64) -> (Vec<Node>, Feed) {
    let mut nodes = servers(seed);
    let mut rng = SmallRng::seed_from_u64(!seed);
    let mut slow = Vec::new();
    for at in every(STAY, Duration::ZERO, END) {
        let next = sample(&mut rng, SERVERS, SLOW).into_vec();
        for (index, node) in nodes.iter_mut().enumerate() {
            let mean = match (slow.contains(&index), next.contains(&index)) {
                (false, true) => 2 * WORK,
                (true, false) => WORK,
                _ => continue,
            };
            let mode = Mode::Serve(Latency::Exponential(mean));
            *node = node.clone().then(at, mode);
        }
        slow = next;
    }
    let feed = Feed::of(&nodes);
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    let mut rows = Vec::new();
    for contender in ALL {
        let run = run(*contender, world, UTILISATION, END, seed);
        let calls = run.between(WARM, END);
        let [p50, p99, p999] = quantiles(&calls, [0.5, 0.99, 0.999]);
        let failed = percent(failed(&calls), calls.len());
        rows.push((contender.name(), vec![failed, p50, p99, p999]));
    }
    let policies = ALL
        .iter()
        .zip(&rows)
        .filter(|(contender, _)| matches!(contender, Contender::Policy(_)));
    let best = policies.min_by(|(_, one), (_, other)| one.1[2].total_cmp(&other.1[2]));
    let oracle = ALL
        .iter()
        .zip(&rows)
        .find(|(contender, _)| matches!(contender, Contender::Oracle));
    let bars = best.zip(oracle).map(|((_, best), (_, oracle))| {
        let what = format!(
            "{}, the best of our policies: p99 by that of the oracle",
            best.0
        );
        Bar::at_most(what, best.1[2] / oracle.1[2], 1.2)
    });
    Report {
        name: "antagonist",
        about: "100 clients, 10 servers of 8 workers, exponential work of 20 ms, 75 % of what they can bear; \
                three are half as fast, others every 5 s.",
        columns: &["failed %", "p50 ms", "p99 ms", "p99.9 ms"],
        rows,
        bars: bars.into_iter().collect(),
    }
}
