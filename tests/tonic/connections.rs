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

/// A client takes calls with any body; this says with which.
async fn ready(client: &mut GrpcClient) -> &mut GrpcClient {
    ServiceExt::<Request<Body>>::ready(client).await.unwrap()
}

async fn refused(client: &mut GrpcClient) -> HttpError {
    let ready = ready(client).await;
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
async fn calls_say_who_calls_and_whom() {
    let server = Server::start().await;
    let mut endpoints = GrpcEndpoints::new();
    let mut client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
    client.greet(ask("you", 0)).await.unwrap();
    let (_, own) = server.last("user-agent");
    assert!(own.starts_with("tower-roster/"), "{own}");

    let mut endpoints = GrpcEndpoints::new()
        .keep_alive(None)
        .user_agent("tests/1".parse().unwrap())
        .authority("example.org:7".parse().unwrap());
    let mut client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
    client.greet(ask("you", 0)).await.unwrap();
    let (origin, agent) = server.last("user-agent");
    assert_eq!(origin, "http://example.org:7");
    assert_eq!(agent, format!("tests/1 {own}"));
    let mut call = tonic::Request::new(ask("you", 0));
    let program = "caller/2".parse().unwrap();
    call.metadata_mut().insert("user-agent", program);
    client.greet(call).await.unwrap();
    let (_, agent) = server.last("user-agent");
    assert_eq!(agent, format!("caller/2 tests/1 {own}"));
}

#[tokio::test]
async fn calls_that_wait_for_a_connection_wait_for_the_same_one() {
    let server = Server::start().await;
    let client = endpoint(&server);
    let calls = (0..20).map(|_| {
        let mut client = GreeterClient::new(client.clone());
        async move { client.greet(ask("you", 0)).await }
    });
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    assert_eq!((server.connections(), server.calls()), (1, 20));

    let (_socket, addr) = refusing();
    let client = GrpcEndpoints::new().make_endpoint(&instance(addr)).unwrap();
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { refused(&mut client).await }
    });
    for mut error in futures_util::future::join_all(calls).await {
        assert!(error.is_connect(), "{error:?}");
        let request = error.take_request::<Body>().expect("each comes back");
        assert_eq!(request.headers().len(), 3);
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_while_it_connects_takes_nothing_from_others() {
    let server = Server::start().await;
    let client = endpoint(&server);
    let (mut first, mut second) = (client.clone(), GreeterClient::new(client));
    let mut gone = tokio_test::task::spawn(ready(&mut first).await.call(request()));
    assert!(gone.poll().is_pending());
    let call = tokio::spawn(async move { second.greet(ask("you", 0)).await });
    drop(gone);
    call.await.unwrap().unwrap();
    assert_eq!((server.connections(), server.calls()), (1, 1));
}

#[tokio::test]
async fn a_call_waits_no_longer_than_it_was_given() {
    let server = Server::start().await;
    let limit = std::time::Duration::from_millis(50);
    for set in [true, false] {
        let mut endpoints = GrpcEndpoints::new();
        if set {
            endpoints = endpoints.timeout(limit);
        }
        let mut client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
        let mut call = tonic::Request::new(ask("hold", 0));
        if !set {
            call.set_timeout(limit);
        }
        let begun = std::time::Instant::now();
        let status = client.greet(call).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(!classify::is_unsent(&status), "{status:?}");
        assert!(begun.elapsed() >= limit);
        client.greet(ask("you", 0)).await.unwrap();
        assert_eq!(server.connections(), 1 + usize::from(!set));
    }
    server.release();
}

#[tokio::test]
async fn no_more_calls_are_sent_at_a_time_than_allowed() {
    let server = Server::start().await;
    let two = std::num::NonZeroUsize::new(2).unwrap();
    let mut endpoints = GrpcEndpoints::new().concurrency_limit(two);
    let client = GreeterClient::new(endpoints.make_endpoint(&server.instance()).unwrap());
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.greet(ask("hold", 0)).await })
        })
        .collect();
    until("two are held", async || server.held() == 2).await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(server.held(), 2);
    calls[0].abort();
    until("one took its place", async || server.held() == 3).await;
    server.release();
    for call in calls.into_iter().skip(1) {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_connection_closes_with_the_last_client_and_its_last_call() {
    let server = Server::start().await;
    let client = endpoint(&server);
    let mut calling = GreeterClient::new(client.clone());
    let call = tokio::spawn(async move { calling.greet(ask("hold", 0)).await });
    until("it is held", async || server.held() == 1).await;
    drop(client);
    assert_eq!(server.open(), 1, "an answer still comes");
    server.release();
    call.await.unwrap().unwrap();
    until("it is closed", async || server.open() == 0).await;
}

#[tokio::test]
async fn a_peer_that_hangs_up_at_once_costs_a_call_one_attempt() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream)
        }
    });
    let mut client = GrpcEndpoints::new().make_endpoint(&instance(addr)).unwrap();
    for _ in 0..10 {
        let call = ready(&mut client).await.call(request());
        let call = tokio::time::timeout(std::time::Duration::from_secs(10), call);
        call.await
            .expect("it does not go round for ever")
            .unwrap_err();
    }
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
    let response = ready(&mut other).await.call(request).await.unwrap();
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
    let call = ready(&mut client).await.call(hang());
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
    let one = std::num::NonZeroUsize::MIN;
    let mut endpoints = GrpcEndpoints::new().concurrency_limit(one);
    let client = endpoints.make_endpoint(&server.instance()).unwrap();
    for _ in 0..3 {
        let mut reserved = client.clone();
        ready(&mut reserved).await;
        drop(reserved);
        let mut called = client.clone();
        drop(ready(&mut called).await.call(request()));
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
