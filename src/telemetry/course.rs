//! The course of one attempt or one request: when its parts arrived, and how it ended. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::report::{End, Ended};
use crate::{
    attempt::Abandoned,
    classify::{Outcome, ResponseStatus, Verdict},
    error::RequestErrorKind,
};

/// The course of an attempt or a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    began: Instant,
    to_head: Option<Duration>,
    to_end: Option<Duration>,
    ended: Option<Ended>,
    status: Option<ResponseStatus>,
}

impl Course {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            to_head: None,
            to_end: None,
            ended: None,
            status: None,
        }
    }

    /// The head of the response has arrived.
    pub(super) fn answered(&mut self, now: Instant, status: Option<ResponseStatus>) {
        self.to_head = Some(now.saturating_duration_since(self.began));
        self.status = status;
    }

    /// The response is complete.
    pub(super) fn completed(&mut self, now: Instant) {
        self.to_end = Some(now.saturating_duration_since(self.began));
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
        let broke_off = self.ended.is_some() && self.to_end.is_none();
        self.ended = Some(match verdict.outcome {
            Outcome::Failure if broke_off => Ended::Failed(RequestErrorKind::Connection),
            outcome => Ended::Answered(outcome),
        });
    }

    /// How it ended, if nothing follows any more. `abandoned` is why it is dropped.
    pub(super) fn end(&self, abandoned: Abandoned) -> End {
        let elapsed = self.to_end.unwrap_or_else(|| self.began.elapsed());
        End {
            ended: self.ended.unwrap_or(Ended::Abandoned(abandoned)),
            status: self.status,
            to_head: self.to_head,
            to_end: self.to_end,
            elapsed,
        }
    }
}
