//! What the scenarios of many clients share: a service that is sized for its load, and who uses it.

use std::time::Duration;

use crate::{
    clients::{Contender, Load, Run, STACK, run_many},
    sim::{Abandoned, Feed, Latency, Node, SEC},
};

pub(crate) const CLIENTS: u64 = 100;
pub(crate) const SERVERS: usize = 10;
const WORKERS: usize = 8;

/// The mean time that a worker takes for a request.
pub(crate) const WORK: Duration = Duration::from_millis(20);

/// How long callers wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Queues and estimates have become what they stay by then.
pub(crate) const WARM: Duration = Duration::from_secs(10);

pub(crate) const UNHEDGED: Contender =
    Contender::Stack("our stack, no hedges", |stack| stack.hedge(None));

/// All that work without knowledge of servers beyond a client's own requests, and the oracle.
pub(crate) const ALL: &[Contender] = &[
    Contender::RoundRobin,
    Contender::TowerPending,
    Contender::TowerPeakEwma,
    Contender::Policy("round-robin"),
    Contender::Policy("weighted-round-robin"),
    Contender::Policy("random"),
    Contender::Policy("least-requests"),
    Contender::Policy("p2c"),
    Contender::Policy("peak-ewma"),
    Contender::Policy("least-load"),
    Contender::Policy("response-time"),
    UNHEDGED,
    STACK,
    Contender::Oracle,
];

/// A server that finishes what callers have given up, as most do.
pub(crate) fn server(seed: u64, index: usize) -> Node {
    let usual = Latency::Exponential(WORK);
    Node::serving(usual, seed, index).workers(WORKERS, Abandoned::Finished)
}

/// The servers that the service begins with.
pub(crate) fn servers(seed: u64) -> Vec<Node> {
    (0..SERVERS).map(|index| server(seed, index)).collect()
}

/// Runs all clients for so long, at so much of what all servers can bear.
pub(crate) fn run(
    contender: Contender,
    world: impl FnOnce(u64) -> (Vec<Node>, Feed),
    utilisation: f64,
    length: Duration,
    seed: u64,
) -> Run {
    let capacity = (SERVERS * WORKERS) as f64 / WORK.as_secs_f64();
    let load = Load::Open(&[(length, capacity * utilisation)]);
    run_many(contender, CLIENTS, world, &load, Some(PATIENCE), seed)
}

/// Times from one to another in equal steps.
pub(crate) fn every(
    step: Duration,
    from: Duration,
    to: Duration,
) -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(from), move |at| Some(*at + step)).take_while(move |at| *at < to)
}

/// The end of most scenarios: long enough for a 99th percentile that a seed does not move much.
pub(crate) const END: Duration = SEC.saturating_mul(40);
