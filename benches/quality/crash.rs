//! One of five dies without a word, and returns.

use std::time::Duration;

use tower::discover::Change;

use tower_roster::service::retry::RetrySettings;

use crate::{
    clients::{ALL, Contender, Load, run},
    report::{Bar, Report, failed, fails, last_bad, percent, quantiles},
    sim::{Feed, Latency, MS, Mode, Node, SEC},
};

const DIES: Duration = Duration::from_secs(20);
const NOTICED: Duration = Duration::from_secs(35);
const RETURNS: Duration = Duration::from_secs(80);
const END: Duration = Duration::from_secs(110);

/// What callers wait for an answer, and what the second stack waits for an attempt.
const PATIENCE: Duration = Duration::from_secs(1);
const TRY: Duration = Duration::from_millis(250);

const WITH_TRY: Contender = Contender::Stack("our stack, 250 ms per try", |stack| {
    stack.retry(RetrySettings::new().try_timeout(TRY))
});

pub(crate) fn refusing(seed: u64) -> Report {
    report(
        "crash and return, refusing connections",
        Mode::Refuse,
        1.0,
        seed,
    )
}

pub(crate) fn swallowing(seed: u64) -> Report {
    // Where there is no limit for a try, the patience of the caller is that.
    report(
        "crash and return, swallowing everything",
        Mode::Swallow,
        1.0,
        seed,
    )
}

fn world(how: Mode, seed: u64) -> (Vec<Node>, Feed) {
    let usual = Latency::LogNormal {
        median: 20 * MS,
        sigma: 0.3,
    };
    let mut nodes: Vec<_> = (0..5)
        .map(|index| Node::serving(usual, seed, index))
        .collect();
    nodes[0] = Node::serving(usual, seed, 0)
        .then(DIES, how)
        .then(RETURNS, Mode::Serve(usual));
    let feed = Feed::of(&nodes)
        .then(NOTICED, Change::Remove(0))
        .then(RETURNS, Change::Insert(0, nodes[0].clone()));
    (nodes, feed)
}

fn report(name: &'static str, how: Mode, within: f64, seed: u64) -> Report {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for contender in ALL.iter().chain([&WITH_TRY]) {
        let load = Load::Open(&[(END, 1_000.0)]);
        let run = run(
            *contender,
            |seed| world(how, seed),
            &load,
            Some(PATIENCE),
            seed,
        );
        let failures = percent(failed(&run.calls), run.calls.len());
        let recovery = last_bad(&run.calls, DIES, RETURNS, fails);
        let [p99, p999] = quantiles(&run.calls, [0.99, 0.999]);
        let share = run.share(0, RETURNS + 10 * SEC, RETURNS + 20 * SEC);
        // The worst second of ten.
        let worst = |from: Duration| {
            let seconds = (0..10).map(|second| {
                let from = from + SEC * second;
                quantiles(&run.between(from, from + SEC), [0.99])[0]
            });
            seconds.fold(0.0, f64::max)
        };
        let spike = worst(RETURNS) / worst(DIES - 10 * SEC);
        let name = contender.name();
        if let Contender::Stack(_, _) = contender {
            let tried = if name == WITH_TRY.name() {
                TRY
            } else {
                PATIENCE
            };
            let within = match how {
                Mode::Swallow => within + tried.as_secs_f64(),
                _ => within,
            };
            let what = |what: &str| format!("{name}: {what}");
            bars.push(Bar::at_most(what("failed, %"), failures, 0.01));
            bars.push(Bar::at_most(what("recovery, s"), recovery, within));
            let full = what("share of the returned one from 10 s on, by a fifth");
            bars.push(Bar::at_least(full, share / 20.0, 0.9));
            let calm = what("worst p99 of a second after the return, by before the crash");
            bars.push(Bar::at_most(calm, spike, 1.25));
        }
        let extra = run.extra_percent();
        rows.push((
            name,
            vec![failures, recovery, p99, p999, share, spike, extra],
        ));
    }
    Report {
        name,
        about: "5 backends, 1,000 requests a second for 110 s, log-normal latency with median 20 ms and \
                sigma 0.3; callers wait 1 s. One dies at 20 s, the registry notices at 35 s, and it \
                returns at 80 s.",
        columns: &[
            "failed %",
            "recovery s",
            "p99 ms",
            "p99.9 ms",
            "share 10 s after its return %",
            "worst p99 then by before",
            "extra %",
        ],
        rows,
        bars,
    }
}
