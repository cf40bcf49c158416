//! What became of a request: one judgement for everyone who measures.
//!
//! Load, ejection, circuit breaker and retry must not disagree about what a failure is. A
//! [`Classify`] decides it once, in two steps, because some protocols tell early and some late:
//!
//! ```text
//!                 judge(head or error)
//! request ──▶ ... ──────────────────────▶ Some(verdict)   HTTP status, transport error
//!                          │
//!                          └────────────▶ None            gRPC: the trailers will tell
//!                                          │ observe
//!                                          ▼
//!                              end of the stream: verdict; broke off: failure; dropped: neutral
//! ```
//!
//! | classifier | success | failure | overloaded |
//! |---|---|---|---|
//! | [`Answers`] | any answer | any error | |
//! | [`from_fn`] | as the closure says | | |
//! | `Http` | any other status | error, 5xx, a body that breaks off | 429, 503 with `Retry-After` |
//! | `Grpc` | any other status | error, status 2, 4, 13, 14, 15 or none | status 8 |
//!
//! The last two come with feature `http` or `tonic`. A caller that stops waiting proves nothing about
//! the endpoint: whoever holds an [`Observer`] sees it dropped and takes that as neutral.
//!
//! One thing an error alone can tell, and it decides what may be done about it: [`is_unsent`] says
//! that no endpoint has seen the request, and [`reclaim`] gets it back.

#[cfg(feature = "_hyper")]
mod body;
#[cfg(feature = "_hyper")]
mod codes;
#[cfg(feature = "_hyper")]
mod grpc;
#[cfg(feature = "_hyper")]
mod http;
mod unsent;

pub(crate) use self::unsent::{NotSent, give_back};
pub use self::unsent::{Unsent, is_unsent, reclaim};
#[cfg(feature = "_hyper")]
pub use self::{
    body::ObservedBody,
    grpc::Grpc,
    http::{Http, HttpWith},
};

use std::{fmt, time::Duration};

/// The longest time that an endpoint can ask for; linkerd's. A bad `Retry-After`, or a skewed clock, must not
/// leave an endpoint alone for a day.
#[cfg(feature = "_hyper")]
const LONGEST_PUSHBACK: Duration = Duration::from_secs(300);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was answered.
    Success,
    /// It was answered with an error, or not at all.
    Failure,
    /// The endpoint refuses more work for now: it is alive, and should get less.
    Overloaded,
    /// Its caller stopped waiting for the answer.
    Cancelled,
}

/// What an endpoint says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pushback {
    /// Not before this long from now.
    After(Duration),
    /// Not at all.
    Never,
}

/// An outcome, and what the endpoint said about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Verdict {
    /// What became of the request.
    pub outcome: Outcome,
    /// What the endpoint said about trying again.
    pub pushback: Option<Pushback>,
}

impl Verdict {
    /// The request was answered.
    pub const SUCCESS: Self = Self::new(Outcome::Success);
    /// The request failed.
    pub const FAILURE: Self = Self::new(Outcome::Failure);
    /// The endpoint has too much to do.
    pub const OVERLOADED: Self = Self::new(Outcome::Overloaded);

    /// A verdict without a word about trying again.
    pub const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            pushback: None,
        }
    }

    /// Adds what the endpoint said about trying again.
    #[must_use]
    pub const fn pushback(mut self, pushback: Pushback) -> Self {
        self.pushback = Some(pushback);
        self
    }
}

/// Receives the verdict on one request. Dropped without a verdict, the request was cancelled.
pub trait Observer: Send + 'static {
    /// Takes the verdict. May come a second time, with a worse one, when an answer that began well
    /// broke off.
    fn conclude(&mut self, verdict: Verdict);

    /// The head of an answer, or an error, has arrived. Without a `verdict` the end of the answer decides.
    fn answered(&mut self, verdict: Option<Verdict>) {
        if let Some(verdict) = verdict {
            self.conclude(verdict);
        }
    }
}

/// Observes nothing.
impl Observer for () {
    fn conclude(&mut self, _: Verdict) {}
}

/// Judges what became of requests.
///
/// Implemented by [`Answers`] and [`from_fn`] for any response, and by those of the protocols. One
/// that decides at the head of a response needs only these two lines besides [`judge`](Self::judge):
/// `type Observed<O: Observer> = Response;` and `fn observe(…) -> Response { response }`.
///
/// A layer judges a response once, and hands the verdict to `observe`. Layers above it judge again, as one
/// between may have changed the response; so `judge` should be cheap for a success.
///
/// A panic is the caller's. The request counts as cancelled.
pub trait Classify<Response, Error>: Clone + Send + Sync + 'static {
    /// The response as the caller gets it: with an observer of its end, where one is needed.
    type Observed<O: Observer>;

    /// Judges by the head of a response, or by an error. `None` leaves it to the end of the response.
    fn judge(&self, result: Result<&Response, &Error>) -> Option<Verdict>;

    /// Hands on the response. `head` is what [`judge`](Self::judge) said of it. `observer` knows that, and
    /// is to be told the verdict on its end; dropping it means the response is complete.
    fn observe<O: Observer>(
        &self,
        response: Response,
        head: Option<Verdict>,
        observer: O,
    ) -> Self::Observed<O>;
}

/// Any answer is a success and any error a failure, known with the head of the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answers;

impl<T, E> Classify<T, E> for Answers {
    type Observed<O: Observer> = T;

    fn judge(&self, result: Result<&T, &E>) -> Option<Verdict> {
        Some(match result {
            Ok(_) => Verdict::SUCCESS,
            Err(_) => Verdict::FAILURE,
        })
    }

    fn observe<O: Observer>(&self, response: T, _: Option<Verdict>, _: O) -> T {
        response
    }
}

/// Judges by a closure, at the head of the response.
///
/// # Examples
/// ```
/// use tower_roster::classify::{self, Verdict};
///
/// let classify = classify::from_fn(|result: Result<&u16, &std::io::Error>| match result {
///     Ok(code) if *code < 500 => Verdict::SUCCESS,
///     _ => Verdict::FAILURE,
/// });
/// ```
pub fn from_fn<F, T, E>(judge: F) -> FromFn<F>
where
    F: Fn(Result<&T, &E>) -> Verdict + Clone + Send + Sync + 'static,
{
    FromFn(judge)
}

/// Judges by a closure; made by [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFn<F>(F);

impl<F, T, E> Classify<T, E> for FromFn<F>
where
    F: Fn(Result<&T, &E>) -> Verdict + Clone + Send + Sync + 'static,
{
    type Observed<O: Observer> = T;

    fn judge(&self, result: Result<&T, &E>) -> Option<Verdict> {
        Some((self.0)(result))
    }

    fn observe<O: Observer>(&self, response: T, _: Option<Verdict>, _: O) -> T {
        response
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}
