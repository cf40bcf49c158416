//! The error of a refused call.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{
    classify::NotSent,
    error::{RequestErrorKind, find},
};

/// A call that the breaker refused. The inner service did not get it.
///
/// Inside a stack it comes as a [`BoxError`](crate::BoxError); [`find`](Self::find) finds it there.
/// A server that passes it on responds with HTTP 503, with `Retry-After` of
/// [`retry_after`](Self::retry_after) if known, or with gRPC `UNAVAILABLE`. The request was not
/// sent, so any request, idempotent or not, can safely be sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerError {
    name: Arc<str>,
    refused: Refused,
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The breaker is open.
    Open {
        /// How much of the open time is left. Zero when the open time has just ended and this call
        /// came slightly too early.
        remaining: Duration,
    },
    /// The breaker is half-open, and the allowed number of probes is in flight.
    Probing,
    /// It was [forced open](super::BreakerHandle::force_open).
    Forced,
}

impl BreakerError {
    pub(super) fn new(name: Arc<str>, refused: Refused) -> Self {
        Self { name, refused }
    }

    /// Finds this error in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What the call failed with.
    pub fn kind(&self) -> RequestErrorKind {
        if self.is_open() {
            RequestErrorKind::BreakerOpen
        } else {
            RequestErrorKind::BreakerProbing
        }
    }

    /// Why the call was refused.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Whether the breaker was open, by itself or by force.
    pub fn is_open(&self) -> bool {
        matches!(self.refused, Refused::Open { .. } | Refused::Forced)
    }

    /// Whether the breaker was half-open with the allowed number of probes in flight.
    pub fn is_probing(&self) -> bool {
        self.refused == Refused::Probing
    }

    /// After how long a retry can succeed, if known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.refused {
            Refused::Open { remaining } => Some(remaining),
            Refused::Probing | Refused::Forced => None,
        }
    }
}

impl fmt::Display for BreakerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("circuit breaker")?;
        if !self.name.is_empty() {
            write!(f, " {:?}", self.name)?;
        }
        match self.refused {
            Refused::Open { remaining } => write!(f, " is open for {remaining:?} more"),
            Refused::Probing => f.write_str(" waits for its probes"),
            Refused::Forced => f.write_str(" was forced open"),
        }
    }
}

impl Error for BreakerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        const OPEN: &NotSent = &NotSent(RequestErrorKind::BreakerOpen);
        const PROBING: &NotSent = &NotSent(RequestErrorKind::BreakerProbing);
        Some(if self.is_open() { OPEN } else { PROBING })
    }
}
