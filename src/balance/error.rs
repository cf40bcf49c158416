//! The errors of the balancer.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    classify::{Unsent, give_back},
    error::{BoxError, RequestErrorKind, find},
    instance::Key,
};

/// A request that got no response.
///
/// [`kind`](Self::kind) tells what it failed with, and the status for a caller.
#[derive(Debug)]
pub struct BalanceError(Box<BalanceErrorKind>);

#[derive(Debug)]
enum BalanceErrorKind {
    NoEndpoint {
        reason: NoEndpoint,
        service: Option<Arc<str>>,
        unsent: Unsent,
    },
    Endpoint {
        key: Key,
        source: BoxError,
    },
}

impl BalanceError {
    pub(super) fn no_endpoint(reason: NoEndpoint, service: Option<Arc<str>>) -> Self {
        let unsent = Unsent::bare(reason.kind());
        Self(Box::new(BalanceErrorKind::NoEndpoint {
            reason,
            service,
            unsent,
        }))
    }

    /// Puts the request into the error, if it was not sent.
    pub(super) fn with_request<Request: Send + 'static>(self, request: Request) -> Self {
        Self(Box::new(match *self.0 {
            BalanceErrorKind::NoEndpoint {
                reason,
                service,
                unsent,
            } => {
                unsent.put(request);
                BalanceErrorKind::NoEndpoint {
                    reason,
                    service,
                    unsent,
                }
            }
            BalanceErrorKind::Endpoint { key, source } => BalanceErrorKind::Endpoint {
                key,
                source: give_back(source, request),
            },
        }))
    }

    pub(super) fn endpoint(key: &Key, source: BoxError) -> Self {
        let key = key.clone();
        Self(Box::new(BalanceErrorKind::Endpoint { key, source }))
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the request failed with: the reason why there was no endpoint, or the kind of the endpoint's
    /// own error.
    pub fn kind(&self) -> RequestErrorKind {
        match &*self.0 {
            BalanceErrorKind::NoEndpoint { reason, .. } => reason.kind(),
            BalanceErrorKind::Endpoint { source, .. } => RequestErrorKind::of(&**source),
        }
    }

    /// Whether there was no endpoint to send the request to. If so, the request was not sent.
    pub fn is_no_endpoint(&self) -> bool {
        matches!(*self.0, BalanceErrorKind::NoEndpoint { .. })
    }

    /// The reason why there was no endpoint.
    pub fn no_endpoint_reason(&self) -> Option<&NoEndpoint> {
        match &*self.0 {
            BalanceErrorKind::NoEndpoint { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The service that has no endpoint, if discovery follows a registry that watches one service.
    pub fn service(&self) -> Option<&Arc<str>> {
        match &*self.0 {
            BalanceErrorKind::NoEndpoint { service, .. } => service.as_ref(),
            BalanceErrorKind::Endpoint { .. } => None,
        }
    }

    /// The endpoint that failed. If several endpoints failed in turn, the last of them.
    pub fn key(&self) -> Option<&Key> {
        match &*self.0 {
            BalanceErrorKind::NoEndpoint { .. } => None,
            BalanceErrorKind::Endpoint { key, .. } => Some(key),
        }
    }
}

impl fmt::Display for BalanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            BalanceErrorKind::NoEndpoint {
                reason,
                service: Some(service),
                ..
            } => write!(f, "no endpoint of service {service:?}: {reason}"),
            BalanceErrorKind::NoEndpoint { reason, .. } => write!(f, "no endpoint: {reason}"),
            BalanceErrorKind::Endpoint { key, .. } => write!(f, "endpoint {key} failed"),
        }
    }
}

impl std::error::Error for BalanceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            BalanceErrorKind::Endpoint { source, .. } => Some(&**source),
            BalanceErrorKind::NoEndpoint { unsent, .. } => Some(unsent),
        }
    }
}

/// The reason why there is no endpoint to send a request to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoEndpoint {
    /// Discovery has delivered nothing yet.
    NeverResolved,
    /// No endpoint was ever known, and the registry delivers no usable list: it cannot be reached, it
    /// refuses, or its reply is invalid.
    Unreachable {
        /// How long it has delivered no list.
        since: Duration,
        /// The error of the registry.
        error: String,
    },
    /// The registry lists this number of instances, but no endpoint could be made from any of them. The log
    /// has the reasons.
    NotMade(usize),
    /// The service exists, but no instance of it may serve.
    Empty,
    /// The registry does not list the service.
    Missing,
    /// All endpoints that the request may go to are ejected; the number is that of the listed endpoints.
    /// Either they are ejected by hand, or [`Topology::panic`](super::topology::Topology::panic) does not
    /// allow ejected endpoints here.
    AllEjected(usize),
    /// No endpoint belongs to the subset that the request selects.
    EmptySubset,
    /// No version with a share of the traffic has an endpoint.
    NoVersion,
    /// The caller's zone has no endpoint, and the rules allow no other zone.
    EmptyZone,
}

impl NoEndpoint {
    /// The kind of an error with this reason.
    pub fn kind(&self) -> RequestErrorKind {
        match self {
            Self::NeverResolved => RequestErrorKind::NeverResolved,
            Self::Unreachable { .. } => RequestErrorKind::Unreachable,
            Self::Empty | Self::Missing => RequestErrorKind::NoInstance,
            Self::AllEjected(_) => RequestErrorKind::AllEjected,
            Self::NotMade(_) | Self::EmptySubset | Self::NoVersion | Self::EmptyZone => {
                RequestErrorKind::NoEndpoint
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{NotSent, is_unsent, reclaim};

    #[test]
    fn a_request_that_was_not_sent_stays_in_the_error() {
        let failed = |source: BoxError| {
            let key = Key::new("web-1", "");
            BalanceError::endpoint(&key, source).with_request(7_u8)
        };
        let unsent: [BoxError; 2] = [
            NotSent(RequestErrorKind::NotReady).into(),
            Unsent::new("refused").into(),
        ];
        for error in unsent.map(failed) {
            assert!(is_unsent(&error));
            assert_eq!(reclaim(&error), Some(7_u8), "{error:?}");
        }
        let sent = failed("it broke".into());
        assert!(!is_unsent(&sent));
        assert_eq!(reclaim::<u8>(&sent), None);
        let empty = BalanceError::no_endpoint(NoEndpoint::Empty, None).with_request(7_u8);
        assert_eq!(reclaim(&empty), Some(7_u8));
    }
}
