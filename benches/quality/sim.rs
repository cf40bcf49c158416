//! A simulated cluster in virtual time: backends that live by a script, a registry that lists them by
//! another, and a load of requests.
//!
//! Nothing waits and nothing is measured by a real clock: the time is tokio's, paused, and jumps to the
//! next thing that happens. So a run of minutes takes a fraction of a second and repeats itself
//! for a given seed. The grain of that time is a millisecond, as timers of tokio are.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use pin_project::{pin_project, pinned_drop};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tower::{BoxError, Service, ServiceExt, discover::Change, util::BoxService};
use tower_roster::classify::{Classify, Observer, Unsent, Verdict};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SEC: Duration = Duration::from_secs(1);

/// What is counted by time is counted by so much of it.
pub(crate) const BUCKET: Duration = Duration::from_millis(100);

/// How long a backend takes to refuse: a connection, or a request that it has no room for.
const REFUSAL: Duration = MS;

/// Longer than the patience of any caller here.
const GIVEN_UP: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Request;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub status: u16,
}

/// 5xx and errors are failures. The same for errors of any type, as each layer has its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statuses;

impl<E> Classify<Answer, E> for Statuses {
    type Observed<O: Observer> = Answer;

    fn judge(&self, result: Result<&Answer, &E>) -> Option<Verdict> {
        Some(match result {
            Ok(answer) if answer.status < 500 => Verdict::SUCCESS,
            _ => Verdict::FAILURE,
        })
    }

    fn observe<O: Observer>(&self, answer: Answer, _: Option<Verdict>, _: O) -> Answer {
        answer
    }
}

/// How long a backend works on a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Latency {
    Fixed(Duration),
    /// Evenly spread from nothing to this.
    UpTo(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
    LogNormal {
        median: Duration,
        sigma: f64,
    },
}

impl Latency {
    fn draw(self, rng: &mut SmallRng) -> Duration {
        match self {
            Self::Fixed(latency) => latency,
            Self::UpTo(most) => most.mul_f64(rng.random()),
            Self::Exponential(mean) => mean.mul_f64(-(1.0 - rng.random::<f64>()).ln()),
            Self::LogNormal { median, sigma } => {
                // Box and Muller's.
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
                median.mul_f64((sigma * normal).exp())
            }
        }
    }
}

/// What a backend does for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Serve(Latency),
    /// Answers this share with 503 after that long, and serves the others.
    Fail {
        share: f64,
        after: Duration,
        others: Latency,
    },
    /// Refuses connections. Those that were open when it began break.
    Refuse,
    /// Answers nothing any more, nor what came before.
    Swallow,
}

/// One backend; clones are the same.
#[derive(Clone)]
pub(crate) struct Node(Arc<Mutex<Inner>>);

struct Inner {
    start: Instant,
    /// Since when it does what, in order.
    script: Vec<(Duration, Mode)>,
    capacity: Option<Capacity>,
    workers: Option<Workers>,
    /// Requests that wait or are worked on, where there are workers.
    present: usize,
    /// Requests that came, by [`BUCKET`]s.
    received: Vec<u64>,
    rng: SmallRng,
}

/// So many requests at a time, and so many that wait. Work that was begun is finished, whether or not
/// anybody waits for it.
struct Capacity {
    /// When each worker is free.
    workers: BinaryHeap<Reverse<Instant>>,
    /// When work on those that wait begins.
    waiting: VecDeque<Instant>,
    room: usize,
}

/// So many requests at a time, in the order of their arrival; all others wait.
#[derive(Clone)]
struct Workers {
    free: Arc<Semaphore>,
    abandoned: Abandoned,
}

/// What becomes of the work on a request whose caller has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// It is finished, as most servers do.
    Finished,
    /// It ends at once, or never begins.
    Cancelled,
}

