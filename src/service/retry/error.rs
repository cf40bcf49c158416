//! Why a failed request was not retried.

use std::{fmt, time::Duration};

use crate::error::{BoxError, RequestErrorKind, find};

/// A request that failed and was not retried. [`source`](std::error::Error::source) is the error of
/// the last attempt.
///
/// [`RequestErrorKind::of`] tells what it failed with, and the status for a caller.
#[derive(Debug)]
pub struct RetryError {
    source: BoxError,
    tries: u32,
    stop: Stop,
}

/// Why a failed request was not retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// It was sent as often as allowed.
    Exhausted,
    /// The retry budget was empty.
    BudgetEmpty,
    /// The next attempt could not have started before the deadline.
    Deadline,
    /// It may have been carried out, and repeating it may do harm.
    NotIdempotent,
    /// No complete copy of the request exists: its body is too long, or it broke off.
    NotReplayable,
    /// The server forbade a retry, or requested a longer delay than allowed.
    Pushback,
    /// The service failed to become ready for the next attempt.
    NotReady,
}

impl RetryError {
    pub(super) fn new(source: BoxError, tries: u32, stop: Stop) -> Self {
        Self {
            source,
            tries,
            stop,
        }
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// How often the request was sent, at least 1.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Why it was not retried.
    pub fn stop(&self) -> Stop {
        self.stop
    }

    /// The error of the last attempt.
    pub fn into_source(self) -> BoxError {
        self.source
    }

    /// Whether it was sent as often as allowed.
    pub fn is_exhausted(&self) -> bool {
        self.stop == Stop::Exhausted
    }

    /// Whether the retry budget was empty.
    pub fn is_budget_empty(&self) -> bool {
        self.stop == Stop::BudgetEmpty
    }

    /// Whether there was no time left for another attempt.
    pub fn is_deadline(&self) -> bool {
        self.stop == Stop::Deadline
    }

    /// Whether the request must not, or cannot, be sent twice.
    pub fn is_not_repeatable(&self) -> bool {
        matches!(self.stop, Stop::NotIdempotent | Stop::NotReplayable)
    }

    /// Whether the last attempt exceeded the per-try timeout.
    pub fn is_try_timeout(&self) -> bool {
        self.source.is::<TryTimeout>()
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "no attempts left",
            Self::BudgetEmpty => "the retry budget is empty",
            Self::Deadline => "the next attempt would start after the deadline",
            Self::NotIdempotent => "it may not be repeated",
            Self::NotReplayable => "it cannot be repeated",
            Self::Pushback => "the server asked not to try again",
            Self::NotReady => "the service failed before the next attempt",
        })
    }
}

impl fmt::Display for RetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries, stop, .. } = self;
        let times = if *tries == 1 { "attempt" } else { "attempts" };
        write!(f, "request failed after {tries} {times}: {stop}")
    }
}

impl std::error::Error for RetryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// An attempt that was dropped because its response took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryTimeout {
    pub(super) limit: Duration,
}

impl TryTimeout {
    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the attempt failed with: [`TryTimeout`](RequestErrorKind::TryTimeout).
    pub fn kind(&self) -> RequestErrorKind {
        RequestErrorKind::TryTimeout
    }

    /// The per-try timeout.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

impl fmt::Display for TryTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.limit)
    }
}

impl std::error::Error for TryTimeout {}

/// The error of an attempt that got a failed response, after that response was dropped. It is
/// dropped when the service is not ready for the next attempt, because it may hold a permit that
/// the service waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedAnswer;

impl FailedAnswer {
    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the attempt failed with: [`FailedAnswer`](RequestErrorKind::FailedAnswer).
    pub fn kind(&self) -> RequestErrorKind {
        RequestErrorKind::FailedAnswer
    }
}

impl fmt::Display for FailedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service answered with a failure")
    }
}

impl std::error::Error for FailedAnswer {}
