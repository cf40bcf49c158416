//! Many tasks on two threads, and one balancer.

use std::{fmt::Debug, time::Instant};

use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tower::{
    Service, ServiceExt,
    buffer::Buffer,
    discover::ServiceList,
    load::{CompleteOnResponse, PendingRequests},
};
use tower_roster::balance::{BalanceLayer, policy::P2c};

use super::{
    measure::{Effort, Noop, interleave, threads},
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

pub fn run(effort: Effort) -> Vec<Row> {
    let runtime = threads(2);
    let [ours, default, theirs] = runtime.block_on(async {
        let list = || ServiceList::new(vec![Noop; SIZE]);
        let layer = BalanceLayer::new().policy(P2c::in_flight());
        let mut ours = layer.balance_plain(list());
        ours.ready().await.expect("endpoints");
        let mut default = BalanceLayer::new().balance_plain(list());
        default.ready().await.expect("endpoints");
        let pending = |_| PendingRequests::new(Noop, CompleteOnResponse::default());
        let pending = ServiceList::new((0..SIZE).map(pending).collect::<Vec<_>>());
        let theirs = Buffer::new(tower::balance::p2c::Balance::new(pending), 1_024);
        // Their types differ, and they are only called.
        let runtime = &runtime;
        let (few, many) = (effort.requests, 10 * effort.requests);
        let contenders: [super::measure::Contender<'_>; 3] = [
            Box::new(move || rate(runtime, &ours, many)),
            Box::new(move || rate(runtime, &default, many)),
            Box::new(move || rate(runtime, &theirs, few)),
        ];
        contenders
    });
    let samples = interleave(effort.rounds, vec![ours, default, theirs]);
    let row = |what: &str, at: usize| {
        Row::new(format!("64 tasks, 2 threads, {what}"), "/s", &samples[at])
            .against("Buffer<tower p2c>", &samples[2])
            .bar(Bar::AtLeast(20.0))
    };
    vec![row("p2c, in flight", 0), row("p2c, peak EWMA", 1)]
}
