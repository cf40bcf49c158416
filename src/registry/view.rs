//! The current state of a watched service.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    catalog::{InstanceSet, Rejected},
    error::RegistryError,
    instance::Instance,
};

/// How far a [`View`] can be trusted.
///
/// ```text
/// Pending ──first reply──▶ Live ◀──▶ Empty ◀──▶ Missing       (as the registry replies)
///    │                       │          │          │
///    └──(error kept)         └── error, or too old ┴──▶ Stale ──reply──▶ (back)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ViewState {
    /// The registry has not replied yet, or only with an empty list in doubt; [`View::error`] has the
    /// reason.
    #[default]
    Pending,
    /// The set is confirmed by the registry.
    Live,
    /// The service exists, and none of its instances may get traffic.
    Empty,
    /// The registry does not know the service.
    Missing,
    /// The set is the last good one. The registry does not confirm it: it cannot be reached, sends no
    /// usable reply, or has not replied for too long.
    Stale,
}

impl ViewState {
    /// How likely it is that this state hides instances, from 0, where it is likeliest: a registry that
    /// `failed` may list some, and one that is missing the service lists none. Of several states without
    /// instances, the one with the lowest rank explains why there are none.
    pub(crate) fn rank(self, failed: bool) -> u8 {
        match self {
            Self::Pending | Self::Stale if failed => 0,
            Self::Stale => 1,
            Self::Pending => 2,
            Self::Live => 3,
            Self::Empty => 4,
            Self::Missing => 5,
        }
    }
}

impl fmt::Display for ViewState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Empty => "empty",
            Self::Missing => "missing",
            Self::Stale => "stale",
        })
    }
}

/// The current state of a watched service: immutable, and cheap to clone.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct View {
    /// The last good set of instances that may get traffic.
    pub instances: InstanceSet,
    /// Instances that are listed but may not get traffic: critical, or in maintenance.
    pub withheld: Arc<[Arc<Instance>]>,
    /// Records of the registry that could not be used, each with the reason; the first 1,000.
    pub rejected: Arc<[Rejected]>,
    /// How far this view can be trusted.
    pub state: ViewState,
    /// The error that keeps this view from being fresh; `None` while the registry replies.
    pub error: Option<RegistryError>,
    /// When the registry last confirmed this view.
    pub confirmed: Option<Instant>,
}

impl View {
    /// Returns the time since the registry last confirmed this view; `None` if it never did.
    pub fn age(&self) -> Option<Duration> {
        self.confirmed.map(|at| at.elapsed())
    }

    /// Whether the registry confirms this view now.
    pub fn is_fresh(&self) -> bool {
        matches!(
            self.state,
            ViewState::Live | ViewState::Empty | ViewState::Missing
        )
    }
}
