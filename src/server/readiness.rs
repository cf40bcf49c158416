//! The answer of a server to health checks, over HTTP and gRPC.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch as cell;
use tower::Service;

use super::progress::{Progress, ServerState};

/// Answers health checks: ready while the server serves, and not ready from the moment it leaves.
///
/// It is a [`Service`] for any path. Over HTTP it answers 200 or 503. To `grpc.health.v1.Health/Check` it
/// answers `SERVING` or `NOT_SERVING`, for each name of a service; with the feature `tonic`, tonic's servers
/// take it as a service.
///
/// # Examples
/// ```text
/// let app = axum::Router::new().route_service("/health", server.readiness());
/// let tonic = tonic::transport::Server::builder().add_service(server.readiness());
/// ```
#[derive(Clone)]
pub struct Readiness(cell::Receiver<Progress>);

impl Readiness {
    pub(super) fn new(progress: cell::Receiver<Progress>) -> Self {
        Self(progress)
    }

    /// Whether the server has not been told to leave.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().state < ServerState::Leaving
    }

    /// Returns the response to a health check over HTTP.
    pub fn response(&self) -> Response<ReadinessBody> {
        let (status, text) = match self.is_ready() {
            true => (StatusCode::OK, "ready\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
        };
        let mut response = Response::new(ReadinessBody::text(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn grpc_response(&self, path: &str) -> Response<ReadinessBody> {
        let known = path.ends_with("/Check");
        let mut response = Response::new(match known {
            true => ReadinessBody::grpc(self.is_ready()),
            false => ReadinessBody::default(),
        });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if !known {
            // UNIMPLEMENTED: there is no `Watch`.
            headers.insert("grpc-status", HeaderValue::from_static("12"));
        }
        response
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.is_ready()).finish()
    }
}

impl<B> Service<Request<B>> for Readiness {
    type Response = Response<ReadinessBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let content = request.headers().get(CONTENT_TYPE);
        let is_grpc =
            content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
        ready(Ok(match is_grpc {
            true => self.grpc_response(request.uri().path()),
            false => self.response(),
        }))
    }
}

#[cfg(feature = "tonic")]
impl tonic::server::NamedService for Readiness {
    const NAME: &'static str = "grpc.health.v1.Health";
}

/// The body of a response to a health check.
#[derive(Debug, Default)]
pub struct ReadinessBody {
    data: Bytes,
    /// Whether trailers with the status OK of gRPC follow.
    trailers: bool,
}

impl ReadinessBody {
    fn text(text: &'static str) -> Self {
        Self {
            data: Bytes::from_static(text.as_bytes()),
            trailers: false,
        }
    }

    /// A `HealthCheckResponse`: not compressed, 2 bytes long, field 1 is `SERVING` or `NOT_SERVING`.
    fn grpc(ready: bool) -> Self {
        let message: &[u8] = match ready {
            true => &[0, 0, 0, 0, 2, 8, 1],
            false => &[0, 0, 0, 0, 2, 8, 2],
        };
        Self {
            data: Bytes::from_static(message),
            trailers: true,
        }
    }
}

impl Body for ReadinessBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.data)))));
        }
        Poll::Ready(mem::take(&mut self.trailers).then(|| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            Ok(Frame::trailers(trailers))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.trailers
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}
