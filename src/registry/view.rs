//! What is known of a service now.

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
/// Pending ──first answer──▶ Live ◀──▶ Empty ◀──▶ Missing      (what the registry says)
///    │                        │          │          │
///    └──(error kept)          └── error, or too old ┴──▶ Stale ──answer──▶ (back)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ViewState {
    /// The registry has not answered yet; [`View::error`] tells why, when it failed.
    #[default]
    Pending,
    /// The set is what the registry says.
    Live,
    /// The service exists, and no instance of it may serve.
    Empty,
    /// The registry knows no such service.
    Missing,
    /// The set is the last good one, which the registry does not confirm: it cannot be reached,
    /// answers nothing usable, or has been silent for too long.
    Stale,
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

/// What is known of a service now: immutable, and cheap to clone.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct View {
    /// The last good set of instances that may serve.
    pub instances: InstanceSet,
    /// Instances that are listed and may not serve: critical, or in maintenance.
    pub withheld: Arc<[Arc<Instance>]>,
    /// Records of the registry that could not be used, each with the reason; the first 1,000.
    pub rejected: Arc<[Rejected]>,
    /// How far this can be trusted.
    pub state: ViewState,
    /// What keeps it from being fresh; `None` while the registry answers.
    pub error: Option<RegistryError>,
    /// When the registry last confirmed it.
    pub confirmed: Option<Instant>,
}

impl View {
    /// The time since the registry last confirmed it; `None` when it never did.
    pub fn age(&self) -> Option<Duration> {
        self.confirmed.map(|at| at.elapsed())
    }

    /// Whether it is what the registry says now.
    pub fn is_fresh(&self) -> bool {
        matches!(
            self.state,
            ViewState::Live | ViewState::Empty | ViewState::Missing
        )
    }
}
