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
    terms::{Limits, RetryParts, Terms},
};
use crate::{
    alarm::{self, Alarm},
    attempt::{self, Tried},
    backoff::after,
    classify::{Classify, Outcome, Pushback, Verdict, on_error},
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

/// How an attempt ended.
pub(super) enum End<T> {
    /// The request is done.
    Done(Result<T, BoxError>),
    Failed(Failed<T>),
}

/// A failed attempt.
pub(super) struct Failed<T> {
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
    pub(super) fn limit(&mut self, limits: Limits) {
        self.came = Some(limits.came);
        self.terms.rules.deadline = Some(limits.time);
    }

    /// Polls the current attempt. `retried` is its start, unless it is the first.
    #[inline]
    pub(super) fn poll<T, E>(
        &mut self,
        attempt: Pin<&mut impl Future<Output = Result<T, E>>>,
        retried: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<End<T>>
    where
        E: Into<BoxError>,
        C: Classify<T, E>,
    {
        let limited = self.terms.is_limited();
        if limited {
            alarm::begin();
        }
        match self.tried.enter(|| attempt.poll(cx)) {
            Poll::Ready(result) => {
                let verdict = self.classify.judge(result.as_ref());
                let answer = result.map_err(Into::into);
                let verdict = match &answer {
                    Ok(_) => verdict,
                    Err(error) => Some(on_error(verdict, &**error)),
                };
                Poll::Ready(match verdict {
                    Some(verdict) if is_failure(verdict) => End::Failed(Failed {
                        answer,
                        pushback: verdict.pushback,
                        limit: None,
                    }),
                    _ => End::Done(answer),
                })
            }
            Poll::Pending if limited => self.poll_end(retried, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits until the current attempt, or all of them together, have taken too long.
    fn poll_end<T>(&mut self, retried: Option<Instant>, cx: &mut Context<'_>) -> Poll<End<T>> {
        let Some(shared) = &self.terms.shared else {
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
        Poll::Ready(match limit {
            Some(limit) => End::Failed(Failed {
                answer: Err(TryTimeout { limit }.into()),
                pushback: None,
                limit: Some(limit),
            }),
            None => End::Done(Err(Elapsed::new().into())),
        })
    }

    /// The deadline of the request, if it has one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.terms.deadline(self.came)
    }
}

impl<T> Failed<T> {
    /// Drops the attempt. If it took too long, this is a failure of its endpoint.
    pub(super) fn give_up<D>(&self, drop: impl FnOnce() -> D) -> D {
        match self.limit {
            Some(limit) => attempt::give_up(limit, drop),
            None => drop(),
        }
    }
}

fn is_failure(verdict: Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded)
}
