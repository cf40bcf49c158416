//! The error of a request over HTTP.

#[cfg(all(feature = "http2", feature = "tls"))]
use std::sync::PoisonError;
use std::{
    fmt,
    sync::{Arc, Mutex},
};

use http::Request;

use super::uri::Place;
#[cfg(any(feature = "http2", feature = "tonic"))]
use crate::classify;
use crate::{
    classify::Unsent,
    connect::Io,
    error::BoxError,
    instance::{Address, Key},
};

/// A request over HTTP that got no response. The error names the endpoint.
pub struct HttpError {
    place: Arc<Place>,
    kind: Kind,
    source: Option<BoxError>,
}

#[derive(Debug)]
enum Kind {
    /// No connection: the request was not sent.
    Connect,
    /// The connection broke after (part of) the request was sent.
    Broke,
    /// The request cannot be sent to this endpoint, whatever its state.
    Invalid(String),
}

impl HttpError {
    /// `request` returns the request, if it was not sent.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(super) fn exchange<B: Send + 'static>(
        place: Arc<Place>,
        error: impl std::error::Error + Send + Sync + 'static,
        request: impl FnOnce() -> Option<Request<B>>,
    ) -> Self {
        let (kind, source) = if classify::is_unsent(&error) {
            let unsent = Unsent::new(error);
            let unsent = match request() {
                Some(request) => unsent.with_request(request),
                None => unsent,
            };
            (Kind::Connect, unsent.into())
        } else {
            (Kind::Broke, error.into())
        };
        Self {
            place,
            kind,
            source: Some(source),
        }
    }

    /// No part of `request` was sent.
    pub(super) fn unsent<B: Send + 'static>(
        place: Arc<Place>,
        error: BoxError,
        request: Request<B>,
    ) -> Self {
        Self {
            place,
            kind: Kind::Connect,
            source: Some(Unsent::new(error).with_request(request).into()),
        }
    }

    /// A part of the request was sent.
    pub(super) fn broke(place: Arc<Place>, error: hyper::Error) -> Self {
        Self {
            place,
            kind: Kind::Broke,
            source: Some(error.into()),
        }
    }

    pub(super) fn invalid(place: Arc<Place>, message: String) -> Self {
        Self {
            place,
            kind: Kind::Invalid(message),
            source: None,
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
        matches!(self.kind, Kind::Connect)
    }

    /// Takes the request out of the error, as it was passed to the client, with its body unread.
    /// Returns `None` if the request [was sent](Self::is_connect), has a body of another type, or
    /// was taken before. [`reclaim`](crate::classify::reclaim) does the same for an error of any
    /// type.
    pub fn take_request<B: 'static>(&mut self) -> Option<Request<B>> {
        let unsent = self.source.as_deref()?.downcast_ref::<Unsent>()?;
        unsent.take_request()
    }

    /// Whether no endpoint of this kind can take the request as it is. A retry does not help,
    /// neither here nor elsewhere.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, Kind::Invalid(_))
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { key, address, .. } = &*self.place;
        write!(f, "endpoint {key} ({address}): ")?;
        match &self.kind {
            Kind::Connect => f.write_str("no connection"),
            Kind::Broke => f.write_str("the connection broke before the answer came"),
            Kind::Invalid(message) => f.write_str(message),
        }
    }
}

impl fmt::Debug for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpError")
            .field("key", &self.place.key)
            .field("address", &self.place.address)
            .field("kind", &self.kind)
            .field("source", &self.source)
            .finish()
    }
}

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
        let mut next = std::error::Error::source(error);
        while let Some(error) = next {
            if let Some(Self(io)) = error.downcast_ref() {
                return Some(io.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server chose another version of HTTP")
    }
}

impl fmt::Debug for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtherVersion")
    }
}

impl std::error::Error for OtherVersion {}
