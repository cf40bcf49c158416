//! The handle of a throttle.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;

use super::shared::Shared;

/// Reads the state of a throttle. Cheap to clone.
#[derive(Clone)]
pub struct ThrottleHandle(Arc<Shared>);

impl ThrottleHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
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

impl fmt::Debug for ThrottleHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThrottleHandle").field(&self.0).finish()
    }
}