impl Capacity {
    /// When the work on a request is done that comes now, if there is room for it.
    fn take(&mut self, work: Duration, now: Instant) -> Option<Instant> {
        while self.waiting.front().is_some_and(|begin| *begin <= now) {
            self.waiting.pop_front();
        }
        let mut free = self.workers.peek_mut()?;
        let begin = free.0.max(now);
        if begin > now {
            if self.waiting.len() >= self.room {
                return None;
            }
            self.waiting.push_back(begin);
        }
        free.0 = begin + work;
        Some(begin + work)
    }
}

impl Node {
    /// A backend that does one thing all the time.
    pub(crate) fn serving(latency: Latency, seed: u64, index: usize) -> Self {
        // Apart from each other and from the generator of the load.
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(index as u64 + 1);
        Self(Arc::new(Mutex::new(Inner {
            start: Instant::now(),
            script: vec![(Duration::ZERO, Mode::Serve(latency))],
            capacity: None,
            workers: None,
            present: 0,
            received: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        })))
    }

    /// From then on it does this.
    pub(crate) fn then(self, at: Duration, mode: Mode) -> Self {
        self.inner().script.push((at, mode));
        self
    }

    /// It works on so many requests at a time, lets so many wait, and refuses others with a 503.
    pub(crate) fn capacity(self, workers: usize, room: usize) -> Self {
        let now = Instant::now();
        self.inner().capacity = Some(Capacity {
            workers: (0..workers).map(|_| Reverse(now)).collect(),
            waiting: VecDeque::new(),
            room,
        });
        self
    }

    /// It works on so many requests at a time, and all others wait for as long as it takes.
    pub(crate) fn workers(self, workers: usize, abandoned: Abandoned) -> Self {
        self.inner().workers = Some(Workers {
            free: Arc::new(Semaphore::new(workers)),
            abandoned,
        });
        self
    }

    /// The requests that wait or are worked on, where there are workers.
    pub(crate) fn present(&self) -> usize {
        self.inner().present
    }

    /// Waits for a worker, and for its work.
    async fn work(self, workers: Workers) -> Result<Answer, BoxError> {
        let _present = Present::new(self.clone());
        let _worker = workers.free.acquire().await;
        let work = self.inner().work();
        match work {
            Some((work, answer)) => {
                sleep(work).await;
                Ok(answer)
            }
            None => Err("connection reset by peer".into()),
        }
    }

