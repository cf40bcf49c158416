//! Why a request over HTTP got no answer.

use std::{fmt, sync::Arc};

use hyper_util::client::legacy;

use super::uri::Place;
use crate::{
    error::BoxError,
    instance::{Address, Key},
};

/// A request over HTTP that got no answer. Names the endpoint that it was sent to.
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
    pub(super) fn exchange(place: Arc<Place>, error: legacy::Error) -> Self {
        // hyper gives a request back that it had not begun to write when the connection closed.
        let kind = if error.is_connect() || error_is_unsent(&error) {
            Kind::Connect
        } else {
            Kind::Broke
        };
        Self {
            place,
            kind,
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

    /// The address that it was sent to.
    pub fn address(&self) -> &Address {
        &self.place.address
    }

    /// Whether the connection failed before the request was sent, so that the request can be sent
    /// elsewhere whatever it does. Answer 502 or 503 (gRPC: `UNAVAILABLE`) when it is not.
    pub fn is_connect(&self) -> bool {
        matches!(self.kind, Kind::Connect)
    }

    /// Whether the request as it stands can be sent to no endpoint like this one; trying again or
    /// elsewhere does not help.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, Kind::Invalid(_))
    }
}

fn error_is_unsent(error: &legacy::Error) -> bool {
    let source = std::error::Error::source(error);
    let hyper = source.and_then(|source| source.downcast_ref::<hyper::Error>());
    hyper.is_some_and(hyper::Error::is_canceled)
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
