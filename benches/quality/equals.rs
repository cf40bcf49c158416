//! Equal servers must get equal shares.
//!
//! A grid of cells: how many servers, how many requests a second, how long a request takes and how much that
//! varies, what the first request on a connection pays, and whether one answer in a thousand is late.
//! Of each window of 10 s, the share of the server that got most, over the mean share; a cell's figure is
//! the mean over its windows. Even an ideal balancer has more than 1 there, as requests come
//! at random. So the measure is what p2c by requests in flight, which measures no latency, makes of the very
//! same requests, and the bars are for the quotient.
//!
//! The servers have no limit, so a run is played request by request on a [`Trial`], with times of its own,
//! exact to the nanosecond. Each run begins with servers that nobody has asked before, and lasts
//! three windows; a slow cell has many runs, so that each has the same number of requests, about.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;
use tower::{
    ServiceExt,
    balance::p2c,
    load::{CompleteOnResponse, PeakEwmaDiscover},
    util::BoxService,
};
use tower_roster::{
    balance::policy::{self, AnyPolicy, Draw, Trial},
    classify::Outcome,
    client::Stack,
};

use crate::{
    clients::Seeded,
    exact::{self, Client, Servers},
    report::{Bar, Report},
    sim::Statuses,
};

const WINDOW: f64 = 10.0;
const WINDOWS: usize = 3;

/// Requests of a cell: so many that chance moves its figure by less than 0.01.
const REQUESTS: f64 = 40_000.0;

/// What chance is taken to be.
const CHANCE: &str = "p2c";

/// Those that measure latency, and one that has no need to.
const POLICIES: [&str; 3] = ["peak-ewma", "response-time", "round-robin"];

const TOWER: &str = "tower p2c peak EWMA";

/// Whole clients, which take a hundred times longer, play one in so many of the cells.
const SOME: usize = 7;

#[derive(Clone, Copy)]
enum Whole {
    /// The default stack.
    Stack,
    /// tower's balancer.
    Tower,
}

/// Times in seconds.
#[derive(Clone, Copy, Debug)]
struct Cell {
    servers: usize,
    rate: f64,
    latency: f64,
    /// Of the logarithm of the latency.
    sigma: f64,
    /// What a connection costs at most, from 1 ms on; 0 for nothing.
    connect: f64,
    /// What one in a thousand takes longer.
    spike: f64,
}

/// All servers, rates and latencies, and in turn what comes on top.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for servers in [2, 3, 5, 10] {
        for rate in [10.0, 100.0, 1_000.0, 10_000.0] {
            for latency in [0.000_3, 0.005, 0.050] {
                for sigma in [0.0, 0.3, 1.0] {
                    let turn = cells.len() * 5 + cells.len() / 6;
                    cells.push(Cell {
                        servers,
                        rate,
                        latency,
                        sigma,
                        connect: [0.0, 0.003, 0.030][turn % 3],
                        spike: [0.0, 0.005][turn / 3 % 2],
                    });
                }
            }
        }
    }
    cells
}

/// What comes next, from one generator for all policies: the n-th request of a run is the same for each.
struct Requests {
    rng: SmallRng,
    cell: Cell,
    at: f64,
}

struct Request {
    at: f64,
    takes: f64,
    /// What it takes longer when it has to connect.
    connect: f64,
}

impl Requests {
    fn new(cell: Cell, seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            cell,
            at: 0.0,
        }
    }

    fn next(&mut self) -> Request {
        let [pause, radius, angle, spike, connect] = [(); 5].map(|()| self.rng.random::<f64>());
        self.at += -(1.0 - pause).ln() / self.cell.rate;
        let normal = (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
        let spike = if spike < 0.001 { self.cell.spike } else { 0.0 };
        let most = self.cell.connect;
        let connect = if most > 0.0 {
            0.001 + (most - 0.001) * connect
        } else {
            0.0
        };
        Request {
            at: self.at,
            takes: self.cell.latency * (self.cell.sigma * normal).exp() + spike,
            connect,
        }
    }
}

/// The greatest share over the mean share, in each window of a run.
fn run(cell: Cell, policy: &AnyPolicy, seed: u64) -> [f64; WINDOWS] {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5EED);
    let mut requests = Requests::new(cell, seed);
    let trial = Trial::new(policy, &vec![1.0; cell.servers], &mut rng);
    let start = Instant::now();
    let time = |nanos| start + Duration::from_nanos(nanos);
    // Those in flight: when each ends, on which server, and when it began.
    let mut running = BinaryHeap::<Reverse<(u64, usize, u64)>>::new();
    let mut connections = vec![0_usize; cell.servers];
    let mut counts = [(); WINDOWS].map(|()| vec![0_u32; cell.servers]);
    loop {
        let request = requests.next();
        let Some(count) = counts.get_mut((request.at / WINDOW) as usize) else {
            break;
        };
        let now = nanos(request.at);
        while let Some(Reverse((end, server, began))) = running.peek().copied() {
            if end > now {
                break;
            }
            running.pop();
            connections[server] += 1;
            let rtt = Duration::from_nanos(end - began);
            trial.end(server, Outcome::Success, rtt, time(end));
        }
        let server = trial.pick(&mut Draw::new(&mut rng).at(time(now)));
        count[server] += 1;
        trial.start(server, time(now));
        let mut takes = request.takes;
        match connections[server].checked_sub(1) {
            Some(idle) => connections[server] = idle,
            None => takes += request.connect,
        }
        running.push(Reverse((now + nanos(takes), server, now)));
    }
    counts.map(|counts| largest(&counts))
}

