//! Real HTTP on loopback: servers in a thread of their own, and all clients in this one.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tower::{Service, ServiceExt};
use tower_roster::{
    Instance, Registry,
    balance::{Balance, BalanceLayer, policy::DefaultPolicy},
    classify::Http,
    client::{HttpClient, HttpEndpoints, HttpService, Router, Stack, Stacked},
    discover::MakeEndpoint,
    registry::{self, Watch},
    service::retry::{Replay, ReplayBody, ShareReplay},
    telemetry::{
        AttemptInfo, End, Monitor, MonitoredClient, MonitoredEndpoint, RequestInfo, Telemetry,
    },
};

use super::{
    measure::{Effort, Samples, here, interleave, threads},
    report::{Bar, Row},
};

pub const BACKENDS: usize = 4;
const CONNECTIONS: usize = 32;

type Empties = Empty<Bytes>;

pub async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(http1::Builder::new().serve_connection(
            TokioIo::new(stream),
            service_fn(async |_| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                    b"hello, world",
                ))))
            }),
        ));
    }
}

/// Has as many servers listen.
pub fn listen<F>(servers: &Runtime, count: usize, serve: fn(TcpListener) -> F) -> Vec<String>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listen = |_| {
        let listener = servers.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        servers.spawn(serve(listener));
        address.to_string()
    };
    (0..count).map(listen).collect()
}

/// Lists these addresses.
pub fn registry(addresses: &[String]) -> Registry {
    let registry = registry::connect(&format!("fixed:{}", addresses.join(",")));
    registry.expect("a list")
}

/// Lists these addresses.
pub fn watch(addresses: &[String]) -> Watch {
    registry(addresses).watch("web").expect("a service")
}

/// Has so many callers call for so long, or so many times each. Returns the answers.
async fn call<S, B>(service: &S, callers: usize, time: Duration, most: usize) -> usize
where
    S: Service<Request<Empties>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Debug + Send,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Debug + Send,
{
    let started = Instant::now();
    let callers = (0..callers).map(|_| {
        let mut service = service.clone();
        tokio::spawn(async move {
            let mut answers = 0;
            while answers < most && (time.is_zero() || started.elapsed() < time) {
                let mut request = Request::new(Empty::new());
                *request.uri_mut() = Uri::from_static("http://web/");
                let ready = service.ready().await.expect("endpoints");
                let answer = ready.call(request).await.expect("an answer");
                let body = answer.into_body().collect().await.expect("a body");
                answers += usize::from(!body.to_bytes().is_empty());
            }
            answers
        })
    });
    let callers: Vec<_> = callers.collect();
    let answers = join_all(callers).await.into_iter();
    answers.map(|answers| answers.expect("no panic")).sum()
}

/// Answers a second, to so many callers at a time.
fn rate<S, B>(runtime: &Runtime, service: &S, callers: usize, time: Duration) -> f64
where
    S: Service<Request<Empties>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Debug + Send,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Debug + Send,
{
    let started = Instant::now();
    let answers = runtime.block_on(call(service, callers, time, usize::MAX));
    answers as f64 / started.elapsed().as_secs_f64()
}

/// What one writes without a balancer.
#[derive(Clone)]
struct InTurn {
    clients: Arc<[HttpClient<Empties>]>,
    next: Arc<AtomicUsize>,
}

impl Service<Request<Empties>> for InTurn {
    type Response = <HttpClient<Empties> as Service<Request<Empties>>>::Response;
    type Error = <HttpClient<Empties> as Service<Request<Empties>>>::Error;
    type Future = <HttpClient<Empties> as Service<Request<Empties>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empties>) -> Self::Future {
        let next = self.next.fetch_add(1, Relaxed) % self.clients.len();
        self.clients[next].clone().call(request)
    }
}

/// One client of hyper's for all, and the backends in turn.
#[derive(Clone)]
struct Bare {
    client: Client<HttpConnector, Empties>,
    uris: Arc<[Uri]>,
    next: Arc<AtomicUsize>,
}

