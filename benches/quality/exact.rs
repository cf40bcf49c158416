//! Whole clients on servers without limits, exact to the nanosecond.
//!
//! Tokio's timers have a grain of a millisecond, so nothing here waits for one: its paused time is moved
//! on to each arrival and each answer, and answers are sent by hand. What clients themselves wait for, as hedges,
//! has that grain.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{self, Stream, StreamExt};
use tokio::{sync::oneshot, time::Instant};
use tower::{BoxError, Service, ServiceExt, discover::Change, util::BoxService};

use crate::sim::Answer;

pub(crate) type Client = BoxService<Request, Answer, BoxError>;

/// A request, and what it takes in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub takes: u64,
    /// What it takes longer when it has to connect.
    pub connect: u64,
}

/// Servers of one run.
#[derive(Clone)]
pub(crate) struct Servers(Arc<Mutex<Inner>>);

struct Inner {
    start: Instant,
    servers: Vec<State>,
    /// Requests in flight: when each ends, and its number.
    running: BinaryHeap<Reverse<(u64, usize)>>,
    /// By number: the server, and who waits.
    waiting: Vec<Option<(usize, oneshot::Sender<()>)>>,
}

#[derive(Clone, Default)]
struct State {
    received: u32,
    /// Connections that are open and not in use.
    idle: usize,
}

#[derive(Clone)]
pub(crate) struct Server {
    servers: Servers,
    index: usize,
}

impl Servers {
    pub(crate) fn new(servers: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            start: Instant::now(),
            servers: vec![State::default(); servers],
            running: BinaryHeap::new(),
            waiting: Vec::new(),
        })))
    }

    /// A tower `Discover` with all of them.
    pub(crate) fn discover(
        &self,
    ) -> impl Stream<Item = Result<Change<usize, Server>, Infallible>> + Unpin + Send + use<> {
        let server = |(index, servers)| Ok(Change::Insert(index, Server { servers, index }));
        let all = vec![self.clone(); self.inner().servers.len()];
        let all = all.into_iter().enumerate().map(server);
        stream::iter(all.collect::<Vec<_>>()).chain(stream::pending())
    }

    /// Moves on to a time in nanoseconds since the start, and answers what is due until then.
    pub(crate) async fn until(&self, at: u64) {
        loop {
            let due = self.inner().due(at);
            let Some((end, answer)) = due else {
                break;
            };
            self.advance(end).await;
            // Nobody may wait any longer.
            let _ = answer.send(());
            // The caller, and whoever it tells.
            tokio::task::yield_now().await;
        }
        self.advance(at).await;
    }

    async fn advance(&self, at: u64) {
        let at = self.inner().start + Duration::from_nanos(at);
        let pause = at.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            tokio::time::advance(pause).await;
        }
    }

    /// The requests that each received since it was asked last.
    pub(crate) fn received(&self) -> Vec<u32> {
        let mut inner = self.inner();
        let received = inner.servers.iter_mut();
        received
            .map(|state| std::mem::take(&mut state.received))
            .collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn due(&mut self, at: u64) -> Option<(u64, oneshot::Sender<()>)> {
        let Reverse((end, number)) = *self.running.peek()?;
        if end > at {
            return None;
        }
        self.running.pop();
        let (server, answer) = self.waiting[number].take()?;
        self.servers[server].idle += 1;
        Some((end, answer))
    }

    fn call(&mut self, index: usize, request: Request) -> oneshot::Receiver<()> {
        let server = &mut self.servers[index];
        server.received += 1;
        let mut takes = request.takes;
        match server.idle.checked_sub(1) {
            Some(idle) => server.idle = idle,
            None => takes += request.connect,
        }
        let (answer, waits) = oneshot::channel();
        let now = Instant::now().duration_since(self.start).as_nanos() as u64;
        self.running
            .push(Reverse((now + takes, self.waiting.len())));
        self.waiting.push(Some((index, answer)));
        waits
    }
}

impl Service<Request> for Server {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let waits = self.servers.inner().call(self.index, request);
        Box::pin(async move {
            waits.await?;
            Ok(Answer { status: 200 })
        })
    }
}

/// Sends one request, and lets a task wait for the answer.
pub(crate) async fn send(client: &mut Client, request: Request) {
    let client = client.ready().await;
    let client = client.expect("servers are there all the time");
    drop(tokio::spawn(client.call(request)));
    // It begins now.
    tokio::task::yield_now().await;
}
