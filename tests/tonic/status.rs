//! What a generated client is told of calls that got no answer.

use std::{error::Error, time::Duration};

use tonic::{Code, Status, body::Body};
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_roster::{
    Registry, RequestErrorKind, balance,
    classify::is_unsent,
    client::{GrpcEndpoints, Stack, StatusLayer},
    registry::{Watch, fixed::Fixed},
    service::{breaker::BreakerLayer, retry::RetrySettings},
};

use crate::{greeter::greeter_client::GreeterClient, outcomes::ask, server::Server};

type Greeters = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// A client of whatever service.
macro_rules! client {
    ($service:expr) => {
        GreeterClient::new(Greeters::new(
            ServiceBuilder::new()
                .layer(StatusLayer)
                .map_response(|response: http::Response<_>| response.map(Body::new))
                .service($service),
        ))
    };
}

fn watched(servers: &[&Server]) -> Watch {
    let listed = servers.iter().map(|server| {
        let address = server.addr.try_into().unwrap();
        (address, 1.into())
    });
    let registry = Registry::new(Fixed::new(listed));
    registry.watch("greeter").unwrap()
}

/// The error that a status was made of.
fn cause<E: Error + 'static>(status: &Status) -> &E {
    let mut next = status.source();
    while let Some(error) = next {
        match error.downcast_ref() {
            Some(found) => return found,
            None => next = error.source(),
        }
    }
    panic!("{status:?} has no such cause");
}

/// What the status tells of the error that it was made of.
fn kind(status: &Status) -> &'static str {
    RequestErrorKind::of(status).as_str()
}

#[tokio::test]
async fn a_set_without_endpoints_is_unavailable() {
    let stack = Stack::grpc().balance(|balance| balance.wait(Duration::from_millis(50)));
    let stack = stack.build(watched(&[]).discover(GrpcEndpoints::new()));
    let status = client!(stack.unwrap().service)
        .greet(ask("you", 0))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(cause::<balance::BalanceError>(&status).is_no_endpoint());
    assert!(is_unsent(&status), "it may go to another balancer");
    assert_eq!(kind(&status), "no_instance");
}

#[tokio::test]
async fn a_server_that_hangs_is_a_deadline_that_was_exceeded() {
    let server = Server::start().await;
    let tries = RetrySettings::new().try_timeout(Duration::from_millis(100));
    for (stack, why) in [
        (Stack::grpc().timeout(Duration::from_millis(100)), "timeout"),
        (Stack::grpc().retry(tries), "try_timeout"),
    ] {
        let stack = stack.build(watched(&[&server]).discover(GrpcEndpoints::new()));
        let status = client!(stack.unwrap().service)
            .greet(ask("hold", 0))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(!is_unsent(&status));
        assert_eq!(kind(&status), why);
    }
    server.release();
}

#[tokio::test]
async fn what_the_server_says_is_told_as_it_was_said() {
    let server = Server::start().await;
    let stack = Stack::grpc().build(watched(&[&server]).discover(GrpcEndpoints::new()));
    let status = client!(stack.unwrap().service)
        .greet(ask("fail 7", 0))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "as asked")
    );
    assert_eq!(kind(&status), "other", "its connection did not break");
}

#[tokio::test]
async fn an_open_breaker_is_unavailable() {
    let server = Server::start().await;
    let breaker = BreakerLayer::default();
    breaker.handle().force_open();
    let stack = Stack::grpc().shared_breaker(breaker);
    let stack = stack.build(watched(&[&server]).discover(GrpcEndpoints::new()));
    let status = client!(stack.unwrap().service)
        .greet(ask("you", 0))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(is_unsent(&status));
    assert_eq!(kind(&status), "breaker_open");
    assert_eq!(server.calls(), 0);
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn connections_of_our_own_client_that_fail_or_break_are_unavailable() {
    use tower_roster::{client::HttpEndpoints, discover::MakeEndpoint};

    let server = Server::start().await;
    let addr = server.addr;
    let mut endpoints = HttpEndpoints::<Body>::new().http2();
    let mut client = client!(endpoints.make_endpoint(&server.instance()).unwrap());
    let mut held = client.clone();
    let held = tokio::spawn(async move { held.greet(ask("hold", 0)).await });
    crate::server::until("the call is held", async || server.held() == 1).await;
    drop(server);
    let status = held.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(!is_unsent(&status), "it was under way: {status:?}");
    assert_eq!(kind(&status), "connection");
    let status = client.greet(ask("you", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{addr}: {status:?}");
    assert!(is_unsent(&status), "{status:?}");
    assert_eq!(kind(&status), "connect");
}