impl Service<Request<Empties>> for Bare {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = hyper_util::client::legacy::ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Empties>) -> Self::Future {
        let next = self.next.fetch_add(1, Relaxed) % self.uris.len();
        *request.uri_mut() = self.uris[next].clone();
        self.client.request(request)
    }
}

/// What is called, by name.
pub struct Clients {
    balance: Balance<HttpClient<Empties>>,
    in_turn: InTurn,
    stack: Whole,
    unhedged: Whole,
    service: HttpService<Empties>,
    monitored: Monitored,
    router: Router<Empties>,
    bare: Bare,
}

type Whole = Stacked<HttpClient<ReplayBody<Empties>>, DefaultPolicy, Http, Replay, ShareReplay>;

/// The same with a monitor.
type Monitored = MonitoredClient<
    Stacked<
        MonitoredEndpoint<HttpClient<ReplayBody<Empties>>, Http>,
        DefaultPolicy,
        Http,
        Replay,
        ShareReplay,
    >,
    Http,
>;

/// Counts attempts, and sums up their times.
#[derive(Default)]
pub struct Sums([AtomicUsize; 3]);

impl Monitor for Sums {
    fn attempt_ended(&self, _: &AttemptInfo<'_>, end: &End) {
        self.0[0].fetch_add(1, Relaxed);
        self.0[1].fetch_add(end.elapsed.as_nanos() as usize, Relaxed);
    }

    fn request_ended(&self, request: &RequestInfo<'_>, _: &End) {
        self.0[2].fetch_add(request.attempts as usize, Relaxed);
    }
}

impl Clients {
    /// In a runtime.
    pub fn of(addresses: &[String]) -> Self {
        let whole = |stack: Stack<_, _, _, _>| {
            let built = stack.build(watch(addresses).discover(HttpEndpoints::new()));
            built.expect("defaults").service
        };
        let monitored = Stack::http()
            .telemetry(Telemetry::new().service("web").monitor(Sums::default()))
            .build(watch(addresses).discover(HttpEndpoints::new()));
        let mut endpoints = HttpEndpoints::new();
        let clients = addresses.iter().map(|address| {
            let address = address.parse().expect("an address");
            let instance = Instance::new("web", "web", address);
            endpoints.make_endpoint(&instance).expect("a client")
        });
        let next = Arc::<AtomicUsize>::default();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let uris = addresses.iter().map(|address| format!("http://{address}/"));
        Self {
            balance: BalanceLayer::new().balance(watch(addresses).discover(HttpEndpoints::new())),
            in_turn: InTurn {
                clients: clients.collect(),
                next: Arc::clone(&next),
            },
            stack: whole(Stack::http()),
            unhedged: whole(Stack::http().hedge(None)),
            service: Stack::http()
                .connect(&registry(addresses), "web")
                .expect("defaults"),
            monitored: monitored.expect("defaults").service,
            router: Router::builder(&registry(addresses))
                .build()
                .expect("defaults"),
            bare: Bare {
                client: Client::builder(TokioExecutor::new()).build(connector),
                uris: uris.map(|uri| uri.parse().expect("a URI")).collect(),
                next,
            },
        }
    }

    /// Has one of them called so many times by each caller, to be counted from outside.
    pub async fn drive(&self, what: &str, callers: usize, each: usize) -> Option<usize> {
        let time = Duration::ZERO;
        Some(match what {
            "http-bare" => call(&self.bare, callers, time, each).await,
            "http-endpoint" => call(&self.in_turn, callers, time, each).await,
            "http-balancer" => call(&self.balance, callers, time, each).await,
            "http-unhedged" => call(&self.unhedged, callers, time, each).await,
            "http-monitored" => call(&self.monitored, callers, time, each).await,
            "http-stack" => call(&self.stack, callers, time, each).await,
            "http-service" => call(&self.service, callers, time, each).await,
            "http-router" => call(&self.router, callers, time, each).await,
            _ => return None,
        })
    }
}

