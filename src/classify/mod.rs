//! Classifies the result of each request, once for every layer that measures requests.
//!
//! Load, ejection, circuit breaker and retry must agree on what a failure is. A [`Classify`] decides it
//! in two steps, because some protocols report the result in the head of the response and others at its
//! end:
//!
//! ```text
//!                 judge(head or error)
//! request ──▶ ... ──────────────────────▶ Some(verdict)   HTTP status, transport error
//!                          │
//!                          └────────────▶ None            gRPC: the status is in the trailers
//!                                          │ observe
//!                                          ▼
//!                              end of the stream: verdict; broken stream: failure; dropped: neutral
//! ```
//!
//! | classifier | success | failure | overloaded |
//! |---|---|---|---|
//! | [`Answers`] | any response | any error | |
//! | [`from_fn`] | as the closure decides | | |
//! | `Http` | any other status | error, 5xx, a body that breaks off | 429, 503 with `Retry-After` |
//! | `Grpc` | any other status | error, status 2, 4, 13, 14, 15 or none | status 8 |
//!
//! `Http` and `Grpc` need feature `http` or `tonic`. A caller that stops waiting proves nothing about
//! the endpoint: its [`Observer`] is dropped without a verdict, and the layers count the request as
//! neutral.
//!
//! An error can also prove that no endpoint received the request. [`is_unsent`] checks that, and
//! [`reclaim`] takes the request back from the error.

#[cfg(feature = "_hyper")]
mod body;
#[cfg(feature = "_hyper")]
mod codes;
mod excuse;
#[cfg(feature = "_hyper")]
mod grpc;
#[cfg(feature = "_hyper")]
mod http;
mod over_limit;
#[cfg(feature = "_hyper")]
mod retry_after;
mod unsent;

#[cfg(feature = "_hyper")]
pub(crate) use self::codes::grpc_code;
#[cfg(feature = "http")]
pub(crate) use self::excuse::InvalidRequest;
#[cfg(feature = "_transport")]
pub(crate) use self::retry_after::retry_after;
#[cfg(any(feature = "http", feature = "_transport"))]
pub(crate) use self::unsent::Begun;
#[cfg(feature = "http2")]
pub(crate) use self::unsent::is_refused;
#[cfg(feature = "http")]
pub(crate) use self::unsent::returns;
#[cfg(feature = "tonic")]
pub(crate) use self::unsent::{Refusal, refusal};
#[cfg(feature = "_hyper")]
pub use self::{
    body::ObservedBody,
    grpc::Grpc,
    http::{Http, HttpWith},
};
pub(crate) use self::{
    excuse::{Excuse, forget, note, noted, on_error, on_service_error},
    unsent::{NotSent, give_back},
};
pub use self::{
    over_limit::{OverLimit, is_over_limit},
    unsent::{Unsent, is_unsent, reclaim},
};

use std::time::Duration;

use crate::error::RequestErrorKind;

/// The longest pushback that an endpoint can request, in linkerd as well. A bad `Retry-After`, or a
/// skewed clock, must not withhold traffic from an endpoint for a day.
#[cfg(feature = "_hyper")]
const LONGEST_PUSHBACK: Duration = Duration::from_secs(300);

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint responded.
    Success,
    /// The endpoint responded with an error, or did not respond.
    Failure,
    /// The endpoint refuses more work for now: it is alive, and should get fewer requests.
    Overloaded,
    /// The caller stopped waiting for the response.
    Cancelled,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: &[Self] = &[
        Self::Success,
        Self::Failure,
        Self::Overloaded,
        Self::Cancelled,
    ];

    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Overloaded => "overloaded",
            Self::Cancelled => "cancelled",
        }
    }
}

/// When a request may be retried, as the endpoint requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pushback {
    /// Not before this long from now. A retry waits for its own backoff if that is longer, and up to
    /// half as long again, so that clients which are told the same do not come back together.
    After(Duration),
    /// After this long, which the endpoint has chosen for this request: a retry adds nothing to it. gRPC
    /// defines its pushback so, and a pushback of zero retries at once.
    Exactly(Duration),
    /// Never.
    Never,
}

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseStatus {
    /// A status of HTTP.
    Http(u16),
    /// A status code of gRPC.
    Grpc(u16),
}

impl ResponseStatus {
    /// Returns the number.
    pub const fn code(self) -> u16 {
        match self {
            Self::Http(code) | Self::Grpc(code) => code,
        }
    }
}

