//! What a breaker does, and why it changed.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::window;

/// What a breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Lets all through.
    Closed,
    /// Refuses all.
    Open,
    /// Lets a few through to see.
    HalfOpen,
    /// Refuses all until told otherwise.
    ForcedOpen,
    /// Lets all through until told otherwise; still counts.
    ForcedClosed,
}

impl State {
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

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many calls there are in the window, and how many of them were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// All calls with a verdict.
    pub total: u64,
    /// Those that failed, or found the service overloaded.
    pub failed: u64,
    /// Those that were slow, failed or not.
    pub slow: u64,
}

impl From<window::Counts> for Counts {
    fn from(counts: window::Counts) -> Self {
        Self {
            total: counts.total,
            failed: counts.failed,
            slow: counts.slow,
        }
    }
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The breaker was made.
    Created,
    /// Too large a share of calls failed.
    Failures(Counts),
    /// Too large a share of calls was slow.
    SlowCalls(Counts),
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
pub struct Transition {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: Instant,
    /// For how long it opens, where it does by itself.
    pub open_for: Option<Duration>,
    /// Which change of the breaker this is, counted from 0.
    pub(super) generation: u64,
}
