//! The handle of a throttle.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;

use super::shared::ThrottleShared;

/// Reads the state of a throttle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ThrottleHandle(Arc<ThrottleShared>);

impl ThrottleHandle {
    pub(super) fn new(shared: Arc<ThrottleShared>) -> Self {
        Self(shared)
    }

    /// The share of calls that are refused now, 0 to 1.
    pub fn probability(&self) -> f64 {
        self.0.probability(Instant::now())
    }

    /// How many calls were refused since the throttle was made.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }
}
