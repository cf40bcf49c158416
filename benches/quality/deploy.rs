//! All servers are replaced, one after the other.

use std::time::Duration;

use tower::discover::Change;

use crate::{
    clients::{Contender, STACK},
    fleet::{SERVERS, UNHEDGED, WORK, every, run, server, servers},
    report::{Bar, Report, failed, percent, quantiles},
    sim::{Feed, Latency, Mode, Node, SEC},
};

const FROM: Duration = Duration::from_secs(8);

/// From one server to the next: the new one has had its slow start by then.
const STEP: Duration = Duration::from_secs(6);

const END: Duration = Duration::from_secs(75);

/// How long the old one and the new one are both there, or neither.
const BETWEEN: Duration = SEC;

/// How one takes the other's place.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// The new one is listed before the old one leaves, as rolling updates do. Nothing is missing.
    NewFirst,
    /// The same, and the new one is half as fast at first.
    NewFirstCold,
    /// The old one leaves first: all have to do with one server less, and slow start on top.
    OldFirst,
}

/// How long a new process takes twice as long for everything, in the worlds where it does.
const COLD: Duration = Duration::from_secs(2);

const CONTENDERS: &[Contender] = &[
    Contender::RoundRobin,
    Contender::TowerPeakEwma,
    Contender::Policy("peak-ewma"),
    Contender::Policy("least-load"),
    UNHEDGED,
    STACK,
    Contender::Oracle,
];

fn calm(seed: u64) -> (Vec<Node>, Feed) {
    let nodes = servers(seed);
    let feed = Feed::of(&nodes);
    (nodes, feed)
}

fn deploy(order: Order, seed: u64) -> (Vec<Node>, Feed) {
    let (mut nodes, mut feed) = calm(seed);
    for (old, at) in every(STEP, FROM, END).enumerate().take(SERVERS) {
        let new = SERVERS + old;
        let (comes, goes) = match order {
            Order::OldFirst => (at + BETWEEN, at),
            _ => (at, at + BETWEEN),
        };
        let mut node = server(seed, new);
        if order == Order::NewFirstCold {
            node = node
                .then(comes, Mode::Serve(Latency::Exponential(2 * WORK)))
                .then(comes + COLD, Mode::Serve(Latency::Exponential(WORK)));
        }
        let come = (comes, Change::Insert(new, node.clone()));
        let go = (goes, Change::Remove(old));
        let changes = if comes < goes { [come, go] } else { [go, come] };
        for (at, change) in changes {
            feed = feed.then(at, change);
        }
        nodes.push(node);
    }
    (nodes, feed)
}

pub(crate) fn report(seed: u64) -> Report {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for utilisation in [0.8, 0.9] {
        let mut unhedged = f64::NAN;
        for contender in CONTENDERS {
            let of = |world: &dyn Fn(u64) -> (Vec<Node>, Feed)| {
                let run = run(*contender, world, utilisation, END, seed);
                let calls = run.between(FROM, END);
                let [p99] = quantiles(&calls, [0.99]);
                (p99, percent(failed(&calls), calls.len()))
            };
            let (before, _) = of(&calm);
            let deployed = [Order::NewFirst, Order::NewFirstCold, Order::OldFirst]
                .map(|order| of(&|seed| deploy(order, seed)));
            let [(p99, _), (cold, _), (less, _)] = deployed;
            let failed = deployed.iter().map(|(_, failed)| failed).sum();
            let name = format!("{utilisation}, {}", contender.name());
            if let Contender::Stack(_, _) = contender {
                let what = format!("{name}: failed, %");
                bars.push(Bar::at_most(what, failed, 0.0));
            }
            if contender.name() == UNHEDGED.name() {
                unhedged = p99;
                // While one of ten has half of its share on average, the others are at 0.95 instead of 0.9.
                let what = format!("{name}: p99 by that of no deploy");
                bars.push(Bar::at_most(what, p99 / before, 1.15));
            }
            if contender.name() == STACK.name() {
                let what = format!("{name}: p99 by that without hedges");
                bars.push(Bar::at_most(what, p99 / unhedged, 1.1));
            }
            rows.push((name, vec![before, p99, p99 / before, cold, less, failed]));
        }
    }
    Report {
        name: "deploy",
        about: "100 clients, 10 servers of 8 workers, exponential work of 20 ms; each server is replaced, one \
                every 6 s, by one that is listed 1 s before the old one leaves. Cold: it is half as fast \
                for 2 s. One less: it comes 1 s after the old one has left.",
        columns: &[
            "p99 of no deploy ms",
            "p99 ms",
            "by no deploy",
            "cold: p99 ms",
            "one less: p99 ms",
            "failed %",
        ],
        rows,
        bars,
    }
}
