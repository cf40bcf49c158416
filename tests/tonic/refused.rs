//! Calls that a server refuses, and promises that it did not process.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use tokio::net::TcpListener;
use tonic::{
    Code,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{ServiceBuilder, discover::ServiceList};
use tower_roster::{
    Registry,
    balance::policy::RoundRobin,
    classify,
    client::{GrpcEndpoints, Stack},
    discover::MakeEndpoint,
    registry::fixed::Fixed,
    service::retry::{Replay, ReplayBody},
};

use crate::{
    greeter::greeter_client::GreeterClient,
    outcomes::ask,
    refusing::{Refuses, Refusing, refuse},
    server::{Server, Wire, instance},
};

const BOTH: [Refuses; 2] = [Refuses::Stream, Refuses::Connection];

#[tokio::test]
async fn a_refused_call_goes_to_another_endpoint_whole_and_without_charge() {
    for how in BOTH {
        let (refusing, good) = (Refusing::start(how).await, Server::start().await);
        let listed = [refusing.addr, good.addr].map(|addr| (addr.try_into().unwrap(), 1.into()));
        let discover = Registry::new(Fixed::new(listed)).watch("greeter").unwrap();
        let stack = Stack::grpc().balance(|balance| balance.policy(RoundRobin::new()));
        let built = stack
            .build(discover.discover(GrpcEndpoints::new()))
            .unwrap();
        let balance = &built.handles.balance;
        balance.wait_for(|status| status.usable == 2).await.unwrap();
        let mut client = GreeterClient::new(built.service);
        for call in 0..60 {
            let name = format!("number {call}");
            let answer = client.greet(ask(&name, 0)).await.unwrap().into_inner();
            assert_eq!(answer.text, format!("hello, {name}"), "{how:?}");
            assert_eq!(answer.server, good.addr.to_string());
        }
        assert!(refusing.refused() > 0, "it got none: {how:?}");
        assert_eq!(
            built.handles.budget.as_ref().unwrap().withdrawn(),
            0,
            "{how:?}"
        );
    }
}

#[tokio::test]
async fn a_refused_call_over_channels_goes_to_another_endpoint_whole() {
    for how in BOTH {
        let (refusing, good) = (Refusing::start(how).await, Server::start().await);
        let channel = |addr: SocketAddr| -> Channel {
            let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
            endpoint.connect_lazy()
        };
        let endpoints = [refusing.addr, good.addr].map(|addr| {
            ServiceBuilder::new()
                .map_request(|call: http::Request<ReplayBody<Body>>| call.map(Body::new))
                .service(channel(addr))
        });
        let list = ServiceList::new::<http::Request<ReplayBody<Body>>>(endpoints.to_vec());
        let built = Stack::grpc()
            .balance(|balance| balance.policy(RoundRobin::new()))
            .reissue(Replay::new())
            .build_plain(list)
            .unwrap();
        let balance = &built.handles.balance;
        balance.wait_for(|status| status.usable == 2).await.unwrap();
        let mut client = GreeterClient::new(built.service);
        for call in 0..40 {
            let name = format!("number {call}");
            let answer = client.greet(ask(&name, 0)).await.unwrap().into_inner();
            assert_eq!(answer.text, format!("hello, {name}"), "{how:?}");
            assert_eq!(answer.server, good.addr.to_string());
        }
        assert!(refusing.refused() > 0, "it got none: {how:?}");
    }
}

#[tokio::test]
async fn a_refused_call_to_a_single_endpoint_is_unavailable_and_known_as_unsent() {
    let refusing = Refusing::start(Refuses::Stream).await;
    let endpoint = GrpcEndpoints::new().make_endpoint(&instance(refusing.addr));
    let mut client = GreeterClient::new(endpoint.unwrap());
    let status = client.greet(ask("you", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(classify::is_unsent(&status), "{status:?}");
    let call: http::Request<Body> = classify::reclaim(&status).expect("the call comes back");
    assert!(call.uri().path().ends_with("/Greet"));
    assert_eq!(refusing.refused(), 1);
}

#[tokio::test]
async fn a_call_that_the_end_of_its_connection_excludes_goes_over_a_new_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let endpoint = GrpcEndpoints::new().make_endpoint(&instance(addr));
    let mut client = GreeterClient::new(endpoint.unwrap());
    let call = tokio::spawn(async move { client.greet(ask("you", 0)).await });
    let (first, _) = listener.accept().await.unwrap();
    let refused = Arc::<AtomicUsize>::default();
    refuse(first, Refuses::Connection, Arc::clone(&refused)).await;
    let server = Server::over(listener, Wire::Plain);
    let answer = call.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.text, "hello, you");
    assert_eq!((server.connections(), server.calls()), (1, 1));
}
