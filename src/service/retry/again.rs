//! The attempts after the first.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{
    FailedAnswer, RetryError, Stop,
    kept::{FailedAttempt, Kept, failure},
    reissue::Reissue,
};
use crate::{
    attempt::{Abandoned, AttemptKind},
    backoff::{Delays, after, hinted},
    classify::{Classify, Pushback},
    error::BoxError,
    task::Timer,
};

/// A request whose first attempt failed, and that is sent again.
#[pin_project]
pub(super) struct Again<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// The current attempt; `None` between attempts.
    #[pin]
    attempt: Option<S::Future>,
    kept: Kept<S, R::Spare, R, C>,
    /// How often the request was sent.
    tries: u32,
    /// One timer for all waits.
    timer: Timer,
    delays: Option<Delays>,
    /// When the last attempt started, unless it was the first.
    retried: Option<Instant>,
    /// The response or error of the last attempt, while its retry waits.
    answer: Option<Result<S::Response, BoxError>>,
    /// Whether the error of the last attempt returns the request.
    returns: bool,
    /// When the backoff ends, during the backoff.
    until: Option<Instant>,
}

impl<S, Req, R, C> Again<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
    S::Error: Into<BoxError>,
{
    /// For a request whose first attempt failed.
    ///
    /// # Errors
    /// Returns the result for the caller if there is no further attempt.
    // The parts of the first attempt come by value, so that its future need not be in memory.
    #[cold]
    pub(super) fn after(
        kept: Kept<S, R::Spare, R, C>,
        failed: FailedAttempt<S::Response>,
    ) -> Result<Pin<Box<Self>>, Result<S::Response, BoxError>> {
        let mut again = Box::pin(Self {
            attempt: None,
            kept,
            tries: 1,
            timer: Timer::default(),
            delays: None,
            retried: None,
            answer: None,
            returns: false,
            until: None,
        });
        match again.as_mut().fail(failed) {
            Ok(()) => Ok(again),
            Err(stop) => Err(again.as_mut().stop(stop)),
        }
    }

    /// Runs attempts until one succeeds, or there is no further one.
    #[cold]
    pub(super) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, BoxError>>
    where
        C: Classify<S::Response, S::Error>,
    {
        loop {
            let mut this = self.as_mut().project();
            let Some(attempt) = this.attempt.as_mut().as_pin_mut() else {
                match ready!(self.as_mut().poll_next(cx)) {
                    Ok(()) => continue,
                    Err(stop) => return Poll::Ready(self.stop(stop)),
                }
            };
            let polled = AttemptKind::Retry.enter(|| this.kept.poll(attempt, cx));
            let failed = match polled {
                Poll::Ready(result) => {
                    let verdict = this.kept.judge(&result);
                    let answer = result.map_err(Into::into);
                    let Some(verdict) = failure(verdict, &answer) else {
                        this.attempt.set(None);
                        return Poll::Ready(answer);
                    };
                    FailedAttempt::judged(answer, verdict)
                }
                Poll::Pending => match ready!(this.kept.poll_end(*this.retried, cx)) {
                    Ok(failed) => failed,
                    Err(elapsed) => {
                        Abandoned::Deadline.during(|| this.attempt.set(None));
                        return Poll::Ready(Err(elapsed.into()));
                    }
                },
            };
            failed.give_up(|| this.attempt.set(None));
            if let Err(stop) = self.as_mut().fail(failed) {
                return Poll::Ready(self.stop(stop));
            }
        }
    }

    /// Keeps the result of a failed attempt, and decides whether there is another attempt.
    fn fail(self: Pin<&mut Self>, failed: FailedAttempt<S::Response>) -> Result<(), Stop> {
        let this = self.project();
        let (terms, reissue) = (&this.kept.terms, &this.kept.reissue);
        let pushback = failed.pushback;
        let answer = this.answer.insert(failed.answer);
        let error = answer.as_ref().err();
        let unsent = error.is_some_and(|error| (terms.rules.unsent)(&**error));
        if *this.tries >= terms.rules.max_attempts.get() {
            return Err(Stop::Exhausted);
        }
        if pushback == Some(Pushback::Never) {
            return Err(Stop::Pushback);
        }
        let spare = this.kept.spare.as_ref().ok_or(Stop::NotReplayable)?;
        if !unsent && !reissue.is_idempotent(spare) {
            return Err(Stop::NotIdempotent);
        }
        *this.returns = unsent && error.is_some_and(|error| reissue.returns(spare, &**error));
        if !*this.returns && !reissue.is_whole(spare) {
            return Err(Stop::NotReplayable);
        }
        if let Some(Pushback::After(asked) | Pushback::Exactly(asked)) = pushback
            && asked > terms.rules.max_pushback
        {
            return Err(Stop::Pushback);
        }
        let delays = this.delays;
        let mut backoff = |rng: &mut _| {
            let delays = delays.get_or_insert_with(|| terms.rules.delay.delays());
            delays.next(rng)
        };
        let delay = match pushback {
            Some(Pushback::Exactly(asked)) => asked,
            Some(Pushback::After(asked)) => {
                let rng = &mut terms.rng();
                hinted(asked, backoff(rng), rng)
            }
            // The attempt caused no load, and the next one goes to another endpoint.
            _ if unsent && *this.tries == 1 => Duration::ZERO,
            _ => backoff(&mut terms.rng()),
        };
        let now = Instant::now();
        let start = after(now, delay);
        if this.kept.deadline().is_some_and(|end| start >= end) {
            return Err(Stop::Deadline);
        }
        // Checked here so that no request waits in vain. The withdrawal follows when the attempt is
        // sent.
        if terms.budget().is_some_and(|it| !it.allows(now)) {
            return Err(Stop::BudgetEmpty);
        }
        *this.until = (!delay.is_zero()).then_some(start);
        Ok(())
    }

    /// Waits for the backoff and the service, then starts the next attempt.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let this = self.as_mut().project();
        assert!(this.answer.is_some(), "not polled after it was done");
        if let Some(until) = *this.until {
            ready!(this.timer.poll(Some(until), cx));
            *this.until = None;
        }
        let Kept { tried, service, .. } = this.kept;
        match tried.enter(|| service.poll_ready(cx)) {
            Poll::Ready(Ok(())) => Poll::Ready(self.attempt()),
            Poll::Ready(Err(error)) => {
                // A response is more useful to the caller than the later error of the service, and so
                // is an error that returns the request.
                if let (Some(Err(last)), false) = (this.answer, *this.returns) {
                    *last = error.into();
                }
                Poll::Ready(Err(Stop::NotReady))
            }
            Poll::Pending => {
                // The response may hold the permit that the service waits for.
                if let Some(Ok(_)) = this.answer {
                    *this.answer = Some(Err(FailedAnswer.into()));
                }
                let Some(deadline) = this.kept.deadline() else {
                    return Poll::Pending;
                };
                ready!(this.timer.poll(Some(deadline), cx));
                Poll::Ready(Err(Stop::Deadline))
            }
        }
    }

    /// Starts the next attempt. The service is ready.
    fn attempt(self: Pin<&mut Self>) -> Result<(), Stop> {
        let mut this = self.project();
        let (terms, reissue) = (&this.kept.terms, &this.kept.reissue);
        let now = Instant::now();
        if this.kept.deadline().is_some_and(|end| now >= end) {
            return Err(Stop::Deadline);
        }
        let spare = this.kept.spare.as_ref().ok_or(Stop::NotReplayable)?;
        if !*this.returns && !reissue.is_whole(spare) {
            return Err(Stop::NotReplayable);
        }
        if terms.budget().is_some_and(|it| !it.withdraw(now)) {
            return Err(Stop::BudgetEmpty);
        }
        // The error keeps the request until here: the caller gets it when there is no next attempt.
        let error = this.answer.as_ref().and_then(|it| it.as_ref().err());
        let error = error.filter(|_| *this.returns);
        let request = match error.and_then(|error| reissue.reclaim(spare, &**error)) {
            Some(request) => request,
            None => {
                // Not earlier: the response that was kept may still need its request body.
                reissue.supersede(spare);
                reissue.reissue(spare).ok_or(Stop::NotReplayable)?
            }
        };
        // Frees what the last response holds, such as a permit of a limit, for this attempt.
        *this.answer = None;
        *this.retried = Some(now);
        *this.tries += 1;
        tracing::debug!(attempt = this.tries, "request is sent again");
        let Kept { tried, service, .. } = this.kept;
        let call = || tried.enter(|| service.call(request));
        let attempt = AttemptKind::Retry.enter(call);
        this.attempt.set(Some(attempt));
        Ok(())
    }

    /// The result for the caller when there is no further attempt.
    fn stop(self: Pin<&mut Self>, stop: Stop) -> Result<S::Response, BoxError> {
        let this = self.project();
        let tries = *this.tries;
        tracing::debug!(attempts = tries, %stop, "request failed and is not sent again");
        let answer = this.answer.take().expect("kept since the attempt failed");
        answer.map_err(|error| RetryError::new(error, tries, stop).into())
    }
}

impl<S, Req, R, C> Again<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// How often the request was sent.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// Whether no attempt is in flight.
    pub(super) fn waits(&self) -> bool {
        self.attempt.is_none()
    }
}
