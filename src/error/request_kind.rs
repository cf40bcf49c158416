//! The kinds of errors that a request can end with.

use std::fmt;

/// What a request failed with. [`of`](Self::of) tells it of any error that a client of this crate returns.
///
/// The names of [`as_str`](Self::as_str) are stable, for counters and logs. A server that passes the failure
/// on to its own caller responds with these statuses:
///
/// | kind | name | HTTP | gRPC |
/// |---|---|---|---|
/// | [`NeverResolved`](Self::NeverResolved) | `never_resolved` | 503 | 14 `UNAVAILABLE` |
/// | [`Unreachable`](Self::Unreachable) | `unreachable` | 503 | 14 `UNAVAILABLE` |
/// | [`NoInstance`](Self::NoInstance) | `no_instance` | 503 | 14 `UNAVAILABLE` |
/// | [`AllEjected`](Self::AllEjected) | `all_ejected` | 503 | 14 `UNAVAILABLE` |
/// | [`NoEndpoint`](Self::NoEndpoint) | `no_endpoint` | 503 | 14 `UNAVAILABLE` |
/// | [`BreakerOpen`](Self::BreakerOpen) | `breaker_open` | 503 | 14 `UNAVAILABLE` |
/// | [`BreakerProbing`](Self::BreakerProbing) | `breaker_probing` | 503 | 14 `UNAVAILABLE` |
/// | [`Throttled`](Self::Throttled) | `throttled` | 503 | 14 `UNAVAILABLE` |
/// | [`NotReady`](Self::NotReady) | `not_ready` | 503 | 14 `UNAVAILABLE` |
/// | [`Connect`](Self::Connect) | `connect` | 502 | 14 `UNAVAILABLE` |
/// | [`Refused`](Self::Refused) | `refused` | 502 | 14 `UNAVAILABLE` |
/// | [`Connection`](Self::Connection) | `connection` | 502 | 14 `UNAVAILABLE` |
/// | [`FailedAnswer`](Self::FailedAnswer) | `failed_answer` | 502 | 14 `UNAVAILABLE` |
/// | [`Timeout`](Self::Timeout) | `timeout` | 504 | 4 `DEADLINE_EXCEEDED` |
/// | [`TryTimeout`](Self::TryTimeout) | `try_timeout` | 504 | 4 `DEADLINE_EXCEEDED` |
/// | [`TooLarge`](Self::TooLarge) | `too_large` | 502 | 8 `RESOURCE_EXHAUSTED` |
/// | [`Invalid`](Self::Invalid) | `invalid` | 500 | 13 `INTERNAL` |
/// | [`Other`](Self::Other) | `other` | 502 | 2 `UNKNOWN` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestErrorKind {
    /// No endpoint is known, because discovery has delivered nothing yet.
    NeverResolved,
    /// No endpoint is known, because the registry delivers no usable list.
    Unreachable,
    /// The registry lists no instance that may serve.
    NoInstance,
    /// All endpoints that the request may go to are ejected.
    AllEjected,
    /// There is no endpoint for the request, for another reason.
    NoEndpoint,
    /// A circuit breaker was open.
    BreakerOpen,
    /// A circuit breaker was half-open, and its probes were in flight.
    BreakerProbing,
    /// A throttle refused the request.
    Throttled,
    /// The service was not ready in time, and failfast refused the request.
    NotReady,
    /// The request was not sent: there was no connection to the endpoint.
    Connect,
    /// The server refused the request, and promises that it did not process it.
    Refused,
    /// The connection broke before the response was complete.
    Connection,
    /// A failed response, which a retry dropped to make room for the next attempt.
    FailedAnswer,
    /// The deadline of the request passed, or no time was left for another attempt.
    Timeout,
    /// The last attempt exceeded the per-try timeout.
    TryTimeout,
    /// The response exceeds a limit of this client.
    TooLarge,
    /// The request cannot be sent to any endpoint as it is.
    Invalid,
    /// An error of a type that this crate does not know.
    Other,
}

impl RequestErrorKind {
    /// All kinds.
    pub const ALL: &[Self] = &[
        Self::NeverResolved,
        Self::Unreachable,
        Self::NoInstance,
        Self::AllEjected,
        Self::NoEndpoint,
        Self::BreakerOpen,
        Self::BreakerProbing,
        Self::Throttled,
        Self::NotReady,
        Self::Connect,
        Self::Refused,
        Self::Connection,
        Self::FailedAnswer,
        Self::Timeout,
        Self::TryTimeout,
        Self::TooLarge,
        Self::Invalid,
        Self::Other,
    ];

    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverResolved => "never_resolved",
            Self::Unreachable => "unreachable",
            Self::NoInstance => "no_instance",
            Self::AllEjected => "all_ejected",
            Self::NoEndpoint => "no_endpoint",
            Self::BreakerOpen => "breaker_open",
            Self::BreakerProbing => "breaker_probing",
            Self::Throttled => "throttled",
            Self::NotReady => "not_ready",
            Self::Connect => "connect",
            Self::Refused => "refused",
            Self::Connection => "connection",
            Self::FailedAnswer => "failed_answer",
            Self::Timeout => "timeout",
            Self::TryTimeout => "try_timeout",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::Other => "other",
        }
    }

    /// Returns the HTTP status of a server that passes the failure on.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NeverResolved
            | Self::Unreachable
            | Self::NoInstance
            | Self::AllEjected
            | Self::NoEndpoint
            | Self::BreakerOpen
            | Self::BreakerProbing
            | Self::Throttled
            | Self::NotReady => 503,
            Self::Timeout | Self::TryTimeout => 504,
            Self::Invalid => 500,
            Self::Connect
            | Self::Refused
            | Self::Connection
            | Self::FailedAnswer
            | Self::TooLarge
            | Self::Other => 502,
        }
    }

    /// Returns the gRPC status code of a server that passes the failure on.
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Other => 2,
            Self::Timeout | Self::TryTimeout => 4,
            Self::TooLarge => 8,
            Self::Invalid => 13,
            _ => 14,
        }
    }
}

impl fmt::Display for RequestErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
