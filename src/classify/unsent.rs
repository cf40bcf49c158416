//! Errors that prove that a request was not sent, and how to take that request back.
//!
//! A request that no endpoint received had no effect, so it can safely go to another endpoint. The first
//! error in the chain of sources that can decide this does: an [`Unsent`], or a client error of a known
//! type. Its own sources are not read, because the body of a request may itself come from a call that
//! failed.

use std::{any::Any, error::Error, fmt, sync::Mutex};

use crate::{
    error::{BoxError, RequestErrorKind, causes},
    sync::lock,
};

/// An error that proves that the request was not sent. It may contain the request.
///
/// It is meant for the errors of services under a balancer or a retry: return it, or make it a source of
/// your own error, and the request may go to another endpoint. With [`with_request`](Self::with_request)
/// the layer that retries need not keep a copy of the request.
///
/// # Examples
/// ```
/// use tower_roster::classify::{self, Unsent};
///
/// let error = Unsent::new("no connection is free").with_request("a request");
/// assert!(classify::is_unsent(&error));
/// assert_eq!(classify::reclaim::<&str>(&error), Some("a request"));
/// assert_eq!(classify::reclaim::<&str>(&error), None, "it is given back once");
/// ```
///
/// As a source of another error:
/// ```
/// use tower_roster::classify::{self, Unsent};
///
/// #[derive(Debug)]
/// struct Unreachable(Unsent);
///
/// impl std::fmt::Display for Unreachable {
///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
///         f.write_str("the printer cannot be reached")
///     }
/// }
///
/// impl std::error::Error for Unreachable {
///     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
///         Some(&self.0)
///     }
/// }
///
/// let error = Unreachable(Unsent::new("connection refused"));
/// assert!(classify::is_unsent(&error));
/// ```
pub struct Unsent {
    /// In a lock, because errors must be `Sync` and requests need not be. Besides, an error lends its
    /// source by a shared reference, through which the request must be taken.
    request: Mutex<Option<Box<dyn Any + Send>>>,
    source: Option<BoxError>,
    kind: RequestErrorKind,
}

impl Unsent {
    /// Creates the error; `source` is its cause.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self {
            request: Mutex::new(None),
            source: Some(source.into()),
            kind: RequestErrorKind::Connect,
        }
    }

    /// Creates the error without a cause, for an error above it that states the cause.
    pub(crate) fn bare(kind: RequestErrorKind) -> Self {
        Self {
            request: Mutex::new(None),
            source: None,
            kind,
        }
    }

    /// Sets its kind; [`Connect`](RequestErrorKind::Connect) by default.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(crate) fn of_kind(mut self, kind: RequestErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What the request failed with.
    pub(crate) fn kind(&self) -> RequestErrorKind {
        self.kind
    }

    /// Adds the request.
    #[must_use]
    pub fn with_request<Request: Send + 'static>(self, request: Request) -> Self {
        Self {
            request: Mutex::new(Some(Box::new(request))),
            source: self.source,
            kind: self.kind,
        }
    }

    /// Puts the request into the error, in place of another.
    pub(crate) fn put<Request: Send + 'static>(&self, request: Request) {
        let mut place = lock(&self.request);
        *place = Some(Box::new(request));
    }

    /// Whether it has a request of this type.
    #[cfg(feature = "http")]
    fn holds<Request: 'static>(&self) -> bool {
        let request = lock(&self.request);
        request
            .as_ref()
            .is_some_and(|request| request.is::<Request>())
    }

    /// Takes the request, if it has this type and was not taken before.
    pub fn take_request<Request: 'static>(&self) -> Option<Request> {
        let mut request = lock(&self.request);
        let taken = request.take()?.downcast();
        // A request of another type stays: a later call may ask for that type.
        taken
            .map_err(|other| *request = Some(other))
            .map(|taken| *taken)
            .ok()
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl_debug!(Unsent: |this| source = this.source);

