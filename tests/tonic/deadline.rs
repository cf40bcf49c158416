//! Calls whose caller waits for a limited time.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::net::TcpListener;
use tonic::Code;
use tower::Layer;
use tower_roster::{
    Deadline, Registry,
    balance::{BalanceLayer, policy::RoundRobin},
    classify::Grpc,
    client::{GrpcEndpoints, Stack, StatusLayer},
    discover::MakeEndpoint,
    endpoint::{
        Endpoint,
        eject::Ejection,
        load::{LoadTracker, Outcome},
    },
    registry::fixed::Fixed,
    service::retry::{Replay, RetryError, RetrySettings},
};

use crate::{
    greeter::greeter_client::GreeterClient,
    outcomes::ask,
    refusing::{Refuses, refuse},
    server::{Server, Wire, instance, until},
};

const MS: Duration = Duration::from_millis(1);

/// The timeout that a server was told last, in milliseconds. It is in microseconds there.
fn told(server: &Server) -> f64 {
    let (_, text) = server.last("grpc-timeout");
    let micros = text.strip_suffix('u').expect("it is rewritten");
    micros.parse::<f64>().unwrap() / 1_000.0
}

#[tokio::test]
async fn a_call_that_hangs_everywhere_exceeds_its_deadline_once_for_all_attempts() {
    for repeats in [false, true] {
        let servers = [Server::start().await, Server::start().await];
        let addrs = servers.each_ref().map(|server| server.addr);
        let listed = addrs.map(|addr| (addr.try_into().unwrap(), 1.into()));
        let discover = Registry::new(Fixed::new(listed)).watch("greeter").unwrap();
        let replay = Replay::new().reclaiming();
        let built = Stack::grpc()
            .reissue(replay.idempotent(if repeats { |_| true } else { |_| false }))
            .build(discover.discover(GrpcEndpoints::new()))
            .unwrap();
        let balance = &built.handles.balance;
        balance.wait_for(|status| status.usable == 2).await.unwrap();
        let mut client = GreeterClient::new(StatusLayer.layer(built.service));
        for _ in 0..3 {
            let mut call = tonic::Request::new(ask("hold", 0));
            call.set_timeout(300 * MS);
            let begun = Instant::now();
            let status = client.greet(call).await.unwrap_err();
            let took = begun.elapsed();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            assert!((300 * MS..850 * MS).contains(&took), "{took:?}");
        }
    }
}

