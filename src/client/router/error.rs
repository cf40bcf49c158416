//! Why a router did not send a request.

use std::{error::Error, fmt, sync::Arc};

use crate::{
    classify::{InvalidRequest, Unsent},
    error::{BoxError, RegistryError, RequestErrorKind},
    text::Escaped,
};

/// A request that a [`Router`](super::Router) did not send to any service.
///
/// | error | [kind](Self::kind) |
/// |---|---|
/// | [`is_invalid`](Self::is_invalid): the URI names no service | [`Invalid`](RequestErrorKind::Invalid) |
/// | [`is_unknown`](Self::is_unknown): no such service | [`NoInstance`](RequestErrorKind::NoInstance) |
/// | [`is_full`](Self::is_full): too many services | [`NoEndpoint`](RequestErrorKind::NoEndpoint) |
/// | the registry cannot watch the service | [`Unreachable`](RequestErrorKind::Unreachable) |
///
/// Its text has no part of the URI except for the name of the service.
#[derive(Debug)]
pub struct RouterError {
    kind: RouterErrorKind,
    source: Option<BoxError>,
}

#[derive(Debug)]
enum RouterErrorKind {
    NoAuthority,
    NoName,
    TooLong(usize),
    Scheme(String),
    UserInformation,
    Address(String),
    Unknown(Arc<str>),
    Full(usize),
    Registry,
}

impl RouterError {
    fn invalid(kind: RouterErrorKind) -> Self {
        Self {
            kind,
            source: Some(InvalidRequest.into()),
        }
    }

    pub(super) fn no_authority() -> Self {
        Self::invalid(RouterErrorKind::NoAuthority)
    }

    pub(super) fn no_name() -> Self {
        Self::invalid(RouterErrorKind::NoName)
    }

    pub(super) fn too_long(limit: usize) -> Self {
        Self::invalid(RouterErrorKind::TooLong(limit))
    }

    pub(super) fn scheme(scheme: &str) -> Self {
        Self::invalid(RouterErrorKind::Scheme(scheme.to_owned()))
    }

    pub(super) fn user_information() -> Self {
        Self::invalid(RouterErrorKind::UserInformation)
    }

    pub(super) fn address(address: String) -> Self {
        Self::invalid(RouterErrorKind::Address(address))
    }

    /// `error` is that of the balancer, which has no endpoint.
    pub(super) fn unknown(service: &str, error: BoxError) -> Self {
        Self {
            kind: RouterErrorKind::Unknown(service.into()),
            source: Some(error),
        }
    }

    pub(super) fn full(limit: usize) -> Self {
        Self {
            kind: RouterErrorKind::Full(limit),
            source: Some(Unsent::bare(RequestErrorKind::NoEndpoint).into()),
        }
    }

    pub(super) fn registry(error: RegistryError) -> Self {
        Self {
            kind: RouterErrorKind::Registry,
            source: Some(error.into()),
        }
    }

    /// What the request failed with.
    pub fn kind(&self) -> RequestErrorKind {
        match self.kind {
            RouterErrorKind::Unknown(_) => RequestErrorKind::NoInstance,
            RouterErrorKind::Full(_) => RequestErrorKind::NoEndpoint,
            RouterErrorKind::Registry => RequestErrorKind::Unreachable,
            _ => RequestErrorKind::Invalid,
        }
    }

    /// Whether the URI of the request names no service, or cannot be used. Another attempt would fail as well.
    pub fn is_invalid(&self) -> bool {
        use RouterErrorKind::{Address, NoAuthority, NoName, Scheme, TooLong, UserInformation};
        matches!(
            self.kind,
            NoAuthority | NoName | TooLong(_) | Scheme(_) | UserInformation | Address(_)
        )
    }

    /// Whether the registry confirms that it does not know the service.
    pub fn is_unknown(&self) -> bool {
        matches!(self.kind, RouterErrorKind::Unknown(_))
    }

    /// Whether the router has clients of as many services as it may have.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, RouterErrorKind::Full(_))
    }
}

impl fmt::Display for RouterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            RouterErrorKind::NoAuthority => {
                f.write_str("the URI names no service: it has no authority")
            }
            RouterErrorKind::NoName => f.write_str("the host of the URI is empty"),
            RouterErrorKind::TooLong(limit) => {
                write!(f, "the host of the URI has more than {limit} bytes")
            }
            RouterErrorKind::Scheme(scheme) => {
                write!(f, "scheme {} is neither http nor https", Escaped(scheme))
            }
            RouterErrorKind::UserInformation => {
                f.write_str("the URI has user information, which HTTP does not send")
            }
            RouterErrorKind::Address(address) => {
                write!(f, "{address} is an address, and not the name of a service")
            }
            RouterErrorKind::Unknown(service) => {
                write!(f, "the registry knows no service {service:?}")
            }
            RouterErrorKind::Full(limit) => write!(
                f,
                "the router has clients of {limit} services, and router.max_services allows no more"
            ),
            RouterErrorKind::Registry => f.write_str("the registry cannot watch the service"),
        }
    }
}

impl Error for RouterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