impl Error for Unsent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// The source of this crate's errors that refuse a request before it is sent: a balancer without an
/// endpoint, an open breaker, failfast.
#[derive(Debug)]
pub(crate) struct NotSent(pub(crate) RequestErrorKind);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl Error for NotSent {}

/// An error that came after the head of the response: the request was sent, even if the error below says
/// that it was refused. Without an error below, the server ended the response too early, without one.
#[cfg(any(feature = "http", feature = "_transport"))]
#[derive(Debug)]
pub(crate) struct Begun(pub(crate) Option<hyper::Error>);

#[cfg(any(feature = "http", feature = "_transport"))]
impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response had begun")
    }
}

#[cfg(any(feature = "http", feature = "_transport"))]
impl Error for Begun {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_ref().map(|error| error as _)
    }
}

/// Returns whether an error proves that the request was not sent. Such a request may be sent to another
/// endpoint, even if it is not idempotent.
///
/// These errors prove it; the first of them in the chain of sources decides:
/// - [`Unsent`], which the clients of this crate use;
/// - the error of a balancer without an endpoint for the request, and the refusals of a breaker or of
///   failfast;
/// - with features `http` or `consul`, the errors of hyper and of hyper-util's client that say so;
/// - with features `http2` or `tonic`, a stream that the server refused with `REFUSED_STREAM`, or that is
///   above the last stream of its `GOAWAY`: the server promises that it did not process the request
///   (RFC 9113, sections 8.7 and 6.8), although it was sent;
/// - with feature `tonic`, the failure of a channel to connect.
///
/// The refusal of a throttle is not among them: a retry would come back at once, and the throttle would
/// refuse more.
///
/// # Examples
/// ```
/// use tower_roster::classify::{self, Unsent};
///
/// let sent = std::io::Error::other("the connection broke");
/// assert!(!classify::is_unsent(&sent));
/// assert!(classify::is_unsent(&Unsent::new(sent)));
/// ```
pub fn is_unsent(error: &(dyn Error + 'static)) -> bool {
    matches!(first_word(error), Some(Word::Unsent(_)))
}

/// Takes the request back from an error that proves that it was not sent. Returns `None` if the error
/// does not contain the request, or if it has another type.
///
/// The request is as the service that returned the error received it; layers above that service may have
/// changed it. `HttpClient` returns the request that it was called with: the body unread, the head
/// unchanged.
///
/// # Examples
/// ```
/// use tower_roster::{BoxError, classify::{self, Unsent}};
///
/// let error: BoxError = Unsent::new("refused").with_request(7u8).into();
/// assert_eq!(classify::reclaim::<String>(&*error), None);
/// assert_eq!(classify::reclaim::<u8>(&*error), Some(7));
/// ```
pub fn reclaim<Request: 'static>(error: &(dyn Error + 'static)) -> Option<Request> {
    match first_word(error)? {
        Word::Unsent(Some(unsent)) => unsent.take_request(),
        _ => None,
    }
}

/// Whether [`reclaim`] would return a request of this type.
#[cfg(feature = "http")]
pub(crate) fn returns<Request: 'static>(error: &(dyn Error + 'static)) -> bool {
    matches!(first_word(error), Some(Word::Unsent(Some(unsent))) if unsent.holds::<Request>())
}

/// Puts the request into an error that proves that it was not sent. If the error has no place for it, an
/// [`Unsent`] around the error has. Other errors stay as they are.
pub(crate) fn give_back<Request: Send + 'static>(error: BoxError, request: Request) -> BoxError {
    match first_word(&*error) {
        Some(Word::Unsent(Some(unsent))) => unsent.put(request),
        Some(Word::Unsent(None)) => return Unsent::new(error).with_request(request).into(),
        _ => {}
    }
    error
}

/// What an error proves about its request.
enum Word<'a> {
    Unsent(Option<&'a Unsent>),
    /// The request was sent, or the error does not say.
    #[cfg(feature = "_hyper")]
    PerhapsSent,
}

