//! The states of a breaker, and the causes of transitions.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::window::CallCounts;

/// How a breaker treats calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Lets all calls through.
    Closed,
    /// Refuses all calls.
    Open,
    /// Lets a few calls through as probes.
    HalfOpen,
    /// Refuses all calls until it is forced closed or reset.
    ForcedOpen,
    /// Lets all calls through until it is forced open or reset. Calls are counted.
    ForcedClosed,
}

impl BreakerState {
    /// All states.
    pub const ALL: &[Self] = &[
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
    ];

    /// Its name in logs and metrics, such as `half_open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerCause {
    /// The breaker was made.
    Created,
    /// Too large a share of calls failed.
    Failures(CallCounts),
    /// Too large a share of calls was slow.
    SlowCalls(CallCounts),
    /// The open time was over, and a call came.
    OpenTimeOver,
    /// A probe failed, or was slow.
    ProbeFailed,
    /// A probe had no response by its deadline.
    ProbeTimedOut,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// Set by hand, through the handle.
    Forced,
    /// Reset by hand, through [`BreakerHandle::reset`](super::BreakerHandle::reset).
    Reset,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerTransition {
    /// The state before.
    pub from: BreakerState,
    /// The state after.
    pub to: BreakerState,
    /// The cause.
    pub cause: BreakerCause,
    /// When the state changed.
    pub at: Instant,
    /// The open time that starts here; `None` in any other state.
    pub open_for: Option<Duration>,
    /// The number of this transition in the life of the breaker, counted from 0.
    pub(super) generation: u64,
}
