//! The breaker seen and moved from outside.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::shared::Shared;
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
    /// By hand, through [`BreakerHandle::reset`].
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
    pub(super) generation: u32,
}

/// A hand on a breaker: shows its state, and moves it. Cheap to clone; keeps no service alive.
#[derive(Clone)]
pub struct BreakerHandle(Arc<Shared>);

impl BreakerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The state now. `Open` until the first call after the open time, which makes it `HalfOpen`.
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// How much of the open time is left; `None` unless `Open`.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// The calls in the window: those of the time closed, the last such time while it is open.
    pub fn counts(&self) -> Counts {
        self.0.counts().into()
    }

    /// How many calls were refused since the breaker was made.
    pub fn refused(&self) -> u64 {
        self.0.refused()
    }

    /// Refuses all calls until [`reset`](Self::reset) or [`force_closed`](Self::force_closed).
    pub fn force_open(&self) {
        self.0.force(State::ForcedOpen);
    }

    /// Lets all calls through until [`reset`](Self::reset) or [`force_open`](Self::force_open).
    pub fn force_closed(&self) {
        self.0.force(State::ForcedClosed);
    }

    /// Closes it and forgets everything: as it was made. Calls in flight no longer count.
    pub fn reset(&self) {
        self.0.force(State::Closed);
    }

    /// Follows the state. The receiver holds the last change; who is slow misses changes between,
    /// never the last. Every change is also an event of `tracing`.
    pub fn subscribe(&self) -> watch::Receiver<Transition> {
        self.0.subscribe()
    }
}

impl fmt::Debug for BreakerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BreakerHandle").field(&self.0).finish()
    }
}
