//! One channel for each instance: when it connects, what it says, and what comes back from it.

use http::Request;
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};
use tower_roster::{
    BoxError,
    classify::{self, Verdict},
    client::{GrpcClient, GrpcEndpoints, HttpError},
    discover::MakeEndpoint,
};

use crate::{
    greeter::greeter_client::GreeterClient,
    judged::{Judged, Word::Head},
    outcomes::ask,
    server::{Server, Wire, instance, refusing, until},
};

fn endpoint(server: &Server) -> GrpcClient {
    GrpcEndpoints::new()
        .make_endpoint(&server.instance())
        .unwrap()
}

/// A call as a generated client would make it.
fn request() -> Request<Body> {
    let message = &b"\0\0\0\0\x05\x0a\x03you"[..];
    let body = http_body_util::Full::new(bytes::Bytes::from_static(message));
    let request = Request::post("/greeter.Greeter/Greet")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-trace", "abc");
    request.extension(42u8).body(Body::new(body)).unwrap()
}

async fn refused(client: &mut GrpcClient) -> HttpError {
    let ready = client.ready().await.unwrap();
    ready.call(request()).await.unwrap_err()
}

#[tokio::test]
async fn it_connects_when_a_call_needs_it_and_once() {
    let server = Server::start().await;
    let mut client = GreeterClient::new(endpoint(&server));
    assert_eq!(server.connections(), 0);
    for _ in 0..3 {
        client.clone().greet(ask("you", 0)).await.unwrap();
        client.greet(ask("you", 0)).await.unwrap();
    }
    assert_eq!((server.connections(), server.calls()), (1, 6));
}

#[tokio::test]
async fn a_call_names_the_service_and_goes_to_the_instance() {
    let server = Server::start().await;
    let mut client = GreeterClient::new(endpoint(&server));
    client.greet(ask("you", 0)).await.unwrap();
    assert_eq!(
        server.last("te"),
        ("http://greeter".into(), "trailers".into())
    );
}

#[tokio::test]
async fn the_channel_is_configured_as_the_caller_likes() {
    let server = Server::start().await;
    let mut endpoints = GrpcEndpoints::new()
        .keep_alive(None)
        .configure(|endpoint| endpoint.user_agent("tests").unwrap());
    let mut client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
    client.greet(ask("you", 0)).await.unwrap();
    let (origin, agent) = server.last("user-agent");
    assert_eq!(origin, "http://greeter");
    assert!(agent.starts_with("tests"), "{agent}");
}

#[tokio::test]
async fn a_refused_call_comes_back_as_it_was_and_goes_elsewhere() {
    let (_socket, addr) = refusing();
    let mut client = GrpcEndpoints::new().make_endpoint(&instance(addr)).unwrap();
    let error = refused(&mut client).await;
    assert!(error.is_connect() && error.address().to_string() == addr.to_string());
    let error: BoxError = error.into();
    assert!(classify::is_unsent(&*error), "{error:?}");
    let request: Request<Body> = classify::reclaim(&*error).expect("it was not sent");
    assert_eq!(request.uri(), "/greeter.Greeter/Greet");
    assert_eq!(
        (&request.headers()["x-trace"], request.headers().len()),
        (&"abc".parse().unwrap(), 3)
    );
    assert_eq!(request.extensions().get(), Some(&42u8));

    let server = Server::start().await;
    let mut other = endpoint(&server);
    let response = other.ready().await.unwrap().call(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert!(String::from_utf8_lossy(&body.to_bytes()).contains("hello, you"));
}

#[tokio::test]
async fn a_killed_server_fails_its_calls_and_serves_again_at_the_same_address() {
    let server = Server::start().await;
    let addr = server.addr;
    let judged = Judged::new(endpoint(&server));
    let mut client = GreeterClient::new(judged.clone());
    client.greet(ask("you", 0)).await.unwrap();
    judged.told();
    drop(server);
    until("the port is closed", || async {
        tokio::net::TcpStream::connect(addr).await.is_err()
    })
    .await;
    for _ in 0..3 {
        let status = client.greet(ask("you", 0)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(judged.told(), [Head(Verdict::FAILURE)]);
    }
    let _server = Server::on(addr, Wire::Plain).await;
    until("it is back", || {
        let mut client = client.clone();
        async move { client.greet(ask("you", 0)).await.is_ok() }
    })
    .await;
}

#[tokio::test]
async fn what_was_sent_never_comes_back() {
    let server = Server::start().await;
    let mut client = endpoint(&server);
    let hang = || {
        let request = request();
        let (mut head, body) = request.into_parts();
        head.uri = "/greeter.Greeter/Converse".parse().unwrap();
        // A message, and then no end.
        let data = http_body_util::BodyStream::new(body);
        let open = futures_util::StreamExt::chain(data, futures_util::stream::pending());
        Request::from_parts(head, Body::new(http_body_util::StreamBody::new(open)))
    };
    let call = client.ready().await.unwrap().call(hang());
    let response = call.await.unwrap();
    drop(server);
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    let status = body.unwrap_err();
    assert!(!classify::is_unsent(&status), "{status:?}");
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let addr = "127.0.0.1:1".parse().unwrap();
    let made = GrpcEndpoints::new().make_endpoint(&instance(addr));
    assert!(made.unwrap_err().to_string().contains("runtime"));
}

#[tokio::test]
async fn a_dropped_call_or_reservation_takes_no_place() {
    let server = Server::start().await;
    let mut endpoints = GrpcEndpoints::new().configure(|endpoint| endpoint.buffer_size(1));
    let client = endpoints.make_endpoint(&server.instance()).unwrap();
    for _ in 0..3 {
        let mut reserved = client.clone();
        reserved.ready().await.unwrap();
        drop(reserved);
        let mut called = client.clone();
        drop(called.ready().await.unwrap().call(request()));
    }
    GreeterClient::new(client)
        .greet(ask("you", 0))
        .await
        .unwrap();
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn endpoints_over_http2_serve_generated_clients_too() {
    let server = Server::start().await;
    let mut endpoints = tower_roster::client::HttpEndpoints::<Body>::new().http2();
    let mut client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
    client.greet(ask("you", 0)).await.unwrap();
    let mut answers = client
        .greet_all(ask("fail 14", 2))
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().unwrap();
    answers.message().await.unwrap().unwrap();
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::Unavailable
    );
}
