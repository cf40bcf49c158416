//! What a request keeps beside its current attempt.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;
use tower::timeout::error::Elapsed;

use super::{
    TryTimeout,
    terms::{RequestLimits, RetryParts, Terms},
};
use crate::{
    alarm::{self, Alarm},
    attempt::{self, Tried},
    backoff::after,
    classify::{Classify, Excuse, Outcome, Pushback, Verdict, on_error},
    error::BoxError,
};

/// What a request keeps for its attempts, from the first to the last.
pub(super) struct Kept<S, Spare, R, C> {
    pub(super) service: S,
    /// What later attempts are made from.
    pub(super) spare: Option<Spare>,
    pub(super) reissue: R,
    pub(super) terms: Terms,
    pub(super) tried: Tried,
    classify: C,
    /// When the request started, if the settings need it.
    came: Option<Instant>,
    /// The deadline or per-try timeout. Set only when the response is not ready at once.
    end: Alarm,
}

/// A failed attempt.
pub(super) struct FailedAttempt<T> {
    pub(super) answer: Result<T, BoxError>,
    pub(super) pushback: Option<Pushback>,
    /// The per-try timeout, if the attempt took longer.
    limit: Option<Duration>,
}

impl<S, Spare, R: Clone, C: Clone> Kept<S, Spare, R, C> {
    #[inline]
    pub(super) fn new(
        service: S,
        spare: Option<Spare>,
        settings: &RetryParts<R, C>,
        tried: Tried,
        came: Option<Instant>,
    ) -> Self {
        Self {
            service,
            spare,
            reissue: settings.reissue.clone(),
            terms: settings.terms.clone(),
            tried,
            classify: settings.classify.clone(),
            came,
            end: Alarm::default(),
        }
    }
}

impl<S, Spare, R, C> Kept<S, Spare, R, C> {
    /// Sets the limits of a request that has a deadline of its own.
    pub(super) fn limit(&mut self, limits: RequestLimits) {
        self.came = Some(limits.came);
        self.terms.rules.deadline = Some(limits.time);
    }

    /// Polls the current attempt. If it is pending, [`poll_end`](Self::poll_end) must follow.
    #[inline]
    pub(super) fn poll<F: Future>(
        &mut self,
        attempt: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        if self.terms.is_limited() {
            alarm::begin();
        }
        self.tried.enter(|| attempt.poll(cx))
    }

    /// The verdict of the classifier on the result of an attempt.
    #[inline]
    pub(super) fn judge<T, E>(&self, result: &Result<T, E>) -> Option<Verdict>
    where
        C: Classify<T, E>,
    {
        self.classify.judge(result.as_ref())
    }

    /// Waits until the current attempt has taken too long. `retried` is its start, unless it is the
    /// first.
    ///
    /// # Errors
    /// When all attempts together have taken too long.
    #[inline]
    pub(super) fn poll_end<T>(
        &mut self,
        retried: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<FailedAttempt<T>, Elapsed>> {
        let Some(shared) = self
            .terms
            .shared
            .as_ref()
            .filter(|_| self.terms.is_limited())
        else {
            return Poll::Pending;
        };
        let all = self.deadline();
        let attempt = self.terms.rules.try_timeout.map(|limit| {
            let start = retried.or(self.came).unwrap_or_else(Instant::now);
            (after(start, limit), limit)
        });
        let (at, limit) = match (all, attempt) {
            (Some(all), Some((at, limit))) if at < all => (at, Some(limit)),
            (Some(all), _) => (all, None),
            (None, Some((at, limit))) => (at, Some(limit)),
            (None, None) => return Poll::Pending,
        };
        ready!(self.end.poll_above(&shared.alarms, at, cx));
        Poll::Ready(limit.map(FailedAttempt::late).ok_or_else(Elapsed::new))
    }

    /// The deadline of the request, if it has one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.terms.deadline(self.came)
    }
}

impl<T> FailedAttempt<T> {
    pub(super) fn judged(answer: Result<T, BoxError>, verdict: Verdict) -> Self {
        Self {
            answer,
            pushback: verdict.pushback,
            limit: None,
        }
    }

    fn late(limit: Duration) -> Self {
        Self {
            answer: Err(TryTimeout { limit }.into()),
            pushback: None,
            limit: Some(limit),
        }
    }

    /// Drops the attempt. If it took too long, this is a failure of its endpoint.
    pub(super) fn give_up<D>(&self, drop: impl FnOnce() -> D) -> D {
        match self.limit {
            Some(limit) => attempt::give_up(limit, drop),
            None => drop(),
        }
    }
}

/// The verdict on an attempt, if it failed. `verdict` is that of the classifier.
#[inline]
pub(super) fn failure<T>(
    verdict: Option<Verdict>,
    answer: &Result<T, BoxError>,
) -> Option<Verdict> {
    let verdict = match answer {
        Ok(_) => verdict?,
        Err(error) => on_error(verdict, Excuse::of(&**error)),
    };
    matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded).then_some(verdict)
}