    /// The requests that came between two times.
    pub(crate) fn received(&self, from: Duration, to: Duration) -> u64 {
        let counts = &self.inner().received;
        let [from, to] = [from, to].map(|at| bucket(at).min(counts.len()));
        counts[from..to].iter().sum()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn bucket(at: Duration) -> usize {
    (at.as_nanos() / BUCKET.as_nanos()) as usize
}

/// Counts a request as present.
struct Present(Node);

impl Present {
    fn new(node: Node) -> Self {
        node.inner().present += 1;
        Self(node)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.inner().present -= 1;
    }
}

impl Inner {
    /// What it does now, as an index into the script.
    fn phase(&self, age: Duration) -> usize {
        let phase = self.script.iter().rposition(|(since, _)| *since <= age);
        phase.expect("it begins at the start")
    }

    /// How long a worker is busy with a request that it begins now, and what it answers then; nothing
    /// where connections break.
    fn work(&mut self) -> Option<(Duration, Answer)> {
        let age = Instant::now().duration_since(self.start);
        let (latency, status) = match self.script[self.phase(age)].1 {
            Mode::Serve(latency) => (latency, 200),
            Mode::Fail { share, after, .. } if self.rng.random::<f64>() < share => {
                (Latency::Fixed(after), 503)
            }
            Mode::Fail { others, .. } => (others, 200),
            Mode::Refuse | Mode::Swallow => return None,
        };
        // Timers round up to the next millisecond. Rounded by chance, the mean is exact.
        let work = latency.draw(&mut self.rng).as_secs_f64() * 1e3;
        let up = self.rng.random::<f64>() < work.fract();
        let work = MS.mul_f64(work.trunc() + f64::from(u8::from(up)));
        Some((work, Answer { status }))
    }

    fn call(&mut self, node: &Node) -> NodeFuture {
        let now = Instant::now();
        let age = now.duration_since(self.start);
        let bucket = bucket(age);
        if self.received.len() <= bucket {
            self.received.resize(bucket + 1, 0);
        }
        self.received[bucket] += 1;
        let phase = self.phase(age);
        let mode = self.script[phase].1;
        if let (Some(workers), Mode::Serve(_) | Mode::Fail { .. }) = (&self.workers, mode) {
            let abandoned = workers.abandoned;
            let work = tokio::spawn(node.clone().work(workers.clone()));
            return NodeFuture::Work { work, abandoned };
        }
        let (latency, status) = match mode {
            Mode::Swallow => return NodeFuture::NEVER,
            Mode::Refuse => {
                let error = Unsent::new("connection refused").with_request(Request);
                return NodeFuture::at(now + REFUSAL, Err(error.into()));
            }
            Mode::Fail { share, after, .. } if self.rng.random::<f64>() < share => {
                (Latency::Fixed(after), 503)
            }
            Mode::Fail { others, .. } => (others, 200),
            Mode::Serve(latency) => (latency, 200),
        };
        let work = latency.draw(&mut self.rng);
        let done = match &mut self.capacity {
            None => now + work,
            Some(capacity) => match capacity.take(work, now) {
                Some(done) => done,
                None => return NodeFuture::at(now + REFUSAL, Ok(Answer { status: 503 })),
            },
        };
        for (since, mode) in &self.script[phase + 1..] {
            let since = self.start + *since;
            if since >= done {
                break;
            }
            match mode {
                Mode::Refuse => {
                    return NodeFuture::at(since, Err("connection reset by peer".into()));
                }
                Mode::Swallow => return NodeFuture::NEVER,
                _ => {}
            }
        }
        NodeFuture::at(done, Ok(Answer { status }))
    }
}

impl Service<Request> for Node {
    type Response = Answer;
    type Error = BoxError;
    type Future = NodeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> NodeFuture {
        self.inner().call(self)
    }
}

/// A request at a backend.
#[pin_project(project = NodeFutureProj, PinnedDrop)]
pub(crate) enum NodeFuture {
    Never,
    At {
        #[pin]
        sleep: Sleep,
        result: Option<Result<Answer, BoxError>>,
    },
    Work {
        work: JoinHandle<Result<Answer, BoxError>>,
        abandoned: Abandoned,
    },
}

impl NodeFuture {
    const NEVER: Self = Self::Never;

    fn at(done: Instant, result: Result<Answer, BoxError>) -> Self {
        Self::At {
            sleep: sleep_until(done),
            result: Some(result),
        }
    }
}

impl Future for NodeFuture {
    type Output = Result<Answer, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            NodeFutureProj::Never => Poll::Pending,
            NodeFutureProj::At { sleep, result } => {
                ready!(sleep.poll(cx));
                Poll::Ready(result.take().expect("not polled after it was done"))
            }
            NodeFutureProj::Work { work, .. } => {
                let result = ready!(Pin::new(work).poll(cx));
                Poll::Ready(
                    result.expect("work neither panics nor is aborted before this is dropped"),
                )
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for NodeFuture {
    fn drop(self: Pin<&mut Self>) {
        if let NodeFutureProj::Work {
            work,
            abandoned: Abandoned::Cancelled,
        } = self.project()
        {
            work.abort();
        }
    }
}

/// The registry: lists and delists backends by a script. A tower `Discover`.
pub(crate) struct Feed {
    changes: VecDeque<(Instant, Change<usize, Node>)>,
    sleep: Pin<Box<Sleep>>,
}

/// As it was made: with all changes to come.
impl Clone for Feed {
    fn clone(&self) -> Self {
        Self {
            changes: self.changes.clone(),
            sleep: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

impl Feed {
    /// All backends from the start.
    pub(crate) fn of(nodes: &[Node]) -> Self {
        let now = Instant::now();
        let nodes = nodes.iter().cloned().enumerate();
        Self {
            changes: nodes
                .map(|(key, node)| (now, Change::Insert(key, node)))
                .collect(),
            sleep: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// And later this; to be added in order.
    pub(crate) fn then(mut self, at: Duration, change: Change<usize, Node>) -> Self {
        let start = self
            .changes
            .front()
            .map_or_else(Instant::now, |(at, _)| *at);
        self.changes.push_back((start + at, change));
        self
    }
}

impl Stream for Feed {
    type Item = Result<Change<usize, Node>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((at, _)) = self.changes.front() else {
            return Poll::Pending;
        };
        let at = *at;
        if at > Instant::now() {
            if self.sleep.deadline() != at {
                self.sleep.as_mut().reset(at);
            }
            ready!(self.sleep.as_mut().poll(cx));
        }
        Poll::Ready(self.changes.pop_front().map(|(_, change)| Ok(change)))
    }
}

/// A call as its caller saw it. Times are since the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub began: Duration,
    pub took: Duration,
    pub ok: bool,
}

impl Call {
    pub(crate) fn ended(&self) -> Duration {
        self.began + self.took
    }
}

pub(crate) type Client = BoxService<Request, Answer, BoxError>;

/// Sends requests at random times, each from a random client, so many a second for so long, whether or
/// not they are answered.
pub(crate) async fn open_loop(
    clients: &mut [Client],
    phases: &[(Duration, f64)],
    seed: u64,
) -> Vec<Call> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let start = Instant::now();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (mut sent, mut begin) = (0, start);
    for (length, rate) in phases {
        let end = begin + *length;
        let mut at = begin;
        loop {
            // The times between are exponentially distributed: nobody's clock is in step.
            let pause = -(1.0 - rng.random::<f64>()).ln() / rate;
            at += Duration::from_secs_f64(pause);
            if at >= end {
                break;
            }
            if at > Instant::now() {
                sleep_until(at).await;
            }
            let began = Instant::now();
            sent += 1;
            let client = match clients {
                [client] => client,
                _ => {
                    let index = rng.random_range(0..clients.len());
                    &mut clients[index]
                }
            };
            let calls = Arc::clone(&calls);
            let answer = match client.ready().await {
                Ok(client) => client.call(Request),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            };
            tokio::spawn(async move {
                let call = finish(answer.await, start, began);
                calls
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(call);
            });
        }
        begin = end;
    }
    let deadline = Instant::now() + GIVEN_UP;
    loop {
        let done = calls.lock().unwrap_or_else(PoisonError::into_inner).len();
        if done == sent || Instant::now() > deadline {
            break;
        }
        sleep(BUCKET).await;
    }
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    let unanswered = sent - calls.len();
    assert_eq!(unanswered, 0, "every caller loses patience at last");
    std::mem::take(&mut *calls)
}

/// Sends so many requests, so many at a time.
pub(crate) async fn closed_loop(
    client: &mut Client,
    requests: usize,
    concurrency: usize,
) -> Vec<Call> {
    let start = Instant::now();
    let mut calls = Vec::with_capacity(requests);
    let mut running = FuturesUnordered::new();
    for _ in 0..requests {
        if running.len() == concurrency {
            calls.extend(running.next().await);
        }
        let began = Instant::now();
        let answer = match client.ready().await {
            Ok(client) => client.call(Request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        };
        running.push(async move { finish(answer.await, start, began) });
    }
    while let Some(call) = running.next().await {
        calls.push(call);
    }
    calls
}

fn finish(answer: Result<Answer, BoxError>, start: Instant, began: Instant) -> Call {
    Call {
        began: began.duration_since(start),
        took: began.elapsed(),
        ok: answer.is_ok_and(|answer| answer.status < 500),
    }
}
