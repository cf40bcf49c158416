//! Unary and streaming calls over several instances, through endpoints and tower's balancer.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::stream;
use tonic::body::Body;
use tower::{balance::p2c::Balance, discover::ServiceList};
use tower_roster::{
    classify::Grpc,
    client::{GrpcClient, GrpcEndpoints},
    discover::MakeEndpoint,
    endpoint::{
        Endpoint, MeasuredEndpoint,
        load::{InFlight, LoadTracker, PeakEwma},
    },
};

use crate::{
    greeter::greeter_client::GreeterClient,
    outcomes::ask,
    server::{Server, instance, refusing},
};

type GrpcEndpoint<L> = MeasuredEndpoint<GrpcClient, L, Grpc>;

fn endpoint<L: LoadTracker>(instance: tower_roster::Instance, load: L) -> GrpcEndpoint<L> {
    let client = GrpcEndpoints::new().make_endpoint(&instance).unwrap();
    Endpoint::new(client, Arc::new(instance))
        .measured(load)
        .classify(Grpc::default())
}

type Balanced<L> = Balance<ServiceList<Vec<GrpcEndpoint<L>>>, http::Request<Body>>;

fn balance<L: LoadTracker>(endpoints: &[GrpcEndpoint<L>]) -> GreeterClient<Balanced<L>> {
    GreeterClient::new(Balance::new(ServiceList::new::<http::Request<Body>>(
        endpoints.to_vec(),
    )))
}

#[tokio::test]
async fn unary_calls_reach_every_instance() {
    let servers = [Server::start().await, Server::start().await];
    let endpoints = servers
        .each_ref()
        .map(|server| endpoint(server.instance(), InFlight::new()));
    let mut client = balance(&endpoints);
    let mut by_server = BTreeMap::new();
    for _ in 0..50 {
        let answer = client.greet(ask("you", 0)).await.unwrap().into_inner();
        *by_server.entry(answer.server).or_insert(0) += 1;
    }
    for server in &servers {
        assert!(by_server[&server.addr.to_string()] > 0, "{by_server:?}");
    }
    assert!(endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
}

#[tokio::test]
async fn a_stream_is_in_flight_until_its_trailers() {
    let servers = [Server::start().await, Server::start().await];
    let endpoints = servers
        .each_ref()
        .map(|server| endpoint(server.instance(), InFlight::new()));
    let in_flight = || endpoints.each_ref().map(|endpoint| endpoint.in_flight());
    let mut client = balance(&endpoints);
    // With one in flight at each, because a second goes where there is none.
    let mut first = client.greet_all(ask("all", 2)).await.unwrap().into_inner();
    let second = client.greet_all(ask("hang", 2)).await.unwrap().into_inner();
    assert_eq!(in_flight(), [1, 1]);
    drop(second);
    assert_eq!(in_flight().iter().sum::<usize>(), 1);
    while first.message().await.unwrap().is_some() {}
    assert_eq!(in_flight(), [0, 0]);
}

#[tokio::test]
async fn a_conversation_goes_both_ways() {
    let server = Server::start().await;
    let endpoints = [endpoint(server.instance(), PeakEwma::new())];
    let mut client = balance(&endpoints);
    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
    let answers = client.converse(Box::pin(said)).await.unwrap();
    let mut answers = answers.into_inner();
    for name in ["one", "two", "three"] {
        say.send(ask(name, 0)).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.text, format!("hello, {name}"));
        assert_eq!(endpoints[0].in_flight(), 1);
    }
    drop(say);
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(endpoints[0].in_flight(), 0);
}

#[tokio::test]
async fn an_instance_that_fails_in_its_trailers_costs_more_than_a_good_one() {
    let server = Server::start().await;
    let [good, bad] = [(); 2].map(|()| endpoint(server.instance(), PeakEwma::new()));
    let mut client = balance(std::slice::from_ref(&good));
    let mut answers = client.greet_all(ask("all", 2)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let mut client = balance(std::slice::from_ref(&bad));
    let mut answers = client
        .greet_all(ask("fail 14", 2))
        .await
        .unwrap()
        .into_inner();
    while answers.message().await.is_ok_and(|answer| answer.is_some()) {}
    let now = tokio::time::Instant::now();
    let (good, bad) = (good.cost(now), bad.cost(now));
    assert!(
        bad > 4.0 && good < 4.0,
        "{bad} for failing, {good} for answering"
    );
}

#[tokio::test]
async fn an_instance_that_is_gone_is_avoided() {
    let server = Server::start().await;
    let (_socket, gone) = refusing();
    let endpoints =
        [server.instance(), instance(gone)].map(|instance| endpoint(instance, PeakEwma::new()));
    let mut client = balance(&endpoints);
    let mut failed = 0;
    for _ in 0..50 {
        failed += usize::from(client.greet(ask("you", 0)).await.is_err());
    }
    assert_eq!(failed, 1, "the one that finds out");
}
