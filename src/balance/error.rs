//! Why a request got no answer from the balancer.

use std::{any::type_name, fmt, time::Duration};

use crate::{classify::NotSent, error::BoxError, instance::Key};

/// A request that got no answer.
///
/// | error | HTTP | gRPC |
/// |---|---|---|
/// | [`is_no_endpoint`](Self::is_no_endpoint) | 503 | `UNAVAILABLE` |
/// | an endpoint's own error ([`key`](Self::key), `source()`) | 502, or 504 for a timeout | `UNAVAILABLE` |
/// | [`is_panic`](Self::is_panic) | 500 | `INTERNAL` |
pub struct Error(Box<Kind>);

enum Kind {
    NoEndpoint(NoEndpoint),
    Endpoint {
        key: Key,
        source: BoxError,
    },
    Panicked {
        key: Key,
    },
    /// What the caller gave the balancer panicked: what that is for, and its type.
    Defect(&'static str, &'static str),
}

impl Error {
    pub(super) fn no_endpoint(reason: NoEndpoint) -> Self {
        Self(Box::new(Kind::NoEndpoint(reason)))
    }

    pub(super) fn endpoint(key: &Key, source: BoxError) -> Self {
        let key = key.clone();
        Self(Box::new(Kind::Endpoint { key, source }))
    }

    pub(super) fn panicked(key: &Key) -> Self {
        Self(Box::new(Kind::Panicked { key: key.clone() }))
    }

    #[cold]
    pub(super) fn route_panicked<R>() -> Self {
        Self(Box::new(Kind::Defect("route", type_name::<R>())))
    }

    #[cold]
    pub(super) fn classifier_panicked<C>() -> Self {
        Self(Box::new(Kind::Defect("classifier", type_name::<C>())))
    }

    /// Whether there was no endpoint to send the request to. It was not sent.
    pub fn is_no_endpoint(&self) -> bool {
        matches!(*self.0, Kind::NoEndpoint(_))
    }

    /// Why there was no endpoint.
    pub fn no_endpoint_reason(&self) -> Option<&NoEndpoint> {
        match &*self.0 {
            Kind::NoEndpoint(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the endpoint's service panicked, or the balancer's route or classifier, which has no
    /// [`key`](Self::key). Of the route the request was not sent; of the classifier it was answered.
    pub fn is_panic(&self) -> bool {
        matches!(*self.0, Kind::Panicked { .. } | Kind::Defect(..))
    }

    /// The endpoint that failed, the last of them when the request was sent on.
    pub fn key(&self) -> Option<&Key> {
        match &*self.0 {
            Kind::NoEndpoint(_) | Kind::Defect(..) => None,
            Kind::Endpoint { key, .. } | Kind::Panicked { key } => Some(key),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::NoEndpoint(reason) => write!(f, "no endpoint: {reason}"),
            Kind::Endpoint { key, .. } => write!(f, "endpoint {key} failed"),
            Kind::Panicked { key } => write!(f, "the service of endpoint {key} panicked"),
            Kind::Defect(what, name) => write!(f, "the balancer's {what} {name} panicked"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::NoEndpoint(reason) => f.debug_tuple("NoEndpoint").field(reason).finish(),
            Kind::Endpoint { key, source } => f
                .debug_struct("Endpoint")
                .field("key", key)
                .field("source", source)
                .finish(),
            Kind::Panicked { key } => f.debug_struct("Panicked").field("key", key).finish(),
            Kind::Defect(what, name) => f.debug_tuple("Defect").field(what).field(name).finish(),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Endpoint { source, .. } => Some(&**source),
            Kind::NoEndpoint(_) => NotSent::SOURCE,
            Kind::Panicked { .. } | Kind::Defect(..) => None,
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
