//! Real gRPC on loopback: servers in a thread of their own, and all clients in this one.

#[allow(clippy::all, missing_docs, missing_debug_implementations)]
#[rustfmt::skip]
#[path = "../../tests/tonic/greeter.rs"]
mod greeter;

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Status, Streaming,
    body::Body,
    client::GrpcService,
    transport::{Channel, Endpoint},
};
use tower_roster::{
    BoxError,
    balance::BalanceLayer,
    classify::Grpc,
    client::{GrpcChannel, GrpcEndpoints, Stack},
    endpoint::eject::Ejection,
    service::retry::{Replay, ShareReplay},
};

use self::greeter::{
    Answer, Greeting,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
};
use super::{
    http::{BACKENDS, listen, registry, watch},
    measure::{Effort, Samples, here, interleave, threads},
    report::{Bar, Row},
};

/// Calls at a time, where there are many.
pub const CALLERS: usize = 64;

struct Polite;

type Answers = Pin<Box<dyn futures_util::Stream<Item = Result<Answer, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(
        &self,
        request: tonic::Request<Greeting>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let text = request.into_inner().name;
        let server = String::new();
        Ok(tonic::Response::new(Answer { text, server }))
    }

    type GreetAllStream = Answers;

    async fn greet_all(
        &self,
        _: tonic::Request<Greeting>,
    ) -> Result<tonic::Response<Answers>, Status> {
        Ok(tonic::Response::new(Box::pin(stream::empty())))
    }

    type ConverseStream = Answers;

    async fn converse(
        &self,
        _: tonic::Request<Streaming<Greeting>>,
    ) -> Result<tonic::Response<Answers>, Status> {
        Ok(tonic::Response::new(Box::pin(stream::empty())))
    }
}

pub async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(GreeterServer::new(Polite));
        let builder = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

/// Has so many callers call for so long, or so many times each. Returns the calls.
async fn call<T>(service: &T, callers: usize, time: Duration, most: usize) -> usize
where
    T: GrpcService<Body, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    T::ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let started = Instant::now();
    let callers = (0..callers).map(|_| {
        let mut client = GreeterClient::new(service.clone());
        tokio::spawn(async move {
            let mut calls = 0;
            while calls < most && (time.is_zero() || started.elapsed() < time) {
                let name = String::from("you");
                let answer = client.greet(Greeting { name, answers: 0 }).await;
                answer.expect("an answer");
                calls += 1;
            }
            calls
        })
    });
    let callers: Vec<_> = callers.collect();
    let calls = join_all(callers).await.into_iter();
    calls.map(|calls| calls.expect("no panic")).sum()
}

/// Calls a second.
fn rate<T>(runtime: &Runtime, service: &T, callers: usize, time: Duration) -> f64
where
    T: GrpcService<Body, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    T::ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let started = Instant::now();
    let calls = runtime.block_on(call(service, callers, time, usize::MAX));
    calls as f64 / started.elapsed().as_secs_f64()
}

/// Heap allocations of one call, in this thread, which is the client's.
fn allocations<T>(runtime: &Runtime, service: &T) -> Samples
where
    T: GrpcService<Body, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    T::ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    const CALLS: usize = 1_000;
    let count = || {
        let calls = call(service, CALLERS, Duration::ZERO, CALLS);
        let counted = allocation_counter::measure(|| {
            runtime.block_on(calls);
        });
        counted.count_total as f64 / (CALLERS * CALLS) as f64
    };
    count();
    Samples(vec![count()])
}

/// What is called, by name.
pub struct Clients {
    pub one: Channel,
    pub list: Channel,
    pub balance: tower_roster::balance::Balance<
        tower_roster::client::GrpcClient,
        tower_roster::balance::policy::DefaultPolicy,
        Grpc,
    >,
    pub stack: tower_roster::client::Stacked<
        tower_roster::client::GrpcClient,
        tower_roster::balance::policy::DefaultPolicy,
        Grpc,
        Replay,
        ShareReplay,
    >,
    pub channel: GrpcChannel,
}

impl Clients {
    /// In a runtime.
    pub fn of(addresses: &[String]) -> Self {
        let endpoint = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            endpoint.expect("an address").tcp_nodelay(true)
        };
        let balance = BalanceLayer::builder().classify(Grpc::default());
        let balance = balance.ejection(Ejection::new());
        let stack = Stack::grpc().build(watch(addresses).discover(GrpcEndpoints::new()));
        Self {
            one: endpoint(&addresses[0]).connect_lazy(),
            list: Channel::balance_list(addresses.iter().map(endpoint)),
            balance: balance
                .build()
                .expect("in range")
                .balance(watch(addresses).discover(GrpcEndpoints::new())),
            stack: stack.expect("defaults").service,
            channel: GrpcChannel::connect(&registry(addresses), "web").expect("defaults"),
        }
    }

    /// Has one of them called so many times by each caller, to be counted from outside.
    pub async fn drive(&self, what: &str, callers: usize, each: usize) -> Option<usize> {
        let time = Duration::ZERO;
        Some(match what {
            "grpc-channel" => call(&self.one, callers, time, each).await,
            "grpc-list" => call(&self.list, callers, time, each).await,
            "grpc-balancer" => call(&self.balance, callers, time, each).await,
            "grpc-stack" => call(&self.stack, callers, time, each).await,
            "grpc-service" => call(&self.channel, callers, time, each).await,
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
    let samples = interleave(
        2 * effort.rounds,
        vec![
            Box::new(|| rate(runtime, &clients.stack, CALLERS, time)),
            Box::new(|| rate(runtime, &clients.list, CALLERS, time)),
            Box::new(|| rate(runtime, &clients.balance, CALLERS, time)),
            Box::new(|| rate(runtime, &clients.stack, 1, time)),
            Box::new(|| rate(runtime, &clients.one, 1, time)),
            Box::new(|| rate(runtime, &clients.channel, CALLERS, time)),
            Box::new(|| rate(runtime, &clients.channel, 1, time)),
        ],
    );
    let list = allocations(runtime, &clients.list);
    vec![
        Row::new("default stack, 4 backends, 64 callers", "/s", &samples[0])
            .against("Channel::balance_list", &samples[1])
            .bar(Bar::AtLeast(1.0)),
        Row::new("balancer alone, 4 backends, 64 callers", "/s", &samples[2])
            .against("Channel::balance_list", &samples[1]),
        Row::new("default stack, 4 backends, 1 caller", "/s", &samples[3])
            .against("one Channel", &samples[4])
            .bar(Bar::AtLeast(0.95)),
        Row::new("GrpcChannel, 4 backends, 64 callers", "/s", &samples[5])
            .against("the stack that it names", &samples[0])
            .bar(Bar::AtLeast(0.97)),
        Row::new("GrpcChannel, 4 backends, 1 caller", "/s", &samples[6])
            .against("the stack that it names", &samples[3])
            .bar(Bar::AtLeast(0.97)),
        Row::new(
            "allocations of a call, GrpcChannel",
            "",
            &allocations(runtime, &clients.channel),
        )
        .against("Channel::balance_list", &list),
        Row::new(
            "allocations of a call, default stack",
            "",
            &allocations(runtime, &clients.stack),
        )
        .against("Channel::balance_list", &list),
        Row::new(
            "allocations of a call, balancer alone",
            "",
            &allocations(runtime, &clients.balance),
        )
        .against("Channel::balance_list", &list),
    ]
}
