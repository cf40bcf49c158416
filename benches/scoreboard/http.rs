//! Real HTTP on loopback: servers in a thread of their own, and all clients in this one.

use std::{
    convert::Infallible,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
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
    Instance,
    balance::BalanceLayer,
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
    registry,
    service::stack::Stack,
};

use super::{
    measure::{Effort, here, interleave, threads},
    report::{Bar, Row},
};

const BACKENDS: usize = 4;
const CONNECTIONS: usize = 32;

type Empties = Empty<Bytes>;

async fn serve(listener: TcpListener) {
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

/// Answers a second, to 32 callers at a time.
fn rate<S, B>(runtime: &Runtime, service: &S, uri: &Uri, time: Duration) -> f64
where
    S: Service<Request<Empties>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Debug + Send,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Debug + Send,
{
    let started = Instant::now();
    let callers = (0..CONNECTIONS).map(|_| {
        let (mut service, uri) = (service.clone(), uri.clone());
        runtime.spawn(async move {
            let mut answers = 0u32;
            while started.elapsed() < time {
                let mut request = Request::new(Empty::new());
                *request.uri_mut() = uri.clone();
                let ready = service.ready().await.expect("endpoints");
                let answer = ready.call(request).await.expect("an answer");
                let body = answer.into_body().collect().await.expect("a body");
                answers += u32::from(!body.to_bytes().is_empty());
            }
            answers
        })
    });
    let callers: Vec<_> = callers.collect();
    let answers = runtime.block_on(join_all(callers));
    let answers: u32 = answers.into_iter().map(|end| end.expect("no panic")).sum();
    f64::from(answers) / started.elapsed().as_secs_f64()
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

pub fn run(effort: Effort) -> Vec<Row> {
    let (servers, runtime) = (threads(1), here());
    let addresses: Vec<_> = (0..BACKENDS)
        .map(|_| {
            let listener = servers.block_on(TcpListener::bind("127.0.0.1:0"));
            let listener = listener.expect("a port");
            let address = listener.local_addr().expect("an address");
            servers.spawn(serve(listener));
            address.to_string()
        })
        .collect();
    let _entered = runtime.enter();
    let watch = || {
        let registry = registry::connect(&format!("fixed:{}", addresses.join(",")));
        let registry = registry.expect("a list");
        registry.watch("web").expect("a service")
    };
    let balance = BalanceLayer::new().balance(watch().discover(HttpEndpoints::new()));
    let discover = watch().discover(HttpEndpoints::new());
    let stack = Stack::http().build(discover).expect("defaults").service;
    let discover = watch().discover(HttpEndpoints::new());
    let unhedged = Stack::http().hedge(false).build(discover);
    let unhedged = unhedged.expect("defaults").service;
    let mut endpoints = HttpEndpoints::new();
    let clients = addresses.iter().map(|address| {
        let address = address.parse().expect("an address");
        let instance = Instance::new("web", "web", address);
        endpoints.make_endpoint(&instance).expect("a client")
    });
    let next = Arc::<AtomicUsize>::default();
    let in_turn = InTurn {
        clients: clients.collect(),
        next: Arc::clone(&next),
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let uris = addresses.iter().map(|address| format!("http://{address}/"));
    let bare = Bare {
        client: Client::builder(TokioExecutor::new()).build(connector),
        uris: uris.map(|uri| uri.parse().expect("a URI")).collect(),
        next,
    };
    let uri = &Uri::from_static("http://web/");
    let (runtime, time) = (&runtime, effort.time);
    // Twice as many, as these are noisy and the bars are close.
    let samples = interleave(
        2 * effort.rounds,
        vec![
            Box::new(|| rate(runtime, &balance, uri, time)),
            Box::new(|| rate(runtime, &in_turn, uri, time)),
            Box::new(|| rate(runtime, &stack, uri, time)),
            Box::new(|| rate(runtime, &bare, uri, time)),
            Box::new(|| rate(runtime, &unhedged, uri, time)),
        ],
    );
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
        .bar(Bar::AtLeast(0.95)),
        Row::new("the same without hedging", "/s", &samples[4])
            .against("bare hyper client", &samples[3]),
    ]
}
