//! Why an endpoint was ejected, and what brought it back.

use std::{fmt, time::Duration};

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EjectCause {
    /// So many requests in a row failed.
    ConsecutiveFailures {
        /// How many.
        n: u64,
    },
    /// Too large a share of the requests in the window failed.
    FailureRatio {
        /// Requests that failed or were refused.
        failed: u64,
        /// All that were answered or failed.
        total: u64,
    },
    /// Its answers take far longer than its peers'.
    Slow {
        /// What its answers take.
        estimate: Duration,
        /// What those of the endpoint in the middle take.
        median: Duration,
    },
    /// An active health check failed.
    HealthCheck {
        /// How often in a row.
        failures: u32,
    },
    /// It was ejected [by hand](crate::balance::BalanceHandle::eject).
    ByHand,
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
            Self::ByHand => f.write_str("ejected by hand"),
        }
    }
}

/// What brought an ejected endpoint back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restored {
    /// A probe was answered well.
    Probe,
    /// Its health checks pass again.
    HealthCheck,
    /// It was restored [by hand](crate::balance::BalanceHandle::restore).
    ByHand,
    /// The set shrank, or fewer endpoints have a weight: then fewer may be out.
    Guard,
    /// Its probes were cancelled before they could be answered, so it gets a small share to prove itself.
    Doubt,
    /// It is at another address now, and so another process.
    Moved,
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
