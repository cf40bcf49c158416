//! The limit seen from outside.

use std::{fmt, sync::Arc};

use super::shared::Shared;

/// Shows a limit. Cheap to clone.
#[derive(Clone)]
pub struct LimitHandle(Arc<Shared>);

impl LimitHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// How many calls at a time are let through now.
    pub fn limit(&self) -> u32 {
        self.0.limit()
    }

    /// How many calls are under way; above the limit for a while after that has shrunk.
    pub fn in_flight(&self) -> u32 {
        self.0.in_flight()
    }
}

impl fmt::Debug for LimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LimitHandle").field(&self.0).finish()
    }
}
