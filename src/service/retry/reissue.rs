//! How a request is sent twice: whether it may be, and from what.
//!
//! A service takes a request away, so whoever may send it again puts something by first. What that
//! is depends on the request:
//!
//! | | for | keeps | idempotent |
//! |---|---|---|---|
//! | [`Cloned`] | `Clone` | a clone | always |
//! | [`clone_if`] | `Clone` | a clone | as a closure says |
//! | [`from_fn`] | any | what a closure makes | when it made something |
//! | [`Replay`](super::Replay) | `http::Request<B>` | the head, and the body as it passes | by method |
//! | [`ShareReplay`](super::ShareReplay) | one that `Replay` made | the head, and the same body | by method |

use std::{error::Error, fmt};

/// Prepares requests to be sent again.
pub trait Reissue<Request>: Clone {
    /// What is sent instead of the request.
    type Request;
    /// What later attempts are made from.
    type Spare;

    /// Turns a request into that of the first attempt and what later ones are made from, which is
    /// `None` when there can be none. On the path of every request.
    fn prepare(&self, request: Request) -> (Self::Request, Option<Self::Spare>);

    /// Whether the request may be carried out twice without harm.
    fn is_idempotent(&self, spare: &Self::Spare) -> bool;

    /// Whether [`reissue`](Self::reissue) would succeed as things stand.
    fn is_whole(&self, spare: &Self::Spare) -> bool {
        let _ = spare;
        true
    }

    /// Takes what attempts hold of the request away from them: they are given up for one that
    /// follows. Not called for attempts that run beside each other.
    fn supersede(&self, spare: &Self::Spare) {
        let _ = spare;
    }

    /// Makes the request of another attempt. `None` when that cannot be done any more.
    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request>;

    /// Takes a request that was not sent from the error that brings it back, where no copy was kept
    /// for that case.
    fn reclaim(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> Option<Self::Request> {
        let _ = (spare, error);
        None
    }
}

/// A way of repeating requests that a hedge right below the retry shares, so that both repeat the same ones.
pub trait Hedgeable: Clone {
    /// How the hedge repeats what the retry has prepared.
    type Hedge: Clone;

    /// That for the hedge.
    fn hedge(&self) -> Self::Hedge;
}

/// Sends clones, and takes every request as idempotent.
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

/// Sends clones, and takes those requests as idempotent of which `is_idempotent` says so.
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

/// Sends clones of any request; made by [`clone_if`].
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

/// Sends what `copy` makes of a request, which is not sent again where that is `None`.
///
/// # Examples
/// ```
/// use tower_roster::service::retry::reissue;
///
/// struct Query {
///     text: String,
///     writes: bool,
/// }
/// let reissue = reissue::from_fn(|query: &Query| {
///     (!query.writes).then(|| Query { text: query.text.clone(), writes: false })
/// });
/// ```
pub fn from_fn<F, Request>(copy: F) -> FromFn<F>
where
    F: Fn(&Request) -> Option<Request> + Clone,
{
    FromFn(copy)
}

/// Sends copies that a closure makes; made by [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFn<F>(F);

impl<F, Request> Reissue<Request> for FromFn<F>
where
    F: Fn(&Request) -> Option<Request> + Clone,
{
    type Request = Request;
    type Spare = Request;

    fn prepare(&self, request: Request) -> (Request, Option<Request>) {
        let spare = (self.0)(&request);
        (request, spare)
    }

    fn is_idempotent(&self, _: &Request) -> bool {
        true
    }

    fn reissue(&self, spare: &Request) -> Option<Request> {
        (self.0)(spare)
    }
}

impl<F: Clone> Hedgeable for CloneIf<F> {
    type Hedge = Self;

    fn hedge(&self) -> Self {
        self.clone()
    }
}

impl<F: Clone> Hedgeable for FromFn<F> {
    type Hedge = Self;

    fn hedge(&self) -> Self {
        self.clone()
    }
}

impl<F> fmt::Debug for CloneIf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloneIf").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}
