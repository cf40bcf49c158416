//! The attempts at one request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use super::{FailedAnswer, RetryError, Stop, TryTimeout, again, layer::Settings, reissue::Reissue};
use crate::{
    attempt::Tried,
    backoff::{Delays, after},
    classify::{Classify, Outcome, Pushback, Verdict},
    error::BoxError,
};

/// A request and its attempts.
///
/// # Cancel safety
/// Dropping it drops the attempt that runs. What waits for its retry has taken nothing from the
/// budget yet.
#[pin_project]
pub struct ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// The attempt that runs.
    #[pin]
    attempt: Option<S::Future>,
    step: Step,
    tries: u32,
    tried: Tried,
    /// What later attempts are made from.
    spare: Option<R::Spare>,
    /// The answer to the last attempt, while its retry waits.
    answer: Option<Result<S::Response, BoxError>>,
    /// No attempt starts after this.
    deadline: Option<Instant>,
    /// When the attempt that runs is given up.
    timeout: Option<Instant>,
    delays: Option<Delays>,
    /// Made when there is something to wait for, and used for all of it.
    sleep: Option<Pin<Box<Sleep>>>,
    service: S,
    reissue: R,
    classify: C,
    settings: Arc<Settings>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An attempt runs.
    Attempt,
    /// The backoff ends then.
    Delay(Instant),
    /// The service is to become ready for the next attempt.
    Ready,
}

