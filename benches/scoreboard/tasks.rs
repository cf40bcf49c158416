//! Many tasks on two threads, and one balancer.

use std::{fmt::Debug, time::Instant};

use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tower::{Service, ServiceExt, buffer::Buffer, discover::ServiceList, load::Load};
use tower_roster::{
    BoxError,
    balance::{BalanceLayer, policy::P2c},
};

use super::{
    measure::{Contender, Effort, Noop, Samples, interleave, threads},
    picks::{ewma, pending},
    report::{Bar, Row},
};

const TASKS: u32 = 64;
const SIZE: usize = 10;

/// Requests a second, each through a clone of its own.
fn rate<S>(runtime: &Runtime, service: &S, requests: u32) -> f64
where
    S: Service<u64> + Clone + Send + 'static,
    S::Error: Debug + Send,
    S::Response: Send,
    S::Future: Send,
{
    let each = (requests / TASKS).max(1);
    let started = Instant::now();
    let tasks = (0..TASKS).map(|_| {
        let service = service.clone();
        runtime.spawn(async move {
            for n in 0..each {
                let mut clone = service.clone();
                let ready = clone.ready().await.expect("endpoints");
                ready.call(n.into()).await.expect("an answer");
            }
        })
    });
    let tasks = tasks.collect::<Vec<_>>();
    for end in runtime.block_on(join_all(tasks)) {
        end.expect("no panic");
    }
    f64::from(each * TASKS) / started.elapsed().as_secs_f64()
}

/// tower's balancer in a `Buffer`, as its documentation has it for more than one caller.
fn buffered<S>(
    make: fn(usize) -> S,
) -> impl Service<u64, Error = BoxError, Response: Send, Future: Send> + Clone + Send + 'static
where
    S: Service<u64, Response: Send, Error: Into<BoxError>, Future: Send> + Load + Send + 'static,
    S::Metric: Debug,
{
    let services = ServiceList::new((0..SIZE).map(make).collect::<Vec<_>>());
    Buffer::new(tower::balance::p2c::Balance::new(services), 1_024)
}

pub fn run(effort: Effort) -> Vec<Row> {
    let runtime = threads(2);
    let contenders = runtime.block_on(async {
        let list = || ServiceList::new(vec![Noop; SIZE]);
        let layer = BalanceLayer::builder().policy(P2c::in_flight());
        let mut in_flight = layer.build().expect("in range").balance_plain(list());
        in_flight.ready().await.expect("endpoints");
        let mut estimates = BalanceLayer::new().balance_plain(list());
        estimates.ready().await.expect("endpoints");
        let their_in_flight = buffered(pending);
        let their_ewma = buffered(ewma);
        // Their types differ, and they are only called.
        let runtime = &runtime;
        let (few, many) = (effort.requests, 10 * effort.requests);
        let contenders: [Contender<'_>; 4] = [
            Box::new(move || rate(runtime, &in_flight, many)),
            Box::new(move || rate(runtime, &their_in_flight, few)),
            Box::new(move || rate(runtime, &estimates, many)),
            Box::new(move || rate(runtime, &their_ewma, few)),
        ];
        contenders
    });
    let samples = interleave(effort.rounds, contenders.into());
    let pairs = ["in flight", "peak EWMA"]
        .into_iter()
        .zip(samples.chunks(2));
    let row = |(what, pair): (&str, &[Samples])| {
        Row::new(format!("64 tasks, 2 threads, p2c, {what}"), "/s", &pair[0])
            .against("Buffer<tower p2c>", &pair[1])
            .bar(Bar::AtLeast(20.0))
    };
    pairs.map(row).collect()
}
