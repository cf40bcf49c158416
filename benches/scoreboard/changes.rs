//! What a change of the set costs, and whom.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use tokio::{runtime::Runtime, sync::mpsc, time::interval};
use tower::{ServiceExt, discover::Change};
use tower_roster::{
    balance::{
        Balance, BalanceBuilder, BalanceLayer,
        policy::{Candidate, DefaultPolicy, Policy, RingHash},
    },
    instance::Key,
};

use super::{
    cluster::{self, Said},
    measure::{Effort, Noop, Samples, cpu_time, here, interleave, one, threads},
    report::{Bar, Row},
};

const SIZE: usize = 10_000;

/// A policy that counts the snapshots it prepares for.
#[derive(Default)]
struct Counted<P> {
    policy: P,
    snapshots: Arc<AtomicU64>,
}

impl<P: Policy> Policy for Counted<P> {
    type Load = P::Load;
    type Picker = P::Picker;

    fn tracker(&self) -> P::Load {
        self.policy.tracker()
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> P::Picker {
        self.snapshots.fetch_add(1, Relaxed);
        self.policy.prepare(candidates, rng)
    }

    fn is_costly(&self, candidates: usize) -> bool {
        self.policy.is_costly(candidates)
    }
}

type Tell = mpsc::UnboundedSender<Said>;

async fn filled<P: Policy>(layer: BalanceBuilder<P>) -> (Tell, Balance<Noop, P>) {
    let (tell, discover) = cluster::told();
    let mut balance = layer.build().expect("in range").balance(discover);
    for index in 0..SIZE {
        let _ = tell.send(cluster::inserted(cluster::endpoint(index, 1)));
    }
    let handle = balance.handle();
    let filled = handle.wait_for(|status| status.usable == SIZE).await;
    filled.expect("a balancer");
    balance.ready().await.expect("endpoints");
    (tell, balance)
}

fn key(index: usize) -> Key {
    Key::new(format!("web-{index:05}"), "")
}

/// One change at a time, from discovery's word to the status. All in this thread, so the time that it
/// runs is what one core gives.
pub fn one_change(effort: Effort) -> Vec<Row> {
    here().block_on(async {
        let (tell, balance) = filled(BalanceLayer::builder()).await;
        let handle = balance.handle();
        let mut figures = [const { Vec::new() }; 4];
        for index in 0..10 * effort.rounds {
            let index = index % SIZE;
            let insert = || cluster::inserted(cluster::endpoint(index, 1));
            for (at, left) in [(0, SIZE - 1), (2, SIZE)] {
                let change = if at == 0 {
                    Change::Remove(key(index))
                } else {
                    insert()
                };
                let (started, cpu) = (Instant::now(), cpu_time());
                let _ = tell.send(change);
                let visible = handle.wait_for(|status| status.usable == left).await;
                visible.expect("a balancer");
                // What the driver does after it told counts, too.
                tokio::task::yield_now().await;
                figures[at].push((cpu_time() - cpu).as_secs_f64() * 1e6);
                figures[at + 1].push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        let figures = figures.map(Samples);
        let names = [
            "one removed of 10,000, time of one core",
            "one removed of 10,000, until visible",
            "one added to 10,000, time of one core",
            "one added to 10,000, until visible",
        ];
        let row = |(name, figure)| Row::new(name, "µs", figure).bar(Bar::Limit(500.0));
        names.into_iter().zip(&figures).map(row).collect()
    })
}

/// A thousand changes at once.
pub fn burst(effort: Effort) -> Vec<Row> {
    const BURST: usize = 1_000;
    here().block_on(async {
        let policy = Counted::<DefaultPolicy>::default();
        let counter = Arc::clone(&policy.snapshots);
        let (tell, balance) = filled(BalanceLayer::builder().policy(policy)).await;
        let handle = balance.handle();
        let (mut snapshots, mut times) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let before = counter.load(Relaxed);
            for index in 0..BURST {
                let _ = tell.send(Change::Remove(key(index)));
            }
            let cpu = cpu_time();
            let left = SIZE - BURST;
            let visible = handle.wait_for(|status| status.usable == left).await;
            visible.expect("a balancer");
            snapshots.push((counter.load(Relaxed) - before) as f64);
            times.push((cpu_time() - cpu).as_secs_f64() * 1e6);
            for index in 0..BURST {
                let _ = tell.send(cluster::inserted(cluster::endpoint(index, 1)));
            }
            let visible = handle.wait_for(|status| status.usable == SIZE).await;
            visible.expect("a balancer");
        }
        vec![
            Row::new(
                "1,000 removed of 10,000 at once, snapshots",
                "",
                &Samples(snapshots),
            )
            .bar(Bar::Limit(10.0)),
            Row::new(
                "1,000 removed of 10,000 at once, time of one core",
                "µs",
                &Samples(times),
            ),
        ]
    })
}

/// The latency that all but one in a thousand picks keep below, with each pick timed.
fn tail<P: Policy>(balance: &mut Balance<Noop, P>, time: Duration) -> f64 {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut latencies = Histogram::<u64>::new(3).expect("a histogram");
    let end = Instant::now() + time;
    let mut now = Instant::now();
    while now < end {
        one(balance, 1, cx);
        let after = Instant::now();
        let _ = latencies.record((after - now).as_nanos() as u64);
        // Not the time before, as the histogram took some.
        now = Instant::now();
    }
    latencies.value_at_quantile(0.999) as f64
}

/// Removes one and adds it again, at this pace, while it may.
async fn change(tell: Tell, go: Arc<AtomicBool>, pace: Duration) {
    let mut ticks = interval(pace);
    for tick in 0.. {
        ticks.tick().await;
        if !go.load(Relaxed) {
            continue;
        }
        let index = tick / 2 % SIZE;
        let change = if tick % 2 == 0 {
            Change::Remove(key(index))
        } else {
            cluster::inserted(cluster::endpoint(index, 1))
        };
        if tell.send(change).is_err() {
            return;
        }
    }
}

fn tails<P: Policy>(
    runtime: &Runtime,
    policy: fn() -> P,
    pace: Duration,
    effort: Effort,
) -> [Samples; 2] {
    let layer = || BalanceLayer::builder().policy(policy());
    let (_quiet_tell, mut quiet) = runtime.block_on(filled(layer()));
    let (tell, mut changing) = runtime.block_on(filled(layer()));
    let go = Arc::new(AtomicBool::new(false));
    runtime.spawn(change(tell, Arc::clone(&go), pace));
    let time = 2 * effort.time;
    let samples = interleave(
        effort.rounds,
        vec![
            Box::new(|| {
                go.store(true, Relaxed);
                let tail = tail(&mut changing, time);
                go.store(false, Relaxed);
                tail
            }),
            Box::new(|| tail(&mut quiet, time)),
        ],
    );
    samples.try_into().expect("two")
}

/// Picks in this thread, while the driver works in another.
pub fn picks_meanwhile(effort: Effort) -> Vec<Row> {
    let runtime = threads(1);
    let pace = Duration::from_millis(10);
    let [changing, quiet] = tails(&runtime, DefaultPolicy::default, pace, effort);
    let pace = Duration::from_millis(50);
    let [building, still] = tails(&runtime, RingHash::new, pace, effort);
    vec![
        Row::new(
            "p99.9 of a pick of 10,000, 100 changes a second",
            "ns",
            &changing,
        )
        .against("quiet", &quiet)
        .bar(Bar::AtMost(3.0)),
        Row::new(
            "p99.9 of a pick of 10,000, while rings are built",
            "ns",
            &building,
        )
        .against("quiet", &still)
        .bar(Bar::AtMost(3.0)),
    ]
}
