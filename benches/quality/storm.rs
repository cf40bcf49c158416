//! A registry that lists and delists servers again and again.

use std::time::Duration;

use tower::discover::Change;

use crate::{
    clients::Contender,
    fleet::{ALL, END, SERVERS, WARM, every, run, servers},
    report::{Bar, Report, failed, percent, quantiles},
    sim::{Feed, Node},
};

const UTILISATION: f64 = 0.7;

/// How often a server is delisted, and for how long.
const PERIOD: Duration = Duration::from_millis(250);
const AWAY: Duration = Duration::from_millis(200);

const FROM: Duration = Duration::from_secs(5);

fn calm(seed: u64) -> (Vec<Node>, Feed) {
    let nodes = servers(seed);
    let feed = Feed::of(&nodes);
    (nodes, feed)
}

/// One server after the other.
fn in_turn(seed: u64) -> (Vec<Node>, Feed) {
    storm(seed, |turn| turn % SERVERS)
}

fn always_the_first(seed: u64) -> (Vec<Node>, Feed) {
    storm(seed, |_| 0)
}

fn storm(seed: u64, whose: fn(usize) -> usize) -> (Vec<Node>, Feed) {
    let (nodes, mut feed) = calm(seed);
    for (turn, at) in every(PERIOD, FROM, END).enumerate() {
        let server = whose(turn);
        feed = feed
            .then(at, Change::Remove(server))
            .then(at + AWAY, Change::Insert(server, nodes[server].clone()));
    }
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for contender in ALL {
        let of = |world: fn(u64) -> (Vec<Node>, Feed)| {
            let run = run(*contender, world, UTILISATION, END, seed);
            let calls = run.between(WARM, END);
            let [p99] = quantiles(&calls, [0.99]);
            (p99, percent(failed(&calls), calls.len()), run)
        };
        let (before, _, _) = of(calm);
        let (all, failed_of_all, _) = of(in_turn);
        let (one, failed_of_one, run) = of(always_the_first);
        // What it got of what was its due while it was listed.
        let listed = 1.0 - AWAY.as_secs_f64() / PERIOD.as_secs_f64();
        let due = listed * 100.0 / SERVERS as f64;
        let share = run.share(0, WARM, END) / due;
        let name = contender.name();
        if let Contender::Stack(_, _) = contender {
            let what = |what: &str| format!("{name}: {what}");
            bars.push(Bar::at_most(
                what("all in turn, p99 by that of no storm"),
                all / before,
                1.1,
            ));
            bars.push(Bar::at_most(
                what("always the same, p99 by that of no storm"),
                one / before,
                1.1,
            ));
            bars.push(Bar::at_most(
                what("failed, %"),
                failed_of_all + failed_of_one,
                0.0,
            ));
            bars.push(Bar::at_least(
                what("what the one got, by its due"),
                share,
                0.9,
            ));
        }
        rows.push((
            name,
            vec![before, all, all / before, one, one / before, share],
        ));
    }
    Report {
        name: "storm",
        about: "100 clients, 10 servers of 8 workers, exponential work of 20 ms, 70 % of what they can bear; \
                one is delisted for 200 of every 250 ms: each in turn, or always the same, which is due a \
                fifth of what the others get.",
        columns: &[
            "p99 of no storm ms",
            "each in turn: p99 ms",
            "each in turn: by no storm",
            "always the same: p99 ms",
            "always the same: by no storm",
            "what it got by its due",
        ],
        rows,
        bars,
    }
}
