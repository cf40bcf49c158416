//! HTTP servers that fail as they are told, a registry of them, and callers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::{AbortHandle, JoinSet},
};
use tower::{Service, ServiceExt};
use tower_roster::{
    BoxError, Instance, Registry,
    balance::{BalanceHandle, EndpointInfo, EndpointState, policy::DefaultPolicy},
    classify::Http,
    client::{Handles, HttpClient, HttpEndpoints, NoBreaker, Outermost, Stack, Stacked},
    discover::Discover,
    registry::{Announcement, Health, memory::Memory},
    service::retry::{Replay, ReplayBody, ShareReplay},
};

pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) type Body = Full<Bytes>;
pub(crate) type HttpStack<W = (), K = NoBreaker> =
    Stack<DefaultPolicy, Http, Replay, ShareReplay, W, K>;
pub(crate) type Client<W = ()> =
    Stacked<HttpClient<ReplayBody<Body>>, DefaultPolicy, Http, Replay, ShareReplay, W>;

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With its name.
    Good,
    /// With this status.
    Status(u16),
    /// With 500, each so manieth time.
    Sometimes(usize),
    /// Not at all.
    Hang,
}

/// A server; dropping it cuts all its connections, like the end of a process.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    told: Arc<Told>,
    accept: AbortHandle,
}

struct Told {
    name: String,
    mode: Mutex<Mode>,
    /// How many requests it handles in its mode, before it is good again.
    left: AtomicUsize,
    healthy: AtomicBool,
    checks: AtomicUsize,
    gets: AtomicUsize,
    posts: AtomicUsize,
    waiting: AtomicUsize,
}

impl Server {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let told = Arc::new(Told {
            name: name.to_owned(),
            mode: Mutex::new(Mode::Good),
            left: AtomicUsize::new(usize::MAX),
            healthy: AtomicBool::new(true),
            checks: AtomicUsize::new(0),
            gets: AtomicUsize::new(0),
            posts: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&told))).abort_handle();
        Self {
            name: name.to_owned(),
            addr,
            told,
            accept,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.set_for(usize::MAX, mode);
    }

    /// Sets how it handles the next requests, so many.
    pub(crate) fn set_for(&self, requests: usize, mode: Mode) {
        *self.told.mode.lock().unwrap() = mode;
        self.told.left.store(requests, Relaxed);
    }

    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.told.healthy.store(healthy, Relaxed);
    }

    /// Health checks that it was asked.
    pub(crate) fn checks(&self) -> usize {
        self.told.checks.load(Relaxed)
    }

    pub(crate) fn gets(&self) -> usize {
        self.told.gets.load(Relaxed)
    }

    pub(crate) fn posts(&self) -> usize {
        self.told.posts.load(Relaxed)
    }

    /// Requests that have no answer.
    pub(crate) fn waiting(&self) -> usize {
        self.told.waiting.load(Relaxed)
    }

    pub(crate) fn instance(&self) -> Instance {
        instance(&self.name, self.addr)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

pub(crate) fn instance(name: &str, addr: SocketAddr) -> Instance {
    Instance::new("web", name, addr.try_into().unwrap())
}

/// An address where nobody listens, and nobody else can while the socket lives.
pub(crate) fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

async fn accept(listener: TcpListener, told: Arc<Told>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let told = Arc::clone(&told);
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                answer(request, Arc::clone(&told))
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, told: Arc<Told>) -> Result<Response<Body>, Infallible> {
    let reply = |status: u16, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    };
    if request.uri().path() == "/health" {
        told.checks.fetch_add(1, Relaxed);
        let healthy = told.healthy.load(Relaxed);
        return reply(if healthy { 200 } else { 503 }, String::new());
    }
    let _waiting = Waiting::new(&told);
    let counter = match *request.method() {
        Method::POST => &told.posts,
        _ => &told.gets,
    };
    let n = counter.fetch_add(1, Relaxed);
    let sent = request.into_body().collect().await;
    let sent = sent.map(|body| body.to_bytes()).unwrap_or_default();
    let left = told
        .left
        .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
    let mode = left.map_or(Mode::Good, |_| *told.mode.lock().unwrap());
    match mode {
        Mode::Good => {}
        Mode::Sometimes(each) if n % each != 0 => {}
        Mode::Sometimes(_) => return reply(500, "failed".into()),
        Mode::Status(status) => return reply(status, "failed".into()),
        Mode::Hang => std::future::pending().await,
    }
    let sent = String::from_utf8_lossy(&sent);
    reply(200, format!("{}{sent}", told.name))
}

