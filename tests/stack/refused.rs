//! Requests over HTTP/2 that a server refuses, and promises that it did not process.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};
use tower_roster::{
    Instance, Registry,
    balance::policy::RoundRobin,
    classify,
    client::{HttpEndpoints, Stack},
    discover::MakeEndpoint,
    registry::fixed::Fixed,
};

use crate::refusing::{Refuses, Refusing};

/// Echoes bodies over HTTP/2.
async fn echo(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        tokio::spawn(async move {
            let served = auto::Builder::new(TokioExecutor::new());
            let _ = served.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::test]
async fn a_refused_request_goes_to_another_endpoint_with_its_body_whatever_the_method() {
    for how in [Refuses::Stream, Refuses::Connection] {
        let refusing = Refusing::start(how).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let server = tokio::spawn(echo(listener));
        let listed = [refusing.addr, good].map(|addr| (addr.try_into().unwrap(), 1.into()));
        let discover = Registry::new(Fixed::new(listed)).watch("web").unwrap();
        let discover = discover.discover(HttpEndpoints::new().http2());
        let stack = Stack::http().balance(|balance| balance.policy(RoundRobin::new()));
        let built = stack.build(discover).unwrap();
        let balance = &built.handles.balance;
        balance.wait_for(|status| status.usable == 2).await.unwrap();
        for number in 0..40 {
            let text = format!("body {number}");
            let request = Request::post("http://web/").body(Full::new(Bytes::from(text.clone())));
            let answer = built.service.clone().oneshot(request.unwrap()).await;
            let body = answer.unwrap().into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes(), text, "{how:?}");
        }
        assert!(refusing.refused() > 0, "it got none: {how:?}");
        server.abort();
    }
}

#[tokio::test]
async fn the_error_of_a_refused_request_says_that_it_was_refused() {
    for how in [Refuses::Stream, Refuses::Connection] {
        let refusing = Refusing::start(how).await;
        let instance = Instance::new("web", "web-1", refusing.addr.try_into().unwrap());
        let mut client = HttpEndpoints::new()
            .http2()
            .make_endpoint(&instance)
            .unwrap();
        let request = Request::post("/").body(Full::new(Bytes::from_static(b"data")));
        let error = client.call(request.unwrap()).await.unwrap_err();
        assert!(
            error.is_refused() && !error.is_connect(),
            "{how:?} {error:?}"
        );
        assert!(classify::is_unsent(&error), "{how:?} {error:?}");
    }
}
