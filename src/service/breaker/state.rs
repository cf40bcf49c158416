//! What a breaker does, and why it changed.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::window::CallCounts;

/// What a breaker does with calls.
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
    /// Lets all calls through until it is forced open or reset; counts them.
    ForcedClosed,
}

impl BreakerState {
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
    /// A probe had no answer by its deadline.
    ProbeTimedOut,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// By hand, through the handle.
    Forced,
    /// By hand, through [`BreakerHandle::reset`](super::BreakerHandle::reset).
    Reset,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerTransition {
    /// The state left.
    pub from: BreakerState,
    /// The state entered.
    pub to: BreakerState,
    /// Why.
    pub cause: BreakerCause,
    /// When.
    pub at: Instant,
    /// How long the breaker stays open from then on; `None` in any other state.
    pub open_for: Option<Duration>,
    /// Which change of the breaker this is, counted from 0.
    pub(super) generation: u64,
}
