//! Completion of HTTP requests at the end of the response body.

use std::convert::Infallible;

use tower::load::TrackCompletion;

use super::load::{Handle, LoadTracker};
use crate::classify::{Classify, Http, Observer, Outcome, Verdict};

/// Counts a request as in flight until the body of its response ends or is dropped; for a
/// [`MeasuredEndpoint`](super::MeasuredEndpoint).
///
/// The latency is the time to the head of the response, whatever the length of the body. A classifier
/// decides what a failure is. [`Http`], the default, counts status 429, status 5xx, and a body that breaks
/// off. A refusal for overload counts as a failure here, so that a server that refuses fast does not look
/// like a fast server.
///
/// # Examples
/// ```
/// use tower_roster::{classify::Grpc, endpoint::CompleteOnBody};
///
/// let http = CompleteOnBody::default();
/// let grpc = CompleteOnBody::new(Grpc::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompleteOnBody<C = Http> {
    classify: C,
}

impl<C> CompleteOnBody<C> {
    /// Uses another classifier.
    pub fn new(classify: C) -> Self {
        Self { classify }
    }
}

impl Default for CompleteOnBody {
    fn default() -> Self {
        Self::new(Http)
    }
}

impl<C, L, Response> TrackCompletion<Handle<L>, Response> for CompleteOnBody<C>
where
    // The classifier gets no errors here, so the error type does not matter.
    C: Classify<Response, Infallible>,
    L: LoadTracker,
{
    type Output = C::Observed<Handle<L>>;

    fn track_completion(&self, mut handle: Handle<L>, response: Response) -> Self::Output {
        let verdict = self.classify.judge(Ok(&response));
        if let Some(verdict) = verdict {
            handle.conclude(verdict);
        }
        self.classify.observe(response, verdict, handle)
    }
}

impl<L: LoadTracker> Observer for Handle<L> {
    fn conclude(&mut self, verdict: Verdict) {
        match verdict.outcome {
            Outcome::Success => self.succeed(),
            Outcome::Failure | Outcome::Overloaded => self.fail(),
            Outcome::Cancelled => self.forget(),
        }
    }
}
