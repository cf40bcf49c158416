//! Sending HTTP requests again.

use std::{fmt, sync::Arc};

use http::{Method, Request, request::Parts};
use http_body::Body;

use super::{
    reissue::Reissue,
    replay::{ReplayBody, Replayer},
};

/// As linkerd: enough for almost all calls of an API, and 64 MiB for a thousand of them at a time.
const LIMIT: usize = 64 * 1024;

/// Sends HTTP requests again: those of idempotent methods, with bodies up to a limit.
///
/// The inner service gets an `http::Request<ReplayBody<B>>`. A request without a body costs a clone of
/// its head; one with a body another allocation, and the bytes that pass are kept until it is done.
///
/// # Examples
/// ```
/// use tower_roster::service::retry::Replay;
///
/// // A key makes any request of this API safe to repeat.
/// let replay = Replay::new()
///     .limit(16 * 1024)
///     .idempotent(|head| head.method.is_safe() || head.headers.contains_key("idempotency-key"));
/// ```
#[derive(Clone, Copy)]
pub struct Replay {
    limit: usize,
    idempotent: fn(&Parts) -> bool,
}

impl Replay {
    /// Sends again what RFC 9110 calls idempotent, with a body of up to 64 KiB.
    pub const fn new() -> Self {
        Self {
            limit: LIMIT,
            idempotent: is_idempotent,
        }
    }

    /// Sets how many bytes of a body are kept; 64 KiB by default. A frame of it counts as 64 bytes at
    /// least. Zero sends a request with a body again only while nothing of it was read, as after a
    /// connection that failed; a high limit costs that memory for each request that is under way.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets which requests may be carried out twice; those of the methods GET, HEAD, OPTIONS, TRACE,
    /// PUT and DELETE by default.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: fn(&Parts) -> bool) -> Self {
        self.idempotent = idempotent;
        self
    }
}

/// Whether the method is idempotent (RFC 9110, section 9.2.2).
fn is_idempotent(head: &Parts) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(&head.method)
}

impl<B: Body> Reissue<Request<B>> for Replay {
    type Request = Request<ReplayBody<B>>;
    type Spare = HttpSpare<B>;

    #[inline]
    fn prepare(&self, request: Request<B>) -> (Self::Request, Option<Self::Spare>) {
        let (head, body) = request.into_parts();
        // One that may be sent again only if nothing of it went out needs nothing kept.
        let limit = if (self.idempotent)(&head) {
            self.limit
        } else {
            0
        };
        let (body, replayer) = ReplayBody::new(body, limit);
        let copy = Arc::new(head.clone());
        let body = body.with_head(&copy);
        let spare = HttpSpare {
            head: copy,
            replayer,
        };
        (Request::from_parts(head, body), Some(spare))
    }

    fn is_idempotent(&self, spare: &Self::Spare) -> bool {
        (self.idempotent)(&spare.head)
    }

    fn is_whole(&self, spare: &Self::Spare) -> bool {
        spare.replayer.is_whole()
    }

    fn supersede(&self, spare: &Self::Spare) {
        spare.replayer.supersede();
    }

    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request> {
        spare.reissue()
    }
}

/// Sends again what a [`Replay`] above has wrapped, without wrapping it twice.
///
/// For a hedge below a retry. It goes by the method, as `Replay` does by default.
#[derive(Clone, Copy)]
pub struct ShareReplay {
    idempotent: fn(&Parts) -> bool,
    /// No layer between changes the head, so that of the retry will do.
    next_to_retry: bool,
}

impl ShareReplay {
    /// Sends again what RFC 9110 calls idempotent.
    pub const fn new() -> Self {
        Self {
            idempotent: is_idempotent,
            next_to_retry: false,
        }
    }

    /// Shares the copy of the head, too: for a hedge with nothing between itself and the retry.
    pub(crate) const fn next_to_retry(mut self) -> Self {
        self.next_to_retry = true;
        self
    }

    /// Sets which requests may be carried out twice, as [`Replay::idempotent`].
    #[must_use]
    pub const fn idempotent(mut self, idempotent: fn(&Parts) -> bool) -> Self {
        self.idempotent = idempotent;
        self
    }
}

impl<B> Reissue<Request<ReplayBody<B>>> for ShareReplay {
    type Request = Request<ReplayBody<B>>;
    type Spare = HttpSpare<B>;

    fn prepare(&self, request: Request<ReplayBody<B>>) -> (Self::Request, Option<Self::Spare>) {
        let (head, body) = request.into_parts();
        let copy = body.head().filter(|_| self.next_to_retry);
        let spare = HttpSpare {
            head: copy.map_or_else(|| Arc::new(head.clone()), Arc::clone),
            replayer: body.replayer(),
        };
        (Request::from_parts(head, body), Some(spare))
    }

    fn is_idempotent(&self, spare: &Self::Spare) -> bool {
        (self.idempotent)(&spare.head)
    }

    fn is_whole(&self, spare: &Self::Spare) -> bool {
        spare.replayer.is_whole()
    }

    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request> {
        spare.reissue()
    }
}

/// What later attempts of an HTTP request are made from.
pub struct HttpSpare<B> {
    /// Shared, and so a word to all layers that move it.
    head: Arc<Parts>,
    replayer: Replayer<B>,
}

impl<B> HttpSpare<B> {
    fn reissue(&self) -> Option<Request<ReplayBody<B>>> {
        let whole = self.replayer.is_whole();
        whole.then(|| {
            let body = self.replayer.copy().with_head(&self.head);
            Request::from_parts(Parts::clone(&self.head), body)
        })
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for ShareReplay {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ShareReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareReplay").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for HttpSpare<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSpare")
            .field("method", &self.head.method)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;

    use super::*;

    #[test]
    fn a_hedge_repeats_what_came_to_it_whatever_was_between() {
        let (mut sent, _) = Replay::new().prepare(Request::new(Empty::<Bytes>::new()));
        sent.headers_mut().insert("x-between", 1.into());
        let (_, spare) = ShareReplay::new().prepare(sent);
        let again = spare.and_then(|spare| spare.reissue());
        assert!(
            again
                .expect("it is whole")
                .headers()
                .contains_key("x-between")
        );
    }

    #[test]
    fn a_hedge_next_to_its_retry_needs_no_copy_of_its_own() {
        let request = Request::put("http://web/users/1").body(Empty::<Bytes>::new());
        let (first, above) = Replay::new().prepare(request.expect("a valid request"));
        let above = above.expect("it can be repeated");
        for sent in [Some(first), above.reissue()] {
            let hedge = ShareReplay::new().next_to_retry();
            let (_, spare) = hedge.prepare(sent.expect("it is whole"));
            let spare = spare.expect("it can be repeated");
            assert!(Arc::ptr_eq(&spare.head, &above.head));
            let again = spare.reissue().expect("it is whole");
            assert_eq!(
                (again.method(), again.uri().path()),
                (&Method::PUT, "/users/1")
            );
        }
    }
}
