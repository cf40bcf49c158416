//! The gRPC health protocol.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower_roster::endpoint::check::{CheckError, HealthCheck};

use super::{
    INTERVAL, failing,
    grpc_health::GrpcHealth,
    next, passing, prober,
    support::{Backend, RawServer, Script},
    until,
};

fn check() -> HealthCheck {
    HealthCheck::grpc("chat").timeout(INTERVAL * 20)
}

#[tokio::test]
async fn a_server_that_stops_serving_fails_and_recovers() {
    let server = GrpcHealth::start().await;
    let mut prober = prober(check().max_failures(2), &[("a", server.port())]);
    until(&mut prober, passing).await;
    server.set_serving(false);
    let reports = until(&mut prober, failing).await;
    let error = reports.last().unwrap().result.as_ref().unwrap_err();
    assert!(matches!(error, CheckError::NotServing(2)), "{error:?}");
    server.set_serving(true);
    until(&mut prober, passing).await;
    assert_eq!(server.asked_for(), ["chat"]);
}

/// Answers everything with these headers, this message and these trailers.
async fn answering(
    headers: &'static str,
    message: &'static [u8],
    trailers: &'static str,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = |code: &'static str| {
        let mut map = HeaderMap::new();
        if !code.is_empty() {
            map.insert("grpc-status", code.parse().unwrap());
        }
        map
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |_| async move {
                let trailers = async move { Some(Ok::<_, Infallible>(status(trailers))) };
                let body = Full::new(Bytes::from_static(message)).with_trailers(trailers);
                let mut response = Response::new(body);
                *response.headers_mut() = status(headers);
                Ok::<_, Infallible>(response)
            });
            let serving = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn statuses_are_found_in_head_and_trailers_and_bad_answers_refused() {
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
    for (headers, message, trailers, expected) in [
        ("", SERVING, "0", "Ok"),
        ("5", &[][..], "", "Grpc { code: 5,"),
        ("12", &[], "", "Ok"),
        ("", &[], "12", "Ok"),
        ("", &[], "14", "Grpc { code: 14,"),
        ("", SERVING, "13", "Grpc { code: 13,"),
        ("", SERVING, "what", "Grpc { code: 2,"),
        ("", SERVING, "", "no gRPC status"),
        ("", &[], "0", "no gRPC message"),
        ("", &[0, 0, 0, 0, 9, 8, 1], "0", "cut off"),
        ("", &[0, 0, 0, 0, 0], "0", "NotServing(0)"),
    ] {
        let address = answering(headers, message, trailers).await;
        let mut prober = prober(check(), &[("a", address.port())]);
        let result = format!("{:?}", next(&mut prober).await.result);
        assert!(result.contains(expected), "{result} for {expected}");
    }
}

#[tokio::test]
async fn what_speaks_no_grpc_fails() {
    let plain = Backend::start("a").await;
    let silent = RawServer::play([Script::new().hang()]).await;
    for port in [plain.port(), silent.addr().port()] {
        let mut prober = prober(check(), &[("a", port)]);
        let error = next(&mut prober).await.result.unwrap_err();
        assert!(!matches!(error, CheckError::Connect(_)), "{error:?}");
    }
}
