//! How to send a request twice: whether it is allowed, and from which copy.
//!
//! A service consumes a request, so a caller that may repeat it must keep a copy first. The copy
//! depends on the request:
//!
//! | | for | keeps | idempotent |
//! |---|---|---|---|
//! | [`Cloned`] | `Clone` | a clone | always |
//! | [`clone_if`] | `Clone` | a clone | when a closure returns true |
//! | [`Replay`](super::Replay) | `http::Request<B>` | the head, and the body as it is read | by method |
//! | [`ShareReplay`](super::ShareReplay) | a request that `Replay` wrapped | the head, and the same body | by method |

use std::error::Error;

use crate::deadline::Deadline;

/// Prepares requests to be sent again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot send a request of type `{Request}` again",
    note = "`Cloned` needs requests that are `Clone`; for `http::Request`s set `Replay::new()`, as `RetryLayer::http` \
            and `Stack::http` do"
)]
pub trait Reissue<Request>: Clone {
    /// The request that is sent to the inner service.
    type Request;
    /// What later attempts are made from.
    type Spare;

    /// Returns when the caller of a request stops waiting for its response; never by default.
    #[inline]
    fn deadline(&self, request: &Request) -> Option<Deadline> {
        let _ = request;
        None
    }

    /// Puts a deadline into a request that has one, so that each attempt carries it.
    fn set_deadline(&self, request: &mut Request, deadline: Deadline) {
        let _ = (request, deadline);
    }

    /// Splits a request into the first attempt and what later attempts are made from. The second
    /// part is `None` when the request cannot be repeated. Called for every request.
    fn prepare(&self, request: Request) -> (Self::Request, Option<Self::Spare>);

    /// Whether the request may be carried out twice without harm.
    fn is_idempotent(&self, spare: &Self::Spare) -> bool;

    /// Whether [`reissue`](Self::reissue) would succeed now.
    fn is_whole(&self, spare: &Self::Spare) -> bool {
        let _ = spare;
        true
    }

    /// Takes the shared request body away from earlier attempts, because a later attempt replaces
    /// them. Not called for attempts that run side by side.
    fn supersede(&self, spare: &Self::Spare) {
        let _ = spare;
    }

    /// Makes the request of another attempt. Returns `None` when that is no longer possible.
    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request>;

    /// Whether [`reclaim`](Self::reclaim) would return a request. Until the next attempt starts, the
    /// request stays in its error, because the caller may get that error.
    fn returns(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> bool {
        let _ = (spare, error);
        false
    }

    /// Takes a request that was not sent out of the error that returns it, when no copy was kept.
    fn reclaim(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> Option<Self::Request> {
        let _ = (spare, error);
        None
    }
}

/// A [`Reissue`] that a hedge directly below the retry can share, so that both repeat the same
/// requests.
pub trait Hedgeable: Clone {
    /// How the hedge repeats a request that the retry has prepared.
    type Hedge: Clone;

    /// Makes the [`Reissue`] of the hedge.
    fn hedge(&self) -> Self::Hedge;
}

/// Repeats requests from clones, and treats every request as idempotent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cloned;

impl<Request: Clone> Reissue<Request> for Cloned {
    type Request = Request;
    type Spare = Request;

    fn prepare(&self, request: Request) -> (Request, Option<Request>) {
        let spare = request.clone();
        (request, Some(spare))
    }

    fn is_idempotent(&self, _: &Request) -> bool {
        true
    }

    fn reissue(&self, spare: &Request) -> Option<Request> {
        Some(spare.clone())
    }
}

impl Hedgeable for Cloned {
    type Hedge = Self;

    fn hedge(&self) -> Self {
        *self
    }
}

/// Repeats requests from clones, and treats a request as idempotent if `is_idempotent` returns
/// true.
///
/// # Examples
/// ```
/// use tower_roster::service::retry::reissue;
///
/// let reissue = reissue::clone_if(|request: &String| request.starts_with("get "));
/// ```
pub fn clone_if<F, Request>(is_idempotent: F) -> CloneIf<F>
where
    F: Fn(&Request) -> bool + Clone,
{
    CloneIf(is_idempotent)
}

/// Repeats clones of requests; made by [`clone_if`].
#[derive(Clone, Copy)]
pub struct CloneIf<F>(F);

impl<F, Request> Reissue<Request> for CloneIf<F>
where
    F: Fn(&Request) -> bool + Clone,
    Request: Clone,
{
    type Request = Request;
    type Spare = Request;

    fn prepare(&self, request: Request) -> (Request, Option<Request>) {
        Cloned.prepare(request)
    }

    fn is_idempotent(&self, spare: &Request) -> bool {
        (self.0)(spare)
    }

    fn reissue(&self, spare: &Request) -> Option<Request> {
        Cloned.reissue(spare)
    }
}

impl<F: Clone> Hedgeable for CloneIf<F> {
    type Hedge = Self;

    fn hedge(&self) -> Self {
        self.clone()
    }
}

impl_debug!([F] CloneIf<F>);
