//! The course of one attempt or one request: when its parts arrived, and how it ended. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::report::{End, Ended};
use crate::{
    attempt::Abandoned,
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
    status: Option<ResponseStatus>,
}

impl Course {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            to_head: Nanos::NONE,
            to_end: Nanos::NONE,
            ended: None,
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
    pub(super) fn failed(&mut self, kind: RequestErrorKind) {
        self.ended = Some(Ended::Failed(kind));
    }

    /// The classifier has judged the head of the response, or its end.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        // A second verdict comes only when the body of a success breaks off.
        let broke_off = self.ended.is_some() && self.to_end.time().is_none();
        self.ended = Some(match verdict.outcome {
            Outcome::Failure if broke_off => Ended::Failed(RequestErrorKind::Connection),
            outcome => Ended::Answered(outcome),
        });
    }

    /// How it ended, if nothing follows any more. `abandoned` is why it is dropped.
    pub(super) fn end(&self, abandoned: Abandoned) -> End {
        let to_end = self.to_end.time();
        let elapsed = to_end.unwrap_or_else(|| self.began.elapsed());
        End {
            ended: self.ended.unwrap_or(Ended::Abandoned(abandoned)),
            status: self.status,
            to_head: self.to_head.time(),
            to_end,
            elapsed,
        }
    }
}
