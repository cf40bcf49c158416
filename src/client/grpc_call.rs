//! A call over gRPC: what is sent, and what its failure is to the caller.

use std::{
    fmt,
    future::{Future, ready},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header::USER_AGENT};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Code, ConnectError, Status, body::Body};
use tower::Service;

use super::{
    body::HttpBody,
    erased::Erased,
    error::HttpError,
    http2::{Failure, Http2},
    uri::Place,
};
use crate::error::BoxError;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Sends calls to one instance over gRPC. Cheap to clone; clones share the connection, which closes
/// when the last clone is dropped and the last call has ended.
///
/// Generated clients accept it directly, or behind a balancer. It takes calls with any body, so
/// that a layer above may wrap the body of the generated client, as
/// [`Replay`](crate::service::retry::Replay) does. Calls carry the name of the service as their
/// authority, whatever their URI says.
///
/// # Errors
/// [`HttpError`]; if [`is_connect`](HttpError::is_connect) is true, the call was not sent, and
/// [`take_request`](HttpError::take_request) returns it. A generated client converts the error to
/// a status: `UNAVAILABLE` when there was no connection or it broke.
#[derive(Clone)]
pub struct GrpcClient(Arc<Calls>);

/// What the clones of a client share.
pub(super) struct Calls {
    pub(super) http2: Arc<Http2<Erased>>,
    pub(super) place: Arc<Place>,
    /// Scheme and authority of all calls.
    pub(super) origin: Uri,
    pub(super) user_agent: HeaderValue,
    pub(super) timeout: Option<Duration>,
    /// Where calls wait, if their number is limited.
    pub(super) places: Option<Semaphore>,
}

impl<B> Service<Request<B>> for GrpcClient
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<HttpBody>;
    type Error = HttpError;
    type Future = GrpcFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> GrpcFuture {
        let shared = &self.0;
        let limit = shared.limit(request.headers());
        let given = match shared.prepare(&mut request) {
            Ok(given) => given,
            Err(why) => {
                let error = HttpError::invalid(Arc::clone(&shared.place), why);
                return GrpcFuture(Box::pin(ready(Err(error))));
            }
        };
        let request = request.map(Erased::new);
        if limit.is_none() && shared.places.is_none() {
            let (exchange, shared) = (shared.http2.send(request), Arc::clone(shared));
            return GrpcFuture(Box::pin(async move {
                let result = exchange.await;
                result.map_err(|failure| shared.fail::<B>(failure, given))
            }));
        }
        let shared = Arc::clone(shared);
        GrpcFuture(Box::pin(async move {
            let exchange = async {
                let _place = match &shared.places {
                    Some(places) => places.acquire().await.ok(),
                    None => None,
                };
                shared.http2.send(request).await
            };
            let result = match limit {
                Some(limit) => match timeout(limit, exchange).await {
                    Ok(result) => result,
                    Err(_) => return Err(shared.late(limit)),
                },
                None => exchange.await,
            };
            result.map_err(|failure| shared.fail::<B>(failure, given))
        }))
    }
}

impl GrpcClient {
    pub(super) fn new(calls: Calls) -> Self {
        Self(Arc::new(calls))
    }
}

impl Calls {
    /// Sets the URI and headers that are sent. Returns the former values.
    fn prepare<B>(&self, request: &mut Request<B>) -> Result<Given, String> {
        let uri = request.uri_mut();
        let mut sent = self.origin.clone().into_parts();
        if let Some(path) = uri.path_and_query() {
            sent.path_and_query = Some(path.clone());
        }
        let sent =
            Uri::from_parts(sent).map_err(|why| format!("cannot complete the URI: {why}"))?;
        let uri = mem::replace(uri, sent);
        let headers = request.headers_mut();
        let agent = headers.insert(USER_AGENT, self.user_agent.clone());
        if let Some(agent) = &agent {
            headers.insert(USER_AGENT, joined(agent, &self.user_agent));
        }
        Ok(Given { uri, agent })
    }

    /// The time limit of a call.
    fn limit(&self, headers: &HeaderMap) -> Option<Duration> {
        let asked = headers.get(GRPC_TIMEOUT).and_then(asked);
        match (asked, self.timeout) {
            (Some(asked), Some(set)) => Some(asked.min(set)),
            (asked, set) => asked.or(set),
        }
    }

    /// The error for the caller of a call with a body of type `B`.
    #[cold]
    fn fail<B: Send + 'static>(&self, failure: Failure<Erased>, given: Given) -> HttpError {
        let place = Arc::clone(&self.place);
        match failure {
            // tonic converts this error to `UNAVAILABLE`, and any other to `CANCELLED` or
            // `UNKNOWN`.
            Failure::Unsent(error, mut request) => {
                given.restore(&mut request);
                let (head, body) = (*request).into_parts();
                let body = body.into::<B>();
                let body = body.expect("it is what was erased");
                let error = ConnectError(error).into();
                HttpError::unsent(place, error, Request::from_parts(head, body))
            }
            Failure::Broke(error) => HttpError::exchange::<B>(place, told(error), || None),
        }
    }

    /// The error of a call that exceeded its time limit.
    #[cold]
    fn late(&self, limit: Duration) -> HttpError {
        let status = Status::deadline_exceeded(format!("no answer within {limit:?}"));
        HttpError::exchange::<Body>(Arc::clone(&self.place), status, || None)
    }
}

/// The status of a call that was sent and got no response.
fn told(error: hyper::Error) -> Status {
    let mut status = Status::from_error(error.into());
    if status.code() == Code::Unknown {
        // The connection broke, which is `UNAVAILABLE` in other gRPC clients.
        let told = mem::replace(&mut status, Status::unavailable("the connection broke"));
        status.set_source(Arc::new(told));
    }
    status
}

/// The former URI and header of a call, to restore the call before it is returned.
struct Given {
    uri: Uri,
    agent: Option<HeaderValue>,
}

impl Given {
    fn restore<B>(self, request: &mut Request<B>) {
        *request.uri_mut() = self.uri;
        match self.agent {
            Some(agent) => request.headers_mut().insert(USER_AGENT, agent),
            None => request.headers_mut().remove(USER_AGENT),
        };
    }
}

/// Joins the names of a program and of the library that it uses.
pub(super) fn joined(program: &HeaderValue, library: &HeaderValue) -> HeaderValue {
    let joined = [program.as_bytes(), b" ", library.as_bytes()].concat();
    HeaderValue::from_bytes(&joined).expect("both are header values")
}

/// Parses a `grpc-timeout`: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Returns `None` if it is
/// invalid.
fn asked(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl fmt::Debug for GrpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClient")
            .field("place", &self.0.place)
            .finish_non_exhaustive()
    }
}

/// A call over gRPC that waits for the head of its response.
pub struct GrpcFuture(Pin<Box<dyn Future<Output = Result<Response<HttpBody>, HttpError>> + Send>>);

impl Future for GrpcFuture {
    type Output = Result<Response<HttpBody>, HttpError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for GrpcFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let read = |text| asked(&HeaderValue::from_static(text));
        for (text, time) in [
            ("2H", Duration::from_secs(7_200)),
            ("2M", Duration::from_secs(120)),
            ("2S", Duration::from_secs(2)),
            ("300m", Duration::from_millis(300)),
            ("0u", Duration::ZERO),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for text in [
            "",
            "m",
            "3",
            "3x",
            "-3m",
            "+3m",
            "3.5m",
            "123456789m",
            " 3m",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
