//! Who takes part: our policies, our stack, and what we are compared with.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::Stream;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tower::{
    BoxError, Service, ServiceExt,
    balance::p2c,
    discover::Change,
    load::{CompleteOnResponse, PeakEwmaDiscover, PendingRequestsDiscover},
    timeout::Timeout,
    util::BoxService,
};
use tower_roster::{
    balance::{BalanceLayer, policy},
    client::Stack,
    service::retry::RetryBudget,
};

use crate::sim::{Call, Client, Feed, Node, Request, Statuses};

type DefaultStack = Stack<policy::DefaultPolicy, Statuses>;

#[derive(Clone, Copy)]
pub(crate) enum Contender {
    /// A policy of ours on a bare balancer: no ejection, no retries, no hedges.
    Policy(&'static str),
    /// The default stack, with a change.
    Stack(&'static str, fn(DefaultStack) -> DefaultStack),
    TowerPending,
    TowerPeakEwma,
    RoundRobin,
    /// Knows what waits at each server, and joins the shortest queue. No client can.
    Oracle,
}

/// The default stack as it is.
pub(crate) const STACK: Contender = Contender::Stack("our default stack", |stack| stack);

/// All but variants of the stack.
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
    Contender::Policy("response-time"),
    STACK,
];

impl Contender {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Policy(name) => format!("our {name}"),
            Self::Stack(name, _) => name.into(),
            Self::TowerPending => "tower p2c in flight".into(),
            Self::TowerPeakEwma => "tower p2c peak EWMA".into(),
            Self::RoundRobin => "plain round robin".into(),
            Self::Oracle => "oracle: shortest queue".into(),
        }
    }

    fn build(self, feed: Feed, patience: Option<Duration>, seed: u64) -> Built {
        let mut budget = None;
        let client = match self {
            Self::Policy(name) => {
                let policy = policy::by_name(name).expect("a known policy");
                let layer = BalanceLayer::builder().policy(policy).classify(Statuses);
                boxed(
                    layer
                        .seed(seed)
                        .build()
                        .expect("in range")
                        .balance_plain(feed),
                    patience,
                )
            }
            Self::Stack(_, change) => {
                let mut stack = Stack::cloned(Statuses).seed(seed);
                if patience.is_some() {
                    stack = stack.timeout(patience);
                }
                let built = change(stack).build_plain(feed).expect("settings in range");
                budget = built.handles.budget;
                boxed(built.service, None)
            }
            Self::TowerPending => {
                let complete = CompleteOnResponse::default();
                let discover = PendingRequestsDiscover::new(feed, complete);
                boxed(
                    p2c::Balance::from_rng(discover, Seeded::new(seed)),
                    patience,
                )
            }
            Self::TowerPeakEwma => {
                let complete = CompleteOnResponse::default();
                let (rtt, decay) = (Duration::from_millis(30), Duration::from_secs(10));
                let discover = PeakEwmaDiscover::new(feed, rtt, decay, complete);
                boxed(
                    p2c::Balance::from_rng(discover, Seeded::new(seed)),
                    patience,
                )
            }
            Self::RoundRobin => {
                let plain = RoundRobin {
                    nodes: Listed::new(feed),
                    next: 0,
                };
                boxed(plain, patience)
            }
            Self::Oracle => {
                let oracle = Oracle {
                    nodes: Listed::new(feed),
                    rng: SmallRng::seed_from_u64(seed),
                };
                boxed(oracle, patience)
            }
        };
        Built { client, budget }
    }
}

struct Built {
    client: Client,
    budget: Option<RetryBudget>,
}

fn boxed<S>(service: S, patience: Option<Duration>) -> Client
where
    S: Service<Request, Response = crate::sim::Answer> + Send + 'static,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send + 'static,
{
    match patience {
        Some(patience) => BoxService::new(Timeout::new(service, patience)),
        None => BoxService::new(service.map_err(Into::into)),
    }
}

/// What came out of a run.
pub(crate) struct Run {
    pub calls: Vec<Call>,
    pub nodes: Vec<Node>,
    /// Attempts beyond the first: retries and hedges.
    pub extra: u64,
}

/// What is sent.
pub(crate) enum Load<'a> {
    /// So many a second for so long, one after the other.
    Open(&'a [(Duration, f64)]),
    /// So many, so many at a time.
    Closed(usize, usize),
}

/// Runs one client of one contender in a world of its own.
pub(crate) fn run(
    contender: Contender,
    world: impl FnOnce(u64) -> (Vec<Node>, Feed),
    load: &Load<'_>,
    patience: Option<Duration>,
    seed: u64,
) -> Run {
    run_many(contender, 1, world, load, patience, seed)
}

/// Runs so many clients of one contender in a world of their own. Each knows what it measured itself.
///
/// # Panics
/// With several clients and a load that is no open loop.
pub(crate) fn run_many(
    contender: Contender,
    clients: u64,
    world: impl FnOnce(u64) -> (Vec<Node>, Feed),
    load: &Load<'_>,
    patience: Option<Duration>,
    seed: u64,
) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (nodes, feed) = world(seed);
        let built = (0..clients).map(|client| {
            // Apart from each other, the first as if it were alone.
            let seed = seed.wrapping_add(client.wrapping_mul(0x9e37_79b9));
            let Built { client, budget } = contender.build(feed.clone(), patience, seed);
            (client, budget)
        });
        let (mut clients, budgets): (Vec<_>, Vec<_>) = built.unzip();
        let calls = match load {
            Load::Open(phases) => crate::sim::open_loop(&mut clients, phases, seed).await,
            Load::Closed(requests, concurrency) => match &mut *clients {
                [client] => crate::sim::closed_loop(client, *requests, *concurrency).await,
                _ => panic!("a closed loop is of one client"),
            },
        };
        let budgets = budgets.iter().flatten();
        Run {
            calls,
            nodes,
            extra: budgets.map(RetryBudget::withdrawn).sum(),
        }
    })
}

/// tower's balancer has a trait of its own for chance.
pub(crate) struct Seeded(SmallRng);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }
}

impl tower::util::rng::Rng for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// The backends that the registry lists now.
struct Listed {
    feed: Feed,
    nodes: Vec<(usize, Node)>,
}

impl Listed {
    fn new(feed: Feed) -> Self {
        let nodes = Vec::new();
        Self { feed, nodes }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while let Poll::Ready(Some(Ok(change))) = Pin::new(&mut self.feed).poll_next(cx) {
            match change {
                Change::Insert(key, node) => self.nodes.push((key, node)),
                Change::Remove(gone) => self.nodes.retain(|(key, _)| *key != gone),
            }
        }
        if self.nodes.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// What one writes without a library.
struct RoundRobin {
    nodes: Listed,
    next: usize,
}

impl Service<Request> for RoundRobin {
    type Response = crate::sim::Answer;
    type Error = BoxError;
    type Future = crate::sim::NodeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.nodes.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let nodes = &mut self.nodes.nodes;
        self.next = (self.next + 1) % nodes.len();
        nodes[self.next].1.call(request)
    }
}

struct Oracle {
    nodes: Listed,
    rng: SmallRng,
}

impl Service<Request> for Oracle {
    type Response = crate::sim::Answer;
    type Error = BoxError;
    type Future = crate::sim::NodeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.nodes.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { nodes, rng } = self;
        let shortest = nodes.nodes.iter_mut().min_by_key(|(_, node)| {
            // Chance decides between equals.
            (node.present(), rng.next_u32())
        });
        let (_, node) = shortest.expect("ready only while one is listed");
        node.call(request)
    }
}