struct Waiting(Arc<Told>);

impl Waiting {
    fn new(told: &Arc<Told>) -> Self {
        told.waiting.fetch_add(1, Relaxed);
        Self(Arc::clone(told))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Servers with these names.
pub(crate) async fn servers<const N: usize>(names: [&str; N]) -> [Server; N] {
    let servers = join_all(names.map(Server::start)).await;
    servers.try_into().ok().expect("as many as names")
}

/// What a registry of these instances discovers.
pub(crate) fn discover(
    instances: impl IntoIterator<Item = Instance>,
) -> Discover<HttpEndpoints<ReplayBody<Body>>> {
    let memory = Memory::new();
    for instance in instances {
        list(&memory, instance);
    }
    discover_in(memory)
}

/// Lists an instance that the registry does not check.
pub(crate) fn list(memory: &Memory, instance: Instance) {
    let announcement = Announcement::new(instance).health(Health::Unchecked);
    memory.register(announcement).unwrap();
}

pub(crate) fn discover_in(memory: Memory) -> Discover<HttpEndpoints<ReplayBody<Body>>> {
    let watch = Registry::new(memory).watch("web").unwrap();
    watch.discover(HttpEndpoints::new())
}

/// Builds the stack over these instances, and waits until it knows them.
pub(crate) async fn build<W, K>(
    stack: HttpStack<W, K>,
    instances: impl IntoIterator<Item = Instance>,
) -> (K::Service, Handles)
where
    W: Send + Sync + 'static,
    K: Outermost<Client<W>, Http>,
{
    let instances: Vec<_> = instances.into_iter().collect();
    let count = instances.len();
    let built = stack.build(discover(instances)).unwrap();
    let balance = &built.handles.balance;
    let known = balance.wait_for(|status| status.usable == count);
    known.await.unwrap();
    (built.service, built.handles)
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::default()).unwrap()
}

pub(crate) fn post(uri: &str) -> Request<Body> {
    Request::post(uri).body(Body::from("!")).unwrap()
}

/// The status and the text of an answer.
pub(crate) type Answered = Result<(u16, String), BoxError>;

pub(crate) async fn send<S, B>(client: &S, request: Request<Body>) -> Answered
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let response = client.clone().oneshot(request).await.map_err(Into::into)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(Into::into)?;
    let text = String::from_utf8(body.to_bytes().to_vec())?;
    Ok((status, text))
}

/// So many at a time.
pub(crate) async fn burst<S, B>(
    client: &S,
    requests: usize,
    request: impl Fn() -> Request<Body>,
) -> Vec<Answered>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    join_all((0..requests).map(|_| send(client, request()))).await
}

/// Makes the latencies of all endpoints known, so that none is shunned for being new.
pub(crate) async fn warm<W>(client: &Client<W>)
where
    W: tower_roster::balance::topology::Route<Request<ReplayBody<Body>>>,
{
    for _ in 0..5 {
        for answer in burst(client, 9, || get("/")).await {
            assert_eq!(answer.unwrap().0, 200);
        }
    }
}

/// Waits for what will soon be so.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(2 * MS).await;
        }
    };
    let waited = tokio::time::timeout(20_000 * MS, wait).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

pub(crate) async fn endpoint(handle: &BalanceHandle, name: &str) -> EndpointInfo {
    let endpoints = handle.endpoints().await.unwrap();
    let mut endpoints = endpoints.into_iter();
    endpoints
        .find(|endpoint| endpoint.key.id() == name)
        .expect("it is listed")
}

pub(crate) async fn is_ejected(handle: &BalanceHandle, name: &str) -> bool {
    endpoint(handle, name).await.state == EndpointState::Ejected
}

pub(crate) async fn in_flight(handle: &BalanceHandle) -> usize {
    let endpoints = handle.endpoints().await.unwrap();
    endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
}
