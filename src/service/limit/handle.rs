//! The handle of a limit.

use std::sync::Arc;

use super::shared::LimitShared;

/// Reads a limit. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LimitHandle(Arc<LimitShared>);

impl LimitHandle {
    pub(super) fn new(shared: Arc<LimitShared>) -> Self {
        Self(shared)
    }

    /// How many calls at a time are admitted now.
    pub fn limit(&self) -> u32 {
        self.0.limit()
    }

    /// How many calls are in flight. After the limit has shrunk, this is above it for a while.
    pub fn in_flight(&self) -> u32 {
        self.0.in_flight()
    }
}
