//! How two registries are used.

use std::time::Duration;

/// How two registries are used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// The instances of both.
    Merge,
    /// The instances of one.
    Failover(Times),
}

/// When the two change places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) after: Duration,
    pub(super) back_after: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(10),
            back_after: Duration::from_secs(30),
        }
    }
}
