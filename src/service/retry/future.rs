//! The response future of a request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower::Service;

use super::{
    again::Again,
    budget::SlotEnd,
    kept::{FailedAttempt, Kept, failure},
    reissue::Reissue,
    terms::RetryParts,
};
use crate::{
    attempt::{self, Abandoned, AttemptKind, Tried},
    classify::{self, Classify},
    deadline::DeadlinePassed,
    error::BoxError,
};

/// The response future of a [`Retry`](super::Retry): a request and its attempts.
///
/// # Cancel safety
/// Dropping it drops the current attempt. A request that waits for its retry has not withdrawn from
/// the budget yet.
#[pin_project]
pub struct ResponseFuture<S, Req, R, C>(#[pin] RetryStage<S, Req, R, C>)
where
    R: Reissue<Req>,
    S: Service<R::Request>;

#[pin_project(project = StageProj, project_replace = StageOwned)]
enum RetryStage<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// The first attempt. Most requests end with it, so it carries no state of later attempts.
    First {
        #[pin]
        attempt: S::Future,
        kept: Kept<S, R::Spare, R, C>,
    },
    Again(Pin<Box<Again<S, Req, R, C>>>),
    /// The deadline of the request had passed when it came, so there is no attempt.
    Late,
    Done,
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
    C: Clone,
{
    #[inline]
    pub(super) fn new(
        mut service: S,
        settings: &RetryParts<R, C>,
        slot: &mut SlotEnd,
        request: Req,
    ) -> Self {
        let came = settings.terms.begin();
        let mut request = request;
        let own = settings.reissue.deadline(&request);
        let own = own.map(|own| settings.terms.limits(came, own));
        if let Some(limits) = own {
            if limits.is_over() {
                return Self(RetryStage::Late);
            }
            settings.reissue.set_deadline(&mut request, limits.end());
        }
        settings.terms.deposit(slot, came);
        let (request, spare) = settings.reissue.prepare(request);
        let mut tried = Tried::new();
        let call = || match came {
            Some(now) => attempt::at(now, || service.call(request)),
            None => service.call(request),
        };
        let attempt = tried.enter(|| AttemptKind::first(call));
        let mut kept = Kept::new(service, spare, settings, tried, came);
        if let Some(limits) = own {
            kept.limit(limits);
        }
        Self(RetryStage::First { attempt, kept })
    }
}

impl<S, Req, R, C> Future for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().0;
        if let StageProj::First { attempt, kept } = stage.as_mut().project() {
            let failed = match AttemptKind::first(|| kept.poll(attempt, cx)) {
                Poll::Ready(result) => {
                    let verdict = kept.judge(&result);
                    let answer = result.map_err(Into::into);
                    let Some(verdict) = failure(verdict, &answer) else {
                        stage.set(RetryStage::Done);
                        return Poll::Ready(answer);
                    };
                    FailedAttempt::judged(answer, verdict)
                }
                Poll::Pending => match ready!(kept.poll_end(None, cx)) {
                    Ok(failed) => failed,
                    Err(elapsed) => {
                        Abandoned::Deadline.during(|| stage.set(RetryStage::Done));
                        return Poll::Ready(Err(elapsed.into()));
                    }
                },
            };
            let first = failed.give_up(|| stage.as_mut().project_replace(RetryStage::Done));
            let StageOwned::First { kept, .. } = first else {
                unreachable!("it was the first attempt above");
            };
            match Again::after(kept, failed) {
                Ok(again) => stage.set(RetryStage::Again(again)),
                Err(answer) => return Poll::Ready(answer),
            }
        }
        match stage.as_mut().project() {
            StageProj::Again(again) => again.as_mut().poll(cx),
            StageProj::Late => {
                stage.set(RetryStage::Done);
                classify::note(&DeadlinePassed::BeforeCall);
                Poll::Ready(Err(DeadlinePassed::BeforeCall.into()))
            }
            _ => panic!("polled after it was done"),
        }
    }
}

impl<S, Req, R, C> fmt::Debug for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = match &self.0 {
            RetryStage::Again(again) => Some(again),
            RetryStage::First { .. } | RetryStage::Late | RetryStage::Done => None,
        };
        f.debug_struct("ResponseFuture")
            .field("tries", &again.map_or(1, |again| again.tries()))
            .field("waits", &again.is_some_and(|again| again.waits()))
            .finish_non_exhaustive()
    }
}
