//! The causes of ejections and of restorations.

use std::{fmt, time::Duration};

/// The reason for an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EjectCause {
    /// This number of requests in a row failed.
    ConsecutiveFailures {
        /// Number of failures.
        n: u64,
    },
    /// Too large a share of the requests in the window failed.
    FailureRatio {
        /// Number of requests that failed or were refused.
        failed: u64,
        /// Number of requests that were answered or failed.
        total: u64,
    },
    /// Its responses take far longer than those of its peers.
    Slow {
        /// The typical latency of the endpoint.
        estimate: Duration,
        /// The typical latency of the endpoint in the middle of the set.
        median: Duration,
    },
    /// Its active health checks failed.
    HealthCheck {
        /// Number of failures in a row.
        failures: u32,
    },
    /// Its probe failed, or was not answered in time, so it stays ejected for longer. Only events have this
    /// cause: the reason for the ejection does not change.
    ProbeFailed,
    /// It was ejected [by hand](crate::balance::BalanceHandle::eject).
    ByHand,
}

impl EjectCause {
    /// Returns a stable name, without the numbers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures { .. } => "consecutive_failures",
            Self::FailureRatio { .. } => "failure_ratio",
            Self::Slow { .. } => "slow",
            Self::HealthCheck { .. } => "health_check",
            Self::ProbeFailed => "probe_failed",
            Self::ByHand => "by_hand",
        }
    }
}

impl fmt::Display for EjectCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures { n } => write!(f, "{n} requests in a row failed"),
            Self::FailureRatio { failed, total } => {
                write!(f, "{failed} of {total} requests failed")
            }
            Self::Slow { estimate, median } => {
                write!(
                    f,
                    "answers take {estimate:.1?} where peers take {median:.1?}"
                )
            }
            Self::HealthCheck { failures } => write!(f, "{failures} health checks in a row failed"),
            Self::ProbeFailed => f.write_str("its probe failed"),
            Self::ByHand => f.write_str("ejected by hand"),
        }
    }
}

/// The reason for a restoration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restored {
    /// A probe succeeded.
    Probe,
    /// Its health checks pass again.
    HealthCheck,
    /// It was restored [by hand](crate::balance::BalanceHandle::restore).
    ByHand,
    /// The set shrank, or fewer endpoints have a weight, so fewer endpoints may be ejected.
    Guard,
    /// Its probes were cancelled before a response could arrive, so it gets a small share as a test.
    Doubt,
    /// It has a new address, and so is another process.
    Moved,
}

impl Restored {
    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::HealthCheck => "health_check",
            Self::ByHand => "by_hand",
            Self::Guard => "guard",
            Self::Doubt => "doubt",
            Self::Moved => "moved",
        }
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "a probe was answered",
            Self::HealthCheck => "its health checks pass",
            Self::ByHand => "restored by hand",
            Self::Doubt => "its probes were cancelled before they could be answered",
            Self::Moved => "it is at another address",
            Self::Guard => "too large a share of the set was out",
        })
    }
}
