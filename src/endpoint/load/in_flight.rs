//! Load as the number of requests not yet complete.

use std::time::Duration;

use tokio::time::Instant;

use super::{LoadTracker, Outcome};

/// Load as the number of requests in flight, plus one for the request to come.
///
/// The added request makes weights count while nothing is in flight. The tracker measures no latency and
/// no outcome, so an endpoint that fails fast looks idle. Combine it with ejection of failing endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight(());

impl InFlight {
    /// Creates a tracker.
    pub fn new() -> Self {
        Self(())
    }
}

impl LoadTracker for InFlight {
    const TIMED: bool = false;

    fn fresh(&self, _: Instant) -> Self {
        *self
    }

    #[inline]
    fn record(&self, _: Outcome, _: Duration, _: Instant) {}

    #[inline]
    fn timeless(&self, in_flight: usize) -> Option<f64> {
        Some(in_flight as f64 + 1.0)
    }

    #[inline]
    fn load(&self, in_flight: usize, _: Instant) -> f64 {
        in_flight as f64 + 1.0
    }
}
