//! The answer to health checks.

use std::net::SocketAddr;

use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_roster::{
    Registry,
    registry::memory::Memory,
    server::{Leave, Readiness, ServerState},
};

async fn status(readiness: &Readiness) -> u16 {
    let request = http::Request::get("/health").body(()).unwrap();
    let Ok(response) = readiness.clone().oneshot(request).await;
    response.status().as_u16()
}

/// The message and the status in the trailers, or the status in the head.
async fn grpc(readiness: &Readiness, path: &str) -> (Vec<u8>, String) {
    let request = http::Request::post(path).header("content-type", "application/grpc+proto");
    let Ok(response) = readiness.clone().oneshot(request.body(()).unwrap()).await;
    assert_eq!(response.status(), 200);
    let head = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status").cloned());
    let status = head.or(trailers).unwrap();
    (
        body.to_bytes().to_vec(),
        status.to_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn it_is_ready_until_the_server_is_told_to_leave() {
    let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let registry = Registry::new(Memory::new());
    let server = registry.announce("web", &address).unwrap();
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let server = server.leave_on(async { drop(told.await) });
    let (handle, readiness) = (server.handle(), server.readiness());
    let check = "/grpc.health.v1.Health/Check";
    assert_eq!(status(&readiness).await, 200);
    let serve = tokio::spawn(server.serve(async |leave: Leave| leave.await));
    handle.passing().await.unwrap();
    assert_eq!(status(&readiness).await, 200);
    assert_eq!(
        grpc(&readiness, check).await,
        (vec![0, 0, 0, 0, 2, 8, 1], "0".into())
    );
    assert_eq!(
        grpc(&readiness, "/grpc.health.v1.Health/Watch").await,
        (vec![], "12".into())
    );
    drop(tell);
    handle.reached(ServerState::Leaving).await;
    assert!(!readiness.is_ready());
    assert_eq!(status(&readiness).await, 503, "while it still serves");
    assert_eq!(
        grpc(&readiness, check).await,
        (vec![0, 0, 0, 0, 2, 8, 2], "0".into())
    );
    serve.await.unwrap().unwrap();
    assert_eq!(status(&readiness).await, 503);
}