/// Of all windows of a cell, the mean and the 95th percentile.
fn play(cell: Cell, seed: u64, run: impl Fn(Cell, u64) -> [f64; WINDOWS]) -> [f64; 2] {
    let runs = (REQUESTS / (cell.rate * WINDOW * WINDOWS as f64)).ceil() as u64;
    let runs = (0..runs).flat_map(|nth| run(cell, seed.wrapping_mul(1_000_003) + nth));
    let mut windows: Vec<_> = runs.collect();
    windows.sort_unstable_by(f64::total_cmp);
    let mean = windows.iter().sum::<f64>() / windows.len() as f64;
    [mean, at(&windows, 0.95)]
}

/// A run through a whole client, as in [`exact`](crate::exact).
fn whole(cell: Cell, whole: Whole, seed: u64) -> [f64; WINDOWS] {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let servers = Servers::new(cell.servers);
        let client = match whole {
            Whole::Stack => {
                let stack = Stack::cloned(Statuses).seed(seed);
                let built = stack.build_plain(servers.discover());
                BoxService::new(built.expect("defaults").service.map_err(Into::into))
            }
            Whole::Tower => {
                let (rtt, decay) = (Duration::from_millis(30), Duration::from_secs(10));
                let complete = CompleteOnResponse::default();
                let discover = PeakEwmaDiscover::new(servers.discover(), rtt, decay, complete);
                BoxService::new(p2c::Balance::from_rng(discover, Seeded::new(seed)))
            }
        };
        through(client, cell, servers, seed).await
    })
}

async fn through(mut client: Client, cell: Cell, servers: Servers, seed: u64) -> [f64; WINDOWS] {
    let mut requests = Requests::new(cell, seed);
    let mut windows = [0.0; WINDOWS];
    let mut next = requests.next();
    for (window, share) in (1..).zip(&mut windows) {
        while next.at < f64::from(window) * WINDOW {
            servers.until(nanos(next.at)).await;
            let request = exact::Request {
                takes: nanos(next.takes),
                connect: nanos(next.connect),
            };
            exact::send(&mut client, request).await;
            next = requests.next();
        }
        *share = largest(&servers.received());
    }
    windows
}

/// The greatest share over the mean share.
fn largest(counts: &[u32]) -> f64 {
    let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    f64::from(counts.iter().copied().max().unwrap_or_default()) / mean
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// A quantile of what is sorted.
fn at(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.max(1) - 1]
}

/// What a policy or client makes of some cells, by what chance makes of them.
fn row(name: &str, played: impl Iterator<Item = ([f64; 2], [f64; 2])>) -> (String, Vec<f64>) {
    let (mut means, mut late) = (Vec::new(), Vec::new());
    for (played, chance) in played {
        means.push(played[0] / chance[0]);
        late.push(played[1] / chance[1]);
    }
    means.sort_unstable_by(f64::total_cmp);
    late.sort_unstable_by(f64::total_cmp);
    let quantiles = |sorted: &[f64]| [0.5, 0.9, 1.0].map(|share| at(sorted, share));
    (name.into(), [quantiles(&means), quantiles(&late)].concat())
}

pub(crate) fn report(seed: u64) -> Report {
    let cells = cells();
    let cells = cells.iter().enumerate();
    let cells = cells.map(|(index, cell)| (*cell, seed.wrapping_mul(7_919) + index as u64));
    let policy = |name: &str, cell, seed| {
        let policy = policy::by_name(name).expect("a known policy");
        play(cell, seed, |cell, seed| run(cell, &policy, seed))
    };
    let cells = cells.map(|(cell, seed)| (cell, seed, policy(CHANCE, cell, seed)));
    let cells: Vec<_> = cells.collect();
    let mut rows = Vec::new();
    for name in POLICIES {
        let played = cells
            .iter()
            .map(|(cell, seed, chance)| (policy(name, *cell, *seed), *chance));
        rows.push(row(&format!("our {name}"), played));
    }
    for (name, client) in [("our default stack", Whole::Stack), (TOWER, Whole::Tower)] {
        let some = cells
            .iter()
            .filter(|(cell, ..)| cell.rate <= 1_000.0)
            .step_by(SOME);
        let played = some.map(|(cell, seed, chance)| {
            let played = play(*cell, *seed, |cell, seed| whole(cell, client, seed));
            (played, *chance)
        });
        rows.push(row(name, played));
    }
    let mut bars = Vec::new();
    for (name, figures) in &rows {
        if name.as_str() != TOWER {
            let what = |of| format!("{name}: largest share by chance, {of}");
            bars.push(Bar::at_most(what("median cell"), figures[0], 1.05));
            bars.push(Bar::at_most(what("worst cell"), figures[2], 1.1));
        }
    }
    Report {
        name: "equals",
        about: "2, 3, 5, 10 equal servers; 10 to 10,000 requests a second; 0.3, 5, 50 ms, constant and \
                log-normal with sigma 0.3 and 1; connections for nothing, 1-3 and 1-30 ms; without and with \
                5 ms more once in 1,000: 144 cells, 16 for the whole clients. Of windows of 10 s, the \
                largest share over the mean share, divided by the same of our p2c by requests in flight.",
        columns: &[
            "median cell",
            "90 % of cells",
            "worst cell",
            "p95 window: median cell",
            "90 %",
            "worst",
        ],
        rows,
        bars,
    }
}