fn first_word<'a>(error: &'a (dyn Error + 'static)) -> Option<Word<'a>> {
    causes(error).find_map(word)
}

fn word<'a>(error: &'a (dyn Error + 'static)) -> Option<Word<'a>> {
    if let Some(unsent) = error.downcast_ref::<Unsent>() {
        return Some(Word::Unsent(Some(unsent)));
    }
    if error.is::<NotSent>() {
        return Some(Word::Unsent(None));
    }
    #[cfg(feature = "tonic")]
    if error.is::<tonic::ConnectError>() {
        return Some(Word::Unsent(None));
    }
    #[cfg(any(feature = "http", feature = "_transport"))]
    if error.is::<Begun>() {
        return Some(Word::PerhapsSent);
    }
    #[cfg(feature = "_hyper")]
    if let Some(unsent) = says_hyper(error) {
        return Some(if unsent {
            Word::Unsent(None)
        } else {
            Word::PerhapsSent
        });
    }
    None
}

/// Reads an error of hyper's. If the connection closes before hyper has begun to write a request, hyper
/// returns the request, and reports the error as canceled.
#[cfg(feature = "_hyper")]
fn says_hyper(error: &(dyn Error + 'static)) -> Option<bool> {
    use hyper_util::client::legacy;

    let unsent = |error: &(dyn Error + 'static)| {
        let error = error.downcast_ref::<hyper::Error>();
        error.map(|error| error.is_canceled() || is_refused(error))
    };
    if let Some(error) = error.downcast_ref::<legacy::Error>() {
        let below = error.source().and_then(unsent);
        return Some(error.is_connect() || below == Some(true));
    }
    unsent(error)
}

/// How an HTTP/2 server promises that it did not process a request that it received.
#[cfg(any(feature = "http2", feature = "tonic"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It reset the stream with `REFUSED_STREAM` (RFC 9113, section 8.7).
    Stream,
    /// It closes the connection: its `GOAWAY` names a last stream below this one (section 6.8).
    Connection,
}

/// Returns the refusal that an error of hyper's reports. An error about the end of a connection that
/// concerns a stream which the `GOAWAY` does not exclude is of another kind.
#[cfg(any(feature = "http2", feature = "tonic"))]
pub(crate) fn refusal(error: &hyper::Error) -> Option<Refusal> {
    // Only the direct source: a deeper one may be the error of a request body.
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    if !error.is_remote() {
        None
    } else if error.is_go_away() {
        Some(Refusal::Connection)
    } else {
        (error.reason() == Some(h2::Reason::REFUSED_STREAM)).then_some(Refusal::Stream)
    }
}

/// Whether an error of hyper's reports a refusal.
#[cfg(any(feature = "http2", feature = "tonic"))]
pub(crate) fn is_refused(error: &hyper::Error) -> bool {
    refusal(error).is_some()
}

#[cfg(all(feature = "_hyper", not(any(feature = "http2", feature = "tonic"))))]
fn is_refused(_: &hyper::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a source.
    #[derive(Debug)]
    struct Over<E>(E);

    impl<E> fmt::Display for Over<E> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("over another")
        }
    }

    impl<E: Error + 'static> Error for Over<E> {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn it_is_found_below_other_errors_and_gives_back_once() {
        let error = Over(Over(Unsent::new("refused").with_request(String::from("r"))));
        assert!(is_unsent(&error));
        assert_eq!(reclaim::<u8>(&error), None, "of another type");
        assert_eq!(reclaim::<String>(&error).as_deref(), Some("r"));
        assert_eq!(reclaim::<String>(&error), None);
        assert!(is_unsent(&error), "that stays true");
    }

    #[test]
    fn what_nobody_vouches_for_may_have_been_sent() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(!is_unsent(&refused) && !is_unsent(&Over(refused)));
    }
}
