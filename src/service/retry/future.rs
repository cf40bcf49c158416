//! The attempts at one request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Service, timeout::error::Elapsed};

use super::{
    FailedAnswer, RetryError, Stop, TryTimeout, budget::SlotEnd, reissue::Reissue, terms::Settings,
    terms::Terms,
};
use crate::{
    alarm::{self, Alarm},
    attempt::{self, Tried, give_up},
    backoff::{Delays, after},
    classify::{Classify, Outcome, Pushback, Verdict},
    error::BoxError,
};

/// The response future of a [`Retry`](super::Retry): a request and its attempts.
///
/// # Cancel safety
/// Dropping it drops the current attempt. A request that waits for its retry has not withdrawn from
/// the budget yet.
#[pin_project]
pub struct ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// The current attempt; `None` between attempts.
    #[pin]
    attempt: Option<S::Future>,
    tried: Tried,
    /// What later attempts are made from.
    spare: Option<R::Spare>,
    /// When the request started, if the settings need it.
    came: Option<Instant>,
    /// The deadline or per-try timeout. Set only when the response is not ready at once.
    end: Alarm,
    service: S,
    reissue: R,
    classify: C,
    terms: Terms,
    /// State that few requests need. It is boxed, so that other requests do not carry it.
    wait: Rare<S::Response, R::Request>,
}

/// What has taken too long.
enum End {
    /// The current attempt, which was given this long.
    Attempt(Duration),
    /// All attempts together.
    All,
}

/// The state of a request that waits; empty for most requests.
struct Rare<T, Q>(Option<Box<Wait<T, Q>>>);

/// The state of a request that waits for a retry, or has waited for one.
struct Wait<T, Q> {
    /// How often the request was sent.
    tries: u32,
    /// One timer for all waits.
    sleep: Option<Pin<Box<Sleep>>>,
    delays: Option<Delays>,
    /// When the last attempt started, unless it was the first.
    retried: Option<Instant>,
    /// The response or error of the last attempt, while its retry waits.
    answer: Option<Result<T, BoxError>>,
    /// The request itself, if the error of the last attempt returned it.
    returned: Option<Q>,
    /// When the backoff ends, during the backoff.
    until: Option<Instant>,
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
        settings: &Settings<R, C>,
        slot: &mut SlotEnd,
        request: Req,
    ) -> Self {
        let came = settings.terms.begin(slot);
        let (request, spare) = settings.reissue.prepare(request);
        let mut tried = Tried::new();
        let attempt = tried.enter(|| match came {
            Some(now) => attempt::at(now, || service.call(request)),
            None => service.call(request),
        });
        Self {
            attempt: Some(attempt),
            tried,
            spare,
            came,
            end: Alarm::default(),
            service,
            reissue: settings.reissue.clone(),
            classify: settings.classify.clone(),
            terms: settings.terms.clone(),
            wait: Rare(None),
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let Some(attempt) = this.attempt.as_mut().as_pin_mut() else {
                match ready!(self.as_mut().poll_next(cx)) {
                    Ok(()) => continue,
                    Err(stop) => return Poll::Ready(self.stop(stop)),
                }
            };
            if this.terms.is_limited() {
                alarm::begin();
            }
            let (answer, pushback) = match this.tried.enter(|| attempt.poll(cx)) {
                Poll::Ready(result) => {
                    let verdict = this.classify.judge(result.as_ref());
                    this.attempt.set(None);
                    let answer = result.map_err(Into::into);
                    match verdict {
                        Some(verdict) if is_failure(verdict) => (answer, verdict.pushback),
                        _ => return Poll::Ready(answer),
                    }
                }
                Poll::Pending if !this.terms.is_limited() => return Poll::Pending,
                Poll::Pending => match ready!(self.as_mut().poll_end(cx)) {
                    End::All => {
                        self.project().attempt.set(None);
                        return Poll::Ready(Err(Elapsed::new().into()));
                    }
                    End::Attempt(limit) => {
                        let mut attempt = self.as_mut().project().attempt;
                        give_up(limit, || attempt.set(None));
                        (Err(TryTimeout { limit }.into()), None)
                    }
                },
            };
            if let Err(stop) = self.as_mut().fail(answer, pushback) {
                return Poll::Ready(self.stop(stop));
            }
        }
    }
}

impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    /// Waits until the current attempt, or all of them together, have taken too long.
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.project();
        let Some(shared) = &this.terms.shared else {
            return Poll::Pending;
        };
        let all = this.terms.deadline(*this.came);
        let attempt = this.terms.rules.try_timeout.map(|limit| {
            let retried = this.wait.0.as_ref().and_then(|wait| wait.retried);
            let start = retried.or(*this.came).unwrap_or_else(Instant::now);
            (after(start, limit), limit)
        });
        let (at, end) = match (all, attempt) {
            (Some(all), Some((at, limit))) if at < all => (at, End::Attempt(limit)),
            (Some(all), _) => (all, End::All),
            (None, Some((at, limit))) => (at, End::Attempt(limit)),
            (None, None) => return Poll::Pending,
        };
        ready!(this.end.poll_above(&shared.alarms, at, cx));
        Poll::Ready(end)
    }
}

// A request whose first attempt succeeds runs none of the code below.
impl<S, Req, R, C> ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
    S::Error: Into<BoxError>,
{
    /// Keeps the result of a failed attempt, and decides whether there is another attempt.
    #[cold]
    fn fail(
        self: Pin<&mut Self>,
        answer: Result<S::Response, BoxError>,
        pushback: Option<Pushback>,
    ) -> Result<(), Stop> {
        let this = self.project();
        let (terms, reissue) = (&*this.terms, &*this.reissue);
        let wait = this.wait.0.get_or_insert_default();
        let error = answer.as_ref().err();
        let unsent = error.is_some_and(|error| (terms.rules.unsent)(&**error));
        wait.answer = Some(answer);
        if wait.tries >= terms.rules.max_attempts.get() {
            return Err(Stop::Exhausted);
        }
        if pushback == Some(Pushback::Never) {
            return Err(Stop::Pushback);
        }
        let spare = this.spare.as_ref().ok_or(Stop::NotReplayable)?;
        if !unsent && !reissue.is_idempotent(spare) {
            return Err(Stop::NotIdempotent);
        }
        if unsent {
            let error = wait.answer.as_ref().and_then(|it| it.as_ref().err());
            wait.returned = error.and_then(|error| reissue.reclaim(spare, &**error));
        }
        if wait.returned.is_none() && !reissue.is_whole(spare) {
            return Err(Stop::NotReplayable);
        }
        let delay = match pushback {
            Some(Pushback::After(delay)) if delay > terms.rules.max_pushback => {
                return Err(Stop::Pushback);
            }
            Some(Pushback::After(delay)) => delay,
            // The attempt caused no load, and the next one goes to another endpoint.
            _ if unsent && wait.tries == 1 => Duration::ZERO,
            _ => {
                let delays = wait
                    .delays
                    .get_or_insert_with(|| terms.rules.delay.delays());
                delays.next(&mut terms.rng())
            }
        };
        let now = Instant::now();
        let start = after(now, delay);
        if terms.deadline(*this.came).is_some_and(|end| start >= end) {
            return Err(Stop::Deadline);
        }
        // Checked here so that no request waits in vain. The withdrawal follows when the attempt is
        // sent.
        if terms.budget().is_some_and(|it| !it.allows(now)) {
            return Err(Stop::BudgetEmpty);
        }
        wait.until = (!delay.is_zero()).then_some(start);
        Ok(())
    }

    /// Waits for the backoff and the service, then starts the next attempt.
    #[cold]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let this = self.as_mut().project();
        let wait = this.wait.0.as_mut().filter(|wait| wait.answer.is_some());
        let wait = wait.expect("not polled after it was done");
        if let Some(until) = wait.until {
            ready!(wait.poll_sleep(until, cx));
            wait.until = None;
        }
        let service = this.service;
        match this.tried.enter(|| service.poll_ready(cx)) {
            Poll::Ready(Ok(())) => Poll::Ready(self.attempt()),
            Poll::Ready(Err(error)) => {
                // A response is more useful to the caller than the later error of the service.
                if let Some(Err(last)) = &mut wait.answer {
                    *last = error.into();
                }
                Poll::Ready(Err(Stop::NotReady))
            }
            Poll::Pending => {
                // The response may hold the permit that the service waits for.
                if let Some(Ok(_)) = wait.answer {
                    wait.answer = Some(Err(FailedAnswer.into()));
                }
                let Some(deadline) = this.terms.deadline(*this.came) else {
                    return Poll::Pending;
                };
                ready!(wait.poll_sleep(deadline, cx));
                Poll::Ready(Err(Stop::Deadline))
            }
        }
    }

    /// Starts the next attempt. The service is ready.
    fn attempt(self: Pin<&mut Self>) -> Result<(), Stop> {
        let mut this = self.project();
        let (terms, reissue) = (&*this.terms, &*this.reissue);
        let now = Instant::now();
        if terms.deadline(*this.came).is_some_and(|end| now >= end) {
            return Err(Stop::Deadline);
        }
        let wait = this.wait.0.get_or_insert_default();
        let spare = this.spare.as_ref().ok_or(Stop::NotReplayable)?;
        if wait.returned.is_none() && !reissue.is_whole(spare) {
            return Err(Stop::NotReplayable);
        }
        if terms.budget().is_some_and(|it| !it.withdraw(now)) {
            return Err(Stop::BudgetEmpty);
        }
        let request = match wait.returned.take() {
            Some(request) => request,
            None => {
                // Not earlier: the response that was kept may still need its request body.
                reissue.supersede(spare);
                reissue.reissue(spare).ok_or(Stop::NotReplayable)?
            }
        };
        // Frees what the last response holds, such as a permit of a limit, for this attempt.
        wait.answer = None;
        wait.retried = Some(now);
        wait.tries += 1;
        tracing::debug!(attempt = wait.tries, "request is sent again");
        let (service, tried) = (this.service, this.tried);
        let attempt = tried.enter(|| service.call(request));
        this.attempt.set(Some(attempt));
        Ok(())
    }

    /// The result for the caller when there is no further attempt.
    #[cold]
    fn stop(self: Pin<&mut Self>, stop: Stop) -> Result<S::Response, BoxError> {
        let this = self.project();
        let wait = this.wait.0.take().expect("there since the attempt failed");
        let (answer, tries) = (wait.answer, wait.tries);
        tracing::debug!(attempts = tries, %stop, "request failed and is not sent again");
        let answer = answer.expect("kept since the attempt failed");
        answer.map_err(|error| RetryError::new(error, tries, stop).into())
    }
}

impl<T, Q> Wait<T, Q> {
    fn poll_sleep(&mut self, end: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.as_mut().poll(cx)
    }
}

impl<T, Q> Drop for Rare<T, Q> {
    #[inline]
    fn drop(&mut self) {
        // Not inlined, so that a request without this state only tests for it.
        #[cold]
        #[inline(never)]
        fn end<T, Q>(wait: Box<Wait<T, Q>>) {
            drop(wait);
        }
        if let Some(wait) = self.0.take() {
            end(wait);
        }
    }
}

impl<T, Q> Default for Wait<T, Q> {
    fn default() -> Self {
        Self {
            tries: 1,
            sleep: None,
            delays: None,
            retried: None,
            answer: None,
            returned: None,
            until: None,
        }
    }
}

fn is_failure(verdict: Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded)
}

impl<S, Req, R, C> fmt::Debug for ResponseFuture<S, Req, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("tries", &self.wait.0.as_ref().map_or(1, |wait| wait.tries))
            .field("waits", &self.attempt.is_none())
            .finish_non_exhaustive()
    }
}
