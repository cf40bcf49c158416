//! The kind of an error of a whole client. The first error in the chain of sources that can decide does.

use std::error::Error;

use tower::timeout::error::Elapsed;

use super::{
    retry::{FailedAnswer, RetryError, TryTimeout},
    throttle::ThrottleError,
};
#[cfg(any(feature = "http", feature = "_transport"))]
use crate::classify::Begun;
#[cfg(feature = "http")]
use crate::classify::InvalidRequest;
use crate::{
    classify::{NotSent, OverLimit, Unsent},
    deadline::DeadlinePassed,
    error::{RequestErrorKind, causes},
};

impl RequestErrorKind {
    /// Returns the kind of an error that a client of this crate returned, however deep it is wrapped, also if
    /// it was made a gRPC status. A status that the server itself sent is [`Other`](Self::Other), or
    /// [`Timeout`](Self::Timeout) if it is `DEADLINE_EXCEEDED`.
    ///
    /// # Examples
    /// ```
    /// use tower_roster::{BoxError, RequestErrorKind, classify::Unsent};
    ///
    /// let error: BoxError = Unsent::new("connection refused").into();
    /// let kind = RequestErrorKind::of(&*error);
    /// assert_eq!((kind.as_str(), kind.http_status(), kind.grpc_code()), ("connect", 502, 14));
    /// ```
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        causes(error).find_map(of_one).unwrap_or(Self::Other)
    }
}

impl RetryError {
    /// What the request failed with: [`Timeout`](RequestErrorKind::Timeout) if no time was left for another
    /// attempt, else the kind of the error of the last attempt.
    pub fn kind(&self) -> RequestErrorKind {
        RequestErrorKind::of(self)
    }
}

/// What an error decides by itself, without its causes.
pub(crate) fn of_one(error: &(dyn Error + 'static)) -> Option<RequestErrorKind> {
    if let Some(retry) = error.downcast_ref::<RetryError>() {
        return retry.is_deadline().then_some(RequestErrorKind::Timeout);
    }
    if let Some(unsent) = error.downcast_ref::<Unsent>() {
        return Some(unsent.kind());
    }
    if let Some(NotSent(kind)) = error.downcast_ref() {
        return Some(*kind);
    }
    if error.is::<TryTimeout>() {
        return Some(RequestErrorKind::TryTimeout);
    }
    if error.is::<Elapsed>() || error.is::<DeadlinePassed>() {
        return Some(RequestErrorKind::Timeout);
    }
    if error.is::<OverLimit>() {
        return Some(RequestErrorKind::TooLarge);
    }
    if error.is::<ThrottleError>() {
        return Some(RequestErrorKind::Throttled);
    }
    if error.is::<FailedAnswer>() {
        return Some(RequestErrorKind::FailedAnswer);
    }
    of_http(error)
}

/// The same for the errors of HTTP and gRPC.
#[cfg(feature = "_hyper")]
fn of_http(error: &(dyn Error + 'static)) -> Option<RequestErrorKind> {
    #[cfg(feature = "http")]
    if error.is::<InvalidRequest>() {
        return Some(RequestErrorKind::Invalid);
    }
    // The error below may say that the server did not process the request, but its response had begun.
    #[cfg(any(feature = "http", feature = "_transport"))]
    if error.is::<Begun>() {
        return Some(RequestErrorKind::Connection);
    }
    #[cfg(feature = "tonic")]
    {
        if error.is::<tonic::TimeoutExpired>() {
            return Some(RequestErrorKind::Timeout);
        }
        if error.is::<tonic::ConnectError>() {
            return Some(RequestErrorKind::Connect);
        }
    }
    #[cfg(feature = "tonic")]
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return of_status(status);
    }
    let known = error.is::<hyper::Error>() || error.is::<hyper_util::client::legacy::Error>();
    known.then(|| {
        if crate::classify::is_unsent(error) {
            RequestErrorKind::Connect
        } else {
            RequestErrorKind::Connection
        }
    })
}

/// The same for a gRPC status. What it was made of decides, if that is known: a
/// [`StatusLayer`](crate::client::StatusLayer) makes a status of each error. A status that a server sent is
/// none of the errors of a client, except when the server gave up at the deadline.
#[cfg(feature = "tonic")]
fn of_status(status: &tonic::Status) -> Option<RequestErrorKind> {
    use tonic::Code;

    if status.code() == Code::ResourceExhausted && crate::classify::is_over_limit(status) {
        return Some(RequestErrorKind::TooLarge);
    }
    let of_source = || causes(status.source()?).find_map(of_one);
    let timeout = (status.code() == Code::DeadlineExceeded).then_some(RequestErrorKind::Timeout);
    of_source().or(timeout)
}

#[cfg(not(feature = "_hyper"))]
fn of_http(_: &(dyn Error + 'static)) -> Option<RequestErrorKind> {
    None
}