#[tokio::test]
async fn each_attempt_carries_the_time_that_remains() {
    let servers = [Server::start().await, Server::start().await];
    let addrs = servers.each_ref().map(|server| server.addr);
    let listed = addrs.map(|addr| (addr.try_into().unwrap(), 1.into()));
    let discover = Registry::new(Fixed::new(listed)).watch("greeter").unwrap();
    let built = Stack::grpc()
        .balance(|balance| balance.policy(RoundRobin::new()))
        .reissue(Replay::new().idempotent(|_| true))
        .retry(RetrySettings::new().try_timeout(100 * MS))
        .hedge(None)
        .build(discover.discover(GrpcEndpoints::new()))
        .unwrap();
    let balance = &built.handles.balance;
    balance.wait_for(|status| status.usable == 2).await.unwrap();
    let mut client = GreeterClient::new(StatusLayer.layer(built.service));
    let mut call = tonic::Request::new(ask("hold", 0));
    call.set_timeout(20_000 * MS);
    let call = tokio::spawn(async move { client.greet(call).await });
    until("both got it", || async {
        servers.iter().all(|server| server.held() > 0)
    })
    .await;
    let mut told = servers.each_ref().map(told);
    told.sort_by(f64::total_cmp);
    let [later, first] = told;
    assert!(first <= 20_000.0 && first > 10_000.0, "{first}");
    assert!(later <= first - 99.0, "{later} after {first}");
    call.abort();
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_is_not_sent() {
    let server = Server::start().await;
    let endpoint = GrpcEndpoints::new().make_endpoint(&server.instance());
    let mut client = GreeterClient::new(endpoint.unwrap());
    let mut call = tonic::Request::new(ask("you", 0));
    let extensions = call.extensions_mut();
    extensions.insert(Deadline::within(Duration::ZERO));
    let status = client.greet(call).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!((server.calls(), server.connections()), (0, 0));
}

/// A caller that waits for a short time proves nothing about the endpoints, which answer later.
#[tokio::test]
async fn a_deadline_that_is_too_short_is_no_failure_of_the_endpoint() {
    let server = Server::start().await;
    let listed = [(server.addr.try_into().unwrap(), 1.into())];
    let discover = Registry::new(Fixed::new(listed)).watch("greeter").unwrap();
    let built = Stack::grpc()
        .reissue(Replay::new().reclaiming().idempotent(|_| true))
        .hedge(None)
        .build(discover.discover(GrpcEndpoints::new()))
        .unwrap();
    let balance = &built.handles.balance;
    balance.wait_for(|status| status.usable == 1).await.unwrap();
    let mut client = GreeterClient::new(StatusLayer.layer(built.service));
    client.greet(ask("you", 0)).await.unwrap();
    for _ in 0..8 {
        let mut call = tonic::Request::new(ask("hold", 0));
        call.set_timeout(5 * MS);
        let status = client.greet(call).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let why = std::error::Error::source(&status);
        let retried = why.is_some_and(|why| why.is::<RetryError>());
        assert!(!retried, "the caller no longer waits: {status:?}");
    }
    let endpoints = balance.endpoints().await.unwrap();
    assert_eq!(endpoints[0].failures, 0, "{endpoints:?}");
}

/// Without a retry, whose own timer could be the first.
#[tokio::test]
async fn only_a_limit_of_the_client_itself_is_a_failure_of_the_endpoint() {
    for (limit, failures) in [(None, 0), (Some(10 * MS), 2)] {
        let server = Server::start().await;
        let listed = [(server.addr.try_into().unwrap(), 1.into())];
        let discover = Registry::new(Fixed::new(listed)).watch("greeter").unwrap();
        let mut endpoints = GrpcEndpoints::new();
        if let Some(limit) = limit {
            endpoints = endpoints.timeout(limit);
        }
        let balance = BalanceLayer::builder().classify(Grpc::default());
        let layer = balance.ejection(Ejection::new()).build().unwrap();
        let service = layer.balance(discover.discover(endpoints));
        let handle = service.handle();
        handle.wait_for(|status| status.usable == 1).await.unwrap();
        let mut client = GreeterClient::new(StatusLayer.layer(service));
        for deadline in [20 * MS, 20 * MS, Duration::ZERO] {
            let mut call = tonic::Request::new(ask("hold", 0));
            call.extensions_mut().insert(Deadline::within(deadline));
            let status = client.greet(call).await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        }
        let seen = handle.endpoints().await.unwrap();
        assert_eq!(seen[0].failures, failures, "{limit:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_sent_again_carries_the_time_that_remains() {
    for header in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let endpoint = GrpcEndpoints::new().make_endpoint(&instance(addr));
        let mut client = GreeterClient::new(endpoint.unwrap());
        let mut call = tonic::Request::new(ask("you", 0));
        if header {
            call.set_timeout(20_000 * MS);
        } else {
            call.extensions_mut().insert(Deadline::within(20_000 * MS));
        }
        let call = tokio::spawn(async move { client.greet(call).await });
        let (first, _) = listener.accept().await.unwrap();
        tokio::time::sleep(100 * MS).await;
        refuse(first, Refuses::Connection, Arc::default()).await;
        let server = Server::over(listener, Wire::Plain);
        call.await.unwrap().unwrap();
        let told = told(&server);
        assert!(told <= 19_900.0, "{told} ms: {header}");
    }
}

#[tokio::test]
async fn a_call_that_waited_for_its_turn_carries_the_time_that_remains() {
    for header in [false, true] {
        let server = Server::start().await;
        let mut endpoints = GrpcEndpoints::new().concurrency_limit(NonZeroUsize::MIN);
        let client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
        let (mut first, mut second) = (client.clone(), client);
        let first = tokio::spawn(async move { first.greet(ask("hold", 0)).await });
        until("it is held", || async { server.held() == 1 }).await;
        let mut call = tonic::Request::new(ask("you", 0));
        if header {
            call.set_timeout(20_000 * MS);
        } else {
            call.extensions_mut().insert(Deadline::within(20_000 * MS));
        }
        let mut call = tokio_test::task::spawn(async move { second.greet(call).await });
        assert!(call.poll().is_pending());
        tokio::time::sleep(100 * MS).await;
        server.release();
        call.await.unwrap();
        first.await.unwrap().unwrap();
        let told = told(&server);
        assert!(told <= 19_900.0, "{told} ms: {header}");
    }
}

/// Writes down every outcome.
#[derive(Clone, Debug, Default)]
struct Outcomes(Arc<Mutex<Vec<Outcome>>>);

impl LoadTracker for Outcomes {
    fn fresh(&self, _: tokio::time::Instant) -> Self {
        self.clone()
    }

    fn record(&self, outcome: Outcome, _: Duration, _: tokio::time::Instant) {
        self.0.lock().unwrap().push(outcome);
    }

    fn load(&self, _: usize, _: tokio::time::Instant) -> f64 {
        1.0
    }
}

#[tokio::test]
async fn a_deadline_of_the_caller_is_no_failure_for_the_load_of_an_endpoint() {
    let server = Server::start().await;
    let client = GrpcEndpoints::new().make_endpoint(&server.instance());
    let outcomes = Outcomes::default();
    let endpoint = Endpoint::new(client.unwrap(), Arc::new(server.instance()));
    let endpoint = endpoint
        .measured(outcomes.clone())
        .classify(Grpc::default());
    let mut client = GreeterClient::new(endpoint);
    for time in [100 * MS, Duration::ZERO] {
        let mut call = tonic::Request::new(ask("hold", 0));
        call.extensions_mut().insert(Deadline::within(time));
        let status = client.greet(call).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    let outcomes = outcomes.0.lock().unwrap().clone();
    assert_eq!(outcomes, [Outcome::Cancelled; 2]);
}
