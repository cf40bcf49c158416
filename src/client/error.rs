//! The error of a request over HTTP.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use http::Request;

use super::uri::Place;
#[cfg(all(feature = "http2", feature = "tls"))]
use crate::sync::lock;
use crate::{
    classify::{InvalidRequest, Unsent},
    connect::Io,
    error::{BoxError, RequestErrorKind, find},
    instance::{Address, Key},
};

/// A request over HTTP that got no response. The error names the endpoint.
pub struct HttpError {
    place: Arc<Place>,
    kind: HttpErrorKind,
    source: Option<BoxError>,
}

#[derive(Debug)]
enum HttpErrorKind {
    /// No connection: the request was not sent.
    Connect,
    /// The server refused it, and promises that it did not process it.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    Refused,
    /// The connection broke after (part of) the request was sent.
    Broke,
    /// The response exceeds a limit of the client.
    TooLarge,
    /// The request cannot be sent to this endpoint, whatever its state.
    Invalid(String),
}

impl HttpError {
    /// The server refused the request before it processed any of it.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(super) fn refused<B: Send + 'static>(
        place: Arc<Place>,
        error: BoxError,
        request: Option<Request<B>>,
    ) -> Self {
        Self::not_sent(place, HttpErrorKind::Refused, error, request)
    }

    /// A call got a gRPC status in place of a response.
    #[cfg(feature = "tonic")]
    pub(super) fn status(place: Arc<Place>, status: tonic::Status) -> Self {
        Self {
            place,
            kind: HttpErrorKind::Broke,
            source: Some(status.into()),
        }
    }

    /// No part of `request` was sent.
    pub(super) fn unsent<B: Send + 'static>(
        place: Arc<Place>,
        error: BoxError,
        request: impl Into<Option<Request<B>>>,
    ) -> Self {
        Self::not_sent(place, HttpErrorKind::Connect, error, request.into())
    }

    fn not_sent<B: Send + 'static>(
        place: Arc<Place>,
        kind: HttpErrorKind,
        error: BoxError,
        request: Option<Request<B>>,
    ) -> Self {
        let mut unsent = Unsent::new(error);
        #[cfg(any(feature = "http2", feature = "tonic"))]
        if matches!(kind, HttpErrorKind::Refused) {
            unsent = unsent.of_kind(RequestErrorKind::Refused);
        }
        if let Some(request) = request {
            unsent = unsent.with_request(request);
        }
        Self {
            place,
            kind,
            source: Some(unsent.into()),
        }
    }

    /// A part of the request was sent.
    pub(super) fn broke(place: Arc<Place>, error: hyper::Error) -> Self {
        Self {
            place,
            kind: HttpErrorKind::Broke,
            source: Some(error.into()),
        }
    }

    /// The response exceeds a limit of this client. `error` has an [`OverLimit`] in its chain.
    pub(super) fn too_large(place: Arc<Place>, error: BoxError) -> Self {
        Self {
            place,
            kind: HttpErrorKind::TooLarge,
            source: Some(error),
        }
    }

    pub(super) fn invalid(place: Arc<Place>, message: String) -> Self {
        Self {
            place,
            kind: HttpErrorKind::Invalid(message),
            source: Some(InvalidRequest.into()),
        }
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the request failed with.
    pub fn kind(&self) -> RequestErrorKind {
        match self.kind {
            HttpErrorKind::Connect => RequestErrorKind::Connect,
            #[cfg(any(feature = "http2", feature = "tonic"))]
            HttpErrorKind::Refused => RequestErrorKind::Refused,
            HttpErrorKind::Broke => match &self.source {
                Some(source) => RequestErrorKind::of(&**source),
                None => RequestErrorKind::Connection,
            },
            HttpErrorKind::TooLarge => RequestErrorKind::TooLarge,
            HttpErrorKind::Invalid(_) => RequestErrorKind::Invalid,
        }
    }

    /// The key and the address of the endpoint, as messages show them. Where the registry has no ids, the
    /// address is the key.
    pub(super) fn endpoint(&self) -> impl fmt::Display {
        let Place { key, address, .. } = &*self.place;
        let (key, address) = (key.to_string(), address.to_string());
        match key == address {
            true => key,
            false => format!("{key} ({address})"),
        }
    }

    /// The endpoint that the request was for.
    pub fn key(&self) -> &Key {
        &self.place.key
    }

    /// The address of that endpoint.
    pub fn address(&self) -> &Address {
        &self.place.address
    }

    /// Whether the connection failed before the request was sent. Then any request, idempotent or
    /// not, can be sent elsewhere. A server that does not do so responds with 502 or 503 (gRPC:
    /// `UNAVAILABLE`).
    pub fn is_connect(&self) -> bool {
        matches!(self.kind, HttpErrorKind::Connect)
    }

    /// Whether the server refused the request, and promises that it did not process it: an HTTP/2
    /// stream was reset with `REFUSED_STREAM`, or a `GOAWAY` excluded it. Then too any request can be
    /// sent elsewhere, although it had been sent.
    pub fn is_refused(&self) -> bool {
        #[cfg(any(feature = "http2", feature = "tonic"))]
        return matches!(self.kind, HttpErrorKind::Refused);
        #[cfg(not(any(feature = "http2", feature = "tonic")))]
        false
    }

    /// Takes the request out of the error, as it was passed to the client. Returns `None` if the
    /// request was [sent](Self::is_connect) and not [refused](Self::is_refused), has a body of
    /// another type, was taken before, or if its body was read and could not be restored.
    /// [`reclaim`](crate::classify::reclaim) does the same for an error of any type.
    pub fn take_request<B: 'static>(&mut self) -> Option<Request<B>> {
        let unsent = self.source.as_deref()?.downcast_ref::<Unsent>()?;
        unsent.take_request()
    }

    /// Whether the response exceeds a limit of this client, such as
    /// [`max_header_fields`](super::HttpEndpoints::max_header_fields); the source names it. The
    /// request had its effect. A retry does not help, neither here nor elsewhere.
    pub fn is_too_large(&self) -> bool {
        matches!(self.kind, HttpErrorKind::TooLarge)
    }

    /// Whether no endpoint of this kind can take the request as it is. A retry does not help,
    /// neither here nor elsewhere, and it is no failure of the endpoint.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, HttpErrorKind::Invalid(_))
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {}: ", self.endpoint())?;
        match &self.kind {
            HttpErrorKind::Connect => f.write_str("no connection"),
            #[cfg(any(feature = "http2", feature = "tonic"))]
            HttpErrorKind::Refused => f.write_str("the server refused the request unprocessed"),
            HttpErrorKind::Broke => f.write_str("the connection broke before the answer came"),
            HttpErrorKind::TooLarge => f.write_str("the response exceeds a limit of this client"),
            HttpErrorKind::Invalid(message) => f.write_str(message),
        }
    }
}

impl_debug!(HttpError: |this|
    key = this.place.key,
    address = this.place.address,
    kind = this.kind,
    source = this.source,
);

impl std::error::Error for HttpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// The server chose another version of HTTP in the TLS handshake than the one that was to be used.
/// The request goes out with the other one, on the connection that this error contains.
#[cfg_attr(
    not(all(feature = "http2", feature = "tls")),
    expect(dead_code, reason = "a server can choose only if the client has both")
)]
pub(super) struct OtherVersion(Mutex<Option<Io>>);

impl OtherVersion {
    pub(super) fn of(io: Io) -> Self {
        Self(Mutex::new(Some(io)))
    }

    /// Takes the connection, unless it was taken before. Returns `None` if `error` is another one.
    #[cfg(all(feature = "http2", feature = "tls"))]
    pub(super) fn find(error: &HttpError) -> Option<Option<Io>> {
        find(error).map(|Self(io)| lock(io).take())
    }
}

impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server chose another version of HTTP")
    }
}

impl_debug!(OtherVersion);

impl std::error::Error for OtherVersion {}