/// What to do about an answer.
enum Next {
    HandOn,
    Stop(Stop),
    After(Duration),
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    pub(super) fn new(
        mut service: S,
        reissue: R,
        classify: C,
        settings: Arc<Settings>,
        request: Req,
    ) -> Self {
        let timed = settings.try_timeout.is_some() || settings.deadline.is_some();
        let now = (timed || settings.budget.is_some()).then(Instant::now);
        if let (Some(budget), Some(now)) = (&settings.budget, now) {
            budget.deposit(now);
        }
        let until = |limit: Option<Duration>| Some(after(now?, limit?));
        let (deadline, timeout) = (until(settings.deadline), until(settings.try_timeout));
        let (request, spare) = reissue.prepare(request);
        let mut tried = Tried::new();
        let attempt = tried.enter(|| service.call(request));
        Self {
            attempt: Some(attempt),
            step: Step::Attempt,
            tries: 1,
            tried,
            spare,
            answer: None,
            deadline,
            timeout,
            delays: None,
            sleep: None,
            service,
            reissue,
            classify,
            settings,
        }
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

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            match *this.step {
                Step::Attempt => {
                    let attempt = this.attempt.as_mut().as_pin_mut();
                    let attempt = attempt.expect("not polled after it was done");
                    let (answer, verdict) = match this.tried.enter(|| attempt.poll(cx)) {
                        Poll::Ready(result) => {
                            let verdict = this.classify.judge(result.as_ref());
                            (result.map_err(Into::into), verdict)
                        }
                        Poll::Pending => {
                            let Some(timeout) = *this.timeout else {
                                return Poll::Pending;
                            };
                            ready!(wait(this.sleep, timeout, cx));
                            let limit = this.settings.try_timeout.unwrap_or_default();
                            let error: BoxError = Box::new(TryTimeout { limit });
                            (Err(error), Some(Verdict::FAILURE))
                        }
                    };
                    this.attempt.set(None);
                    match self.as_mut().next(&answer, verdict) {
                        Next::HandOn => return Poll::Ready(answer),
                        Next::Stop(stop) => return Poll::Ready(self.stop(answer, stop)),
                        Next::After(delay) => self.as_mut().keep(answer, delay),
                    }
                }
                Step::Delay(end) => {
                    ready!(wait(this.sleep, end, cx));
                    *this.step = Step::Ready;
                }
                Step::Ready => {
                    let service = this.service;
                    let stop = match this.tried.enter(|| service.poll_ready(cx)) {
                        Poll::Ready(Ok(())) => match self.as_mut().attempt() {
                            Ok(()) => continue,
                            Err(stop) => stop,
                        },
                        Poll::Ready(Err(error)) => {
                            // An answer says more than a service that failed after it.
                            if let Some(Err(last)) = this.answer {
                                *last = error.into();
                            }
                            Stop::NotReady
                        }
                        Poll::Pending => {
                            // The answer may hold the very place that the service waits for.
                            if let Some(Ok(_)) = this.answer {
                                *this.answer = Some(Err(FailedAnswer.into()));
                            }
                            match *this.deadline {
                                None => return Poll::Pending,
                                Some(deadline) => {
                                    ready!(wait(this.sleep, deadline, cx));
                                    Stop::Deadline
                                }
                            }
                        }
                    };
                    let answer = self.as_mut().project().answer.take();
                    let answer = answer.expect("kept while its retry waits");
                    return Poll::Ready(self.stop(answer, stop));
                }
            }
        }
    }
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// Decides about an answer.
    fn next(
        self: Pin<&mut Self>,
        answer: &Result<S::Response, BoxError>,
        verdict: Option<Verdict>,
    ) -> Next {
        match verdict {
            Some(verdict) if is_failure(verdict) => {
                let delay = self.delay(answer.as_ref().err(), verdict.pushback);
                delay.map_or_else(Next::Stop, Next::After)
            }
            _ => Next::HandOn,
        }
    }

    /// How long to wait before the request is sent again, or why it is not.
    #[cold]
    fn delay(
        self: Pin<&mut Self>,
        error: Option<&BoxError>,
        pushback: Option<Pushback>,
    ) -> Result<Duration, Stop> {
        let this = self.project();
        let settings = &*this.settings;
        if *this.tries >= settings.max_attempts.get() {
            return Err(Stop::Exhausted);
        }
        if pushback == Some(Pushback::Never) {
            return Err(Stop::Pushback);
        }
        let spare = this.spare.as_ref().ok_or(Stop::NotReplayable)?;
        let unsent = error.is_some_and(|error| (settings.unsent)(&**error));
        if !unsent && !this.reissue.is_idempotent(spare) {
            return Err(Stop::NotIdempotent);
        }
        if !this.reissue.is_whole(spare) {
            return Err(Stop::NotReplayable);
        }
        let delay = match pushback {
            Some(Pushback::After(delay)) if delay > settings.max_pushback => {
                return Err(Stop::Pushback);
            }
            Some(Pushback::After(delay)) => delay,
            // It cost nobody anything, and the next endpoint is another one.
            _ if unsent && *this.tries == 1 => Duration::ZERO,
            _ => {
                let delays = this.delays.get_or_insert_with(|| settings.delay.delays());
                delays.next(&mut settings.rng())
            }
        };
        let now = Instant::now();
        if this
            .deadline
            .is_some_and(|deadline| after(now, delay) >= deadline)
        {
            return Err(Stop::Deadline);
        }
        // Nobody should wait for nothing. It is taken only when the attempt is sent.
        if settings
            .budget
            .as_ref()
            .is_some_and(|budget| !budget.allows(now))
        {
            return Err(Stop::BudgetEmpty);
        }
        Ok(delay)
    }

    /// Keeps the answer for the case that no attempt follows.
    fn keep(self: Pin<&mut Self>, answer: Result<S::Response, BoxError>, delay: Duration) {
        let this = self.project();
        *this.answer = Some(answer);
        *this.step = if delay.is_zero() {
            Step::Ready
        } else {
            Step::Delay(after(Instant::now(), delay))
        };
    }

    /// Makes another attempt. The service is ready.
    fn attempt(self: Pin<&mut Self>) -> Result<(), Stop> {
        let mut this = self.project();
        let settings = &*this.settings;
        let now = Instant::now();
        if this.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Stop::Deadline);
        }
        let spare = this.spare.as_ref().ok_or(Stop::NotReplayable)?;
        if !this.reissue.is_whole(spare) {
            return Err(Stop::NotReplayable);
        }
        if settings
            .budget
            .as_ref()
            .is_some_and(|budget| !budget.withdraw(now))
        {
            return Err(Stop::BudgetEmpty);
        }
        // Only now: the answer that is kept may still need the request that it is the answer to.
        this.reissue.supersede(spare);
        let request = this.reissue.reissue(spare).ok_or(Stop::NotReplayable)?;
        // Whatever the last answer holds, such as a place in a limit, is free for this attempt.
        *this.answer = None;
        *this.tries += 1;
        tracing::debug!(attempt = *this.tries, "request is sent again");
        *this.timeout = settings.try_timeout.map(|limit| after(now, limit));
        let (service, tried) = (this.service, this.tried);
        let attempt = again::enter(|| tried.enter(|| service.call(request)));
        this.attempt.set(Some(attempt));
        *this.step = Step::Attempt;
        Ok(())
    }

    /// What the caller gets when a failure is the last word.
    #[cold]
    fn stop(
        &self,
        answer: Result<S::Response, BoxError>,
        stop: Stop,
    ) -> Result<S::Response, BoxError> {
        tracing::debug!(attempts = self.tries, %stop, "request failed and is not sent again");
        answer.map_err(|error| RetryError::new(error, self.tries, stop).into())
    }
}

fn is_failure(verdict: Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded)
}

/// Waits until `end` with the one timer that a request has.
fn wait(sleep: &mut Option<Pin<Box<Sleep>>>, end: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
    if sleep.deadline() != end {
        sleep.as_mut().reset(end);
    }
    sleep.as_mut().poll(cx)
}

impl<S, Req, R, C> fmt::Debug for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("step", &self.step)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}
