//! Errors that came before the request was sent, and how to get that request back.
//!
//! A request that no endpoint has seen can go to another one, whatever it does there: it had no
//! effect. Only the error can tell, and it is said once, by whoever knows first: an [`Unsent`] in
//! the chain of sources, or the error of a client whose word is known. What stands below such an
//! error is not asked: the body of a request may itself come from a call that failed.

use std::{
    any::Any,
    error::Error,
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::error::BoxError;

/// Says that the request was certainly not sent, and may bring it back.
///
/// For the errors of services under a balancer or a retry: return it, or have it among the sources
/// of your own error, and the request may go to another endpoint. Where the request is known,
/// [`with_request`](Self::with_request) saves whoever sends again from keeping a copy.
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
/// Among the sources of an error of one's own:
/// ```
/// use tower_roster::classify::{self, Unsent};
///
/// #[derive(Debug)]
/// struct Unreachable(Unsent);
///
/// impl std::fmt::Display for Unreachable {
///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
///         f.write_str("the printer is off")
///     }
/// }
///
/// impl std::error::Error for Unreachable {
///     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
///         Some(&self.0)
///     }
/// }
///
/// let error = Unreachable(Unsent::new("no answer to the knock"));
/// assert!(classify::is_unsent(&error));
/// ```
pub struct Unsent {
    /// Behind a lock, because requests need not be `Sync` and errors must be; and so that it can be
    /// taken from below other errors, which lend out their source.
    request: Mutex<Option<Box<dyn Any + Send>>>,
    source: Option<BoxError>,
}

impl Unsent {
    /// Says it of an error, which becomes the source.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self {
            request: Mutex::new(None),
            source: Some(source.into()),
        }
    }

    /// Nothing but that: the error above it says why.
    pub(crate) fn bare() -> Self {
        Self {
            request: Mutex::new(None),
            source: None,
        }
    }

    /// Brings the request back.
    #[must_use]
    pub fn with_request<Request: Send + 'static>(self, request: Request) -> Self {
        Self {
            request: Mutex::new(Some(Box::new(request))),
            source: self.source,
        }
    }

    /// Takes the request, if it is of this type and was not taken before.
    pub fn take_request<Request: 'static>(&self) -> Option<Request> {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = request.take()?.downcast();
        // One of another type stays for whoever asks for that.
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

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Error for Unsent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// The source of an error of this crate's own layers that refused a request before it was sent: a
/// balancer without an endpoint, a breaker that is open, failfast.
#[derive(Debug)]
pub(crate) struct NotSent;

impl NotSent {
    /// As what `source()` returns.
    pub(crate) const SOURCE: Option<&'static (dyn Error + 'static)> = Some(&NotSent);
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl Error for NotSent {}

/// Whether an error says that the request was certainly not sent, so that it may be sent elsewhere
/// whatever it does.
///
/// Known are [`Unsent`], which the clients of this crate use; a balancer without an endpoint for the
/// request, and the refusals of a breaker or of failfast; with features `http` or `consul` also hyper's
/// errors and those of hyper-util's client; with feature `tonic` the failure of a channel to connect. The
/// first of them in the chain of sources decides. Not the refusal of a throttle: that would come back
/// at once, and make it refuse more.
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

/// Takes back the request from an error that says it was not sent, if it is of this type.
///
/// It is as the service got it that gave it back: layers above that service may have changed it.
/// `HttpClient` gives back what it was called with: the body unread, the head as it was.
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

/// Puts a request back into the error that it was taken from by [`reclaim`].
pub(crate) fn give_back<Request: Send + 'static>(error: &(dyn Error + 'static), request: Request) {
    if let Some(Word::Unsent(Some(unsent))) = first_word(error) {
        let mut place = unsent
            .request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(Box::new(request));
    }
}

/// What an error says of its request.
enum Word<'a> {
    Unsent(Option<&'a Unsent>),
    /// It was sent, or nobody can tell.
    #[cfg(feature = "_hyper")]
    PerhapsSent,
}

fn first_word<'a>(mut error: &'a (dyn Error + 'static)) -> Option<Word<'a>> {
    loop {
        match word(error) {
            Some(word) => return Some(word),
            None => error = error.source()?,
        }
    }
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

/// hyper gives a request back that it had not begun to write when the connection closed, and calls
/// that canceled.
#[cfg(feature = "_hyper")]
fn says_hyper(error: &(dyn Error + 'static)) -> Option<bool> {
    use hyper_util::client::legacy;

    let canceled = |error: &(dyn Error + 'static)| {
        let error = error.downcast_ref::<hyper::Error>();
        error.map(hyper::Error::is_canceled)
    };
    if let Some(error) = error.downcast_ref::<legacy::Error>() {
        let below = error.source().and_then(canceled);
        return Some(error.is_connect() || below == Some(true));
    }
    canceled(error)
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