pub fn run(effort: Effort) -> Vec<Row> {
    let (servers, runtime) = (threads(1), here());
    let addresses = listen(&servers, BACKENDS, serve);
    let _entered = runtime.enter();
    let clients = Clients::of(&addresses);
    let (runtime, time) = (&runtime, effort.time);
    // Twice as many, as these are noisy and the bars are close.
    let samples = interleave(
        2 * effort.rounds,
        vec![
            Box::new(|| rate(runtime, &clients.balance, CONNECTIONS, time)),
            Box::new(|| rate(runtime, &clients.in_turn, CONNECTIONS, time)),
            Box::new(|| rate(runtime, &clients.stack, CONNECTIONS, time)),
            Box::new(|| rate(runtime, &clients.bare, CONNECTIONS, time)),
            Box::new(|| rate(runtime, &clients.unhedged, CONNECTIONS, time)),
            Box::new(|| rate(runtime, &clients.service, CONNECTIONS, time)),
            Box::new(|| rate(runtime, &clients.monitored, CONNECTIONS, time)),
        ],
    );
    let alone = interleave(
        2 * effort.rounds,
        vec![
            Box::new(|| rate(runtime, &clients.service, 1, time)),
            Box::new(|| rate(runtime, &clients.bare, 1, time)),
        ],
    );
    let routed = routed(effort);
    vec![
        Row::new("balancer, 4 backends, 32 connections", "/s", &samples[0])
            .against("round robin by hand", &samples[1])
            .bar(Bar::AtLeast(0.97)),
        Row::new(
            "default stack, 4 backends, 32 connections",
            "/s",
            &samples[2],
        )
        .against("bare hyper client", &samples[3])
        .bar(Bar::AtLeast(1.1)),
        Row::new("the same without hedging", "/s", &samples[4])
            .against("bare hyper client", &samples[3]),
        Row::new("HttpService, 4 backends, 32 callers", "/s", &samples[5])
            .against("bare hyper client", &samples[3])
            .bar(Bar::AtLeast(1.0)),
        Row::new("HttpService, 4 backends, 1 caller", "/s", &alone[0])
            .against("bare hyper client", &alone[1])
            .bar(Bar::AtLeast(1.0)),
        Row::new("default stack with a monitor", "/s", &samples[6])
            .against("without", &samples[2])
            .bar(Bar::AtLeast(0.97)),
        Row::new("router, more than HttpService for a request", "ns", &routed)
            .bar(Bar::Limit(200.0)),
    ]
}

/// What a router costs more than the client of the service, in nanoseconds, without a network: no connection can
/// be made at once, so each future is dropped before it is polled.
fn routed(effort: Effort) -> Samples {
    let unreachable = ["127.0.0.1:9".to_owned()];
    let mut service: HttpService<Empties> = Stack::http()
        .connect(&registry(&unreachable), "web")
        .expect("defaults");
    let mut router: Router<Empties> = Router::builder(&registry(&unreachable))
        .build()
        .expect("defaults");
    let runtime = here();
    let samples = runtime.block_on(async {
        let known = service.handle().wait_for(|status| status.usable == 1);
        known.await.expect("an endpoint");
        let request = request();
        drop(router.call(request));
        let known = router.client("web").expect("it was called");
        let known = known.handle().wait_for(|status| status.usable == 1).await;
        known.expect("an endpoint");
        interleave(
            effort.rounds,
            vec![
                Box::new(|| starts(&mut router, effort.requests)),
                Box::new(|| starts(&mut service, effort.requests)),
            ],
        )
    });
    let pairs = samples[0].0.iter().zip(&samples[1].0);
    Samples(pairs.map(|(router, service)| router - service).collect())
}

fn request() -> Request<Empties> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static("http://web/");
    request
}

/// Nanoseconds for the start of a request that is dropped then.
fn starts<S: Service<Request<Empties>>>(service: &mut S, count: u32) -> f64 {
    let cx = &mut Context::from_waker(Waker::noop());
    let started = Instant::now();
    for _ in 0..count {
        assert!(service.poll_ready(cx).is_ready(), "there is an endpoint");
        drop(service.call(request()));
    }
    started.elapsed().as_nanos() as f64 / f64::from(count)
}
