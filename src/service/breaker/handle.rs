//! The handle of a breaker, to read and to set its state.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    shared::BreakerShared,
    state::{BreakerState, BreakerTransition},
};
use crate::window::CallCounts;

/// Reads the state of a breaker, and sets it by hand. Cheap to clone; keeps no service alive.
#[derive(Clone, Debug)]
pub struct BreakerHandle(Arc<BreakerShared>);

impl BreakerHandle {
    pub(super) fn new(shared: Arc<BreakerShared>) -> Self {
        Self(shared)
    }

    /// The current state. After the open time it stays `Open` until the first call, which makes it
    /// `HalfOpen`.
    pub fn state(&self) -> BreakerState {
        self.0.state()
    }

    /// How much of the open time is left; `None` unless `Open`.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// The calls in the window, made while the breaker was closed. While it is open, those of the
    /// last closed period.
    pub fn counts(&self) -> CallCounts {
        self.0.counts()
    }

    /// How many calls were refused since the breaker was made.
    pub fn refused(&self) -> u64 {
        self.0.refused()
    }

    /// Refuses all calls until [`reset`](Self::reset) or [`force_closed`](Self::force_closed).
    pub fn force_open(&self) {
        self.0.force(BreakerState::ForcedOpen);
    }

    /// Lets all calls through until [`reset`](Self::reset) or [`force_open`](Self::force_open).
    pub fn force_closed(&self) {
        self.0.force(BreakerState::ForcedClosed);
    }

    /// Closes the breaker and forgets all calls, also those in flight, like a new breaker.
    pub fn reset(&self) {
        self.0.force(BreakerState::Closed);
    }

    /// Follows the state. The receiver holds the last transition: a slow reader may miss earlier
    /// transitions, but never the last. Each transition is also a `tracing` event.
    pub fn subscribe(&self) -> watch::Receiver<BreakerTransition> {
        self.0.subscribe()
    }
}