/// An outcome, and the pushback that the endpoint sent with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Verdict {
    /// The result of the request.
    pub outcome: Outcome,
    /// When the endpoint allows a retry; `None` if it sent no pushback.
    pub pushback: Option<Pushback>,
}

impl Verdict {
    /// The request succeeded.
    pub const SUCCESS: Self = Self::new(Outcome::Success);
    /// The request failed.
    pub const FAILURE: Self = Self::new(Outcome::Failure);
    /// The endpoint is overloaded.
    pub const OVERLOADED: Self = Self::new(Outcome::Overloaded);

    /// Creates a verdict without pushback.
    pub const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            pushback: None,
        }
    }

    /// Sets the pushback that the endpoint sent.
    #[must_use]
    pub const fn pushback(mut self, pushback: Pushback) -> Self {
        self.pushback = Some(pushback);
        self
    }
}

/// Receives the verdict on one request. An observer that is dropped without a verdict means that the
/// request was cancelled.
pub trait Observer: Send + 'static {
    /// Takes the verdict. It is called a second time, with a worse verdict, when a response that began
    /// as a success breaks off.
    fn conclude(&mut self, verdict: Verdict);

    /// Reports that the head of a response, or an error, has arrived. Without a `verdict`, the end of
    /// the response decides.
    fn answered(&mut self, verdict: Option<Verdict>) {
        if let Some(verdict) = verdict {
            self.conclude(verdict);
        }
    }

    /// Reports that the response is complete, before the verdict on its end. Not called if it breaks off or
    /// is dropped.
    fn ended(&mut self) {}

    /// Reports that the response broke off after its head, before the verdict on that, if one follows. `kind`
    /// is the reason: the connection broke, the deadline of the caller passed, or the response exceeds a
    /// limit of this client.
    fn broke_off(&mut self, _kind: RequestErrorKind) {}

    /// Receives the trailers of a response whose verdict they carry, before [`ended`](Self::ended).
    #[cfg(feature = "_hyper")]
    fn trailers(&mut self, _: &::http::HeaderMap) {}
}

/// Ignores every verdict.
impl Observer for () {
    fn conclude(&mut self, _: Verdict) {}
}

/// Classifies the results of requests.
///
/// [`Answers`] and [`from_fn`] implement it for any response; `Http` and `Grpc` implement it for their
/// protocols. An implementation that decides by the head of a response needs only these two lines
/// besides [`judge`](Self::judge): `type Observed<O: Observer> = Response;` and
/// `fn observe(…) -> Response { response }`.
///
/// A layer calls `judge` once per response, and passes the verdict to `observe`. Layers above it call
/// `judge` again, because a layer between the two may have changed the response. So `judge` should be
/// cheap for a success.
///
/// # Panics
/// A panic of the implementation reaches the caller. The request then counts as cancelled.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not judge responses of type `{Response}` with errors of type `{Error}`",
    note = "`classify::Http` and `classify::Grpc` judge `http::Response`s, and `classify::Answers` any response",
    note = "`classify::from_fn` takes a function of type `fn(Result<&Response, &Error>) -> Verdict`"
)]
pub trait Classify<Response, Error>: Clone + Send + Sync + 'static {
    /// The response that the caller gets. It wraps the response if its end must be observed.
    type Observed<O: Observer>;

    /// Returns the verdict on the head of a response, or on an error. `None` means that the end of the
    /// response decides.
    fn judge(&self, result: Result<&Response, &Error>) -> Option<Verdict>;

    /// Returns the status in the head of a response, for reports only; `None` if it has none.
    fn status(&self, _: &Response) -> Option<ResponseStatus> {
        None
    }

    /// Returns the response for the caller. `head` is the result of [`judge`](Self::judge); `observer`
    /// has received it already. The implementation reports the verdict on the end of the response to
    /// `observer`, and drops it when the response is complete.
    fn observe<O: Observer>(
        &self,
        response: Response,
        head: Option<Verdict>,
        observer: O,
    ) -> Self::Observed<O>;
}

/// Counts any response as a success and any error as a failure. The verdict is known with the head of
/// the response.
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

    fn observe<O: Observer>(&self, response: T, _: Option<Verdict>, mut observer: O) -> T {
        observer.ended();
        response
    }
}

/// Creates a classifier that applies a closure to the head of the response.
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

/// A classifier that applies a closure; made by [`from_fn`].
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

    fn observe<O: Observer>(&self, response: T, _: Option<Verdict>, mut observer: O) -> T {
        observer.ended();
        response
    }
}

impl_debug!([F] FromFn<F>);
