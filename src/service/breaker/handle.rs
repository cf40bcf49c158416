//! The breaker seen and moved from outside.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    shared::Shared,
    state::{Counts, State, Transition},
};

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
