//! The course of one attempt or one request: when its parts arrived, and how it ended. Pure.

use std::{mem, time::Duration};

use tokio::time::Instant;

use super::report::{End, Ended};
use crate::{
    attempt::{Abandoned, is_given_up},
    classify::{Outcome, ResponseStatus, Verdict},
    error::RequestErrorKind,
};

/// A time in one word, because a course is moved with its response. The largest value stands for none.
#[derive(Clone, Copy, Debug)]
struct Nanos(u64);

impl Nanos {
    const NONE: Self = Self(u64::MAX);

    fn of(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1))
    }

    fn time(self) -> Option<Duration> {
        (self.0 != u64::MAX).then(|| Duration::from_nanos(self.0))
    }
}

/// The course of an attempt or a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    began: Instant,
    to_head: Nanos,
    to_end: Nanos,
    ended: Option<Ended>,
    outcome: Outcome,
    status: Option<ResponseStatus>,
}

impl Course {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            to_head: Nanos::NONE,
            to_end: Nanos::NONE,
            ended: None,
            outcome: Outcome::Cancelled,
            status: None,
        }
    }

    /// The head of the response has arrived.
    pub(super) fn answered(&mut self, now: Instant, status: Option<ResponseStatus>) {
        self.to_head = Nanos::of(now.saturating_duration_since(self.began));
        self.status = status;
    }

    /// The response is complete.
    pub(super) fn completed(&mut self, now: Instant) {
        self.to_end = Nanos::of(now.saturating_duration_since(self.began));
    }

    /// Its trailers have a status.
    #[cfg(feature = "_hyper")]
    pub(super) fn trailers(&mut self, status: Option<ResponseStatus>) {
        self.status = status.or(self.status);
    }

    /// It got an error in place of a response.
    pub(super) fn failed(&mut self, kind: RequestErrorKind, verdict: Verdict) {
        self.ended = Some(Ended::Failed(kind));
        self.outcome = verdict.outcome;
    }

    /// The response broke off after its head. The verdict on that follows if it differs from that on the head.
    pub(super) fn broke_off(&mut self, kind: RequestErrorKind) {
        self.ended = Some(Ended::Failed(kind));
    }

    /// The classifier has judged the head of the response, or its end.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        self.outcome = verdict.outcome;
        if !matches!(self.ended, Some(Ended::Failed(_))) {
            self.ended = Some(Ended::Answered(verdict.outcome));
        }
    }

    /// Runs code of the service. If it panics, the panic continues to the caller, and counts as a failure as
    /// it does for the balancer. A future that panicked is dropped later, when the thread no longer panics.
    #[inline]
    pub(super) fn during<T>(&mut self, run: impl FnOnce() -> T) -> T {
        struct Unwinding<'a>(&'a mut Course);
        impl Drop for Unwinding<'_> {
            fn drop(&mut self) {
                self.0.ended = Some(Ended::Abandoned(Abandoned::Panicked));
                self.0.outcome = Outcome::Failure;
            }
        }
        let unwinding = Unwinding(self);
        let result = run();
        mem::forget(unwinding);
        result
    }

    /// How it ended, if nothing follows any more. `abandoned` is why it is dropped.
    pub(super) fn end(&self, abandoned: Abandoned) -> End {
        let to_end = self.to_end.time();
        let elapsed = to_end.unwrap_or_else(|| self.began.elapsed());
        // As the balancer counts it.
        let waits = self.ended.is_none() && self.to_head.time().is_none();
        let given_up = waits && is_given_up(elapsed);
        End {
            ended: self.ended.unwrap_or(Ended::Abandoned(abandoned)),
            outcome: if given_up {
                Outcome::Failure
            } else {
                self.outcome
            },
            status: self.status,
            to_head: self.to_head.time(),
            to_end,
            elapsed,
        }
    }
}
