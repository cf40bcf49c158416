//! Why a request got no answer from the balancer.

use std::{fmt, time::Duration};

use crate::{
    classify::{Unsent, give_back},
    error::BoxError,
    instance::Key,
};

/// A request that got no answer.
///
/// | error | HTTP | gRPC |
/// |---|---|---|
/// | [`is_no_endpoint`](Self::is_no_endpoint) | 503 | `UNAVAILABLE` |
/// | an endpoint's own error ([`key`](Self::key), `source()`) | 502, or 504 for a timeout | `UNAVAILABLE` |
pub struct BalanceError(Box<Kind>);

enum Kind {
    NoEndpoint(NoEndpoint, Unsent),
    Endpoint { key: Key, source: BoxError },
}

impl BalanceError {
    pub(super) fn no_endpoint(reason: NoEndpoint) -> Self {
        Self(Box::new(Kind::NoEndpoint(reason, Unsent::bare())))
    }

    /// Brings the request back, if the error says that it was not sent.
    pub(super) fn with_request<Request: Send + 'static>(self, request: Request) -> Self {
        give_back(&self, request);
        self
    }

    pub(super) fn endpoint(key: &Key, source: BoxError) -> Self {
        let key = key.clone();
        Self(Box::new(Kind::Endpoint { key, source }))
    }

    /// Whether there was no endpoint to send the request to. It was not sent.
    pub fn is_no_endpoint(&self) -> bool {
        matches!(*self.0, Kind::NoEndpoint(..))
    }

    /// Why there was no endpoint.
    pub fn no_endpoint_reason(&self) -> Option<&NoEndpoint> {
        match &*self.0 {
            Kind::NoEndpoint(reason, _) => Some(reason),
            _ => None,
        }
    }

    /// The endpoint that failed, the last of them when the request was sent on.
    pub fn key(&self) -> Option<&Key> {
        match &*self.0 {
            Kind::NoEndpoint(..) => None,
            Kind::Endpoint { key, .. } => Some(key),
        }
    }
}

impl fmt::Display for BalanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::NoEndpoint(reason, _) => write!(f, "no endpoint: {reason}"),
            Kind::Endpoint { key, .. } => write!(f, "endpoint {key} failed"),
        }
    }
}

impl fmt::Debug for BalanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::NoEndpoint(reason, _) => f.debug_tuple("NoEndpoint").field(reason).finish(),
            Kind::Endpoint { key, source } => f
                .debug_struct("Endpoint")
                .field("key", key)
                .field("source", source)
                .finish(),
        }
    }
}

impl std::error::Error for BalanceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Endpoint { source, .. } => Some(&**source),
            Kind::NoEndpoint(_, unsent) => Some(unsent),
        }
    }
}

/// Why there is no endpoint to send a request to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoEndpoint {
    /// Discovery has said nothing yet.
    NeverResolved,
    /// The registry gives no list that can be used, for this long, and no endpoint was known before: it
    /// cannot be reached, refuses, or answers garbage.
    Unreachable {
        /// How long it has given none.
        since: Duration,
        /// What it fails with.
        error: String,
    },
    /// The registry lists instances, so many, and no endpoint could be made of any; the log says why.
    NotMade(usize),
    /// The service exists and no instance of it may serve.
    Empty,
    /// The registry knows no such service.
    Missing,
    /// All endpoints that the request may go to are ejected, of so many that are listed: by hand, or
    /// [`Topology::panic`](super::topology::Topology::panic) says that it is not to go there all the same.
    AllEjected(usize),
    /// No endpoint belongs to the subset that the request asks for.
    EmptySubset,
    /// No version with a share of the traffic has an endpoint.
    NoVersion,
    /// The caller's zone has no endpoint, and no other may be used.
    EmptyZone,
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverResolved => f.write_str("discovery has said nothing yet"),
            Self::Unreachable { since, error } => {
                write!(f, "the registry gave no list for {since:.1?}: {error}")
            }
            Self::NotMade(count) => {
                write!(f, "no endpoint could be made of {count} instances")
            }
            Self::Empty => f.write_str("no instance of the service may serve"),
            Self::Missing => f.write_str("the registry knows no such service"),
            Self::AllEjected(listed) => write!(
                f,
                "all that the request may go to are ejected, of {listed} endpoints listed"
            ),
            Self::EmptySubset => f.write_str("the subset that the request asks for is empty"),
            Self::NoVersion => f.write_str("no version with a share has an endpoint"),
            Self::EmptyZone => f.write_str("the zone has no endpoint, and no other may be used"),
        }
    }
}
