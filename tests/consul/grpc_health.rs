//! The gRPC health service, as little of it as an agent's check needs.
#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::support::rt;

/// A running server; dropping it ends it.
pub(crate) struct GrpcHealth {
    port: u16,
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

struct Shared {
    serving: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl GrpcHealth {
    pub(crate) async fn start() -> GrpcHealth {
        let bound = rt().spawn(TcpListener::bind("127.0.0.1:0"));
        let listener = bound.await.expect("the harness runs").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let shared = Arc::new(Shared {
            serving: AtomicBool::new(true),
            asked: Mutex::default(),
        });
        let task = rt().spawn(accept(listener, shared.clone())).abort_handle();
        GrpcHealth { port, shared, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set_serving(&self, serving: bool) {
        self.shared.serving.store(serving, SeqCst);
    }

    /// The services that were asked about, each once.
    pub(crate) fn asked_for(&self) -> Vec<String> {
        let mut asked = self.shared.asked.lock().unwrap().clone();
        asked.dedup();
        asked
    }
}

impl Drop for GrpcHealth {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let service = service_fn(move |request| check(request, shared.clone()));
        let serving = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
    }
}

async fn check(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    // Five bytes of framing, then field 1, a text.
    let service = body.get(7..).unwrap_or_default();
    let service = String::from_utf8_lossy(service).into_owned();
    shared.asked.lock().unwrap().push(service);
    let status = if shared.serving.load(SeqCst) { 1 } else { 2 };
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}
