//! The current state of a watched service.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch as cell, time::Instant};

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
    /// All states.
    pub const ALL: &[Self] = &[
        Self::Pending,
        Self::Live,
        Self::Empty,
        Self::Missing,
        Self::Stale,
    ];

    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Empty => "empty",
            Self::Missing => "missing",
            Self::Stale => "stale",
        }
    }

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
        f.write_str(self.as_str())
    }
}

/// The current state of a watched service: immutable, and cheap to clone.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct View {
    /// The last good set of instances that may get traffic.
    pub instances: InstanceSet,
    /// Instances that are listed but may not get traffic: critical, or in maintenance. For a moment after
    /// an outage of the registry an instance may be here and in `instances`; see [`EmptyGuard`].
    ///
    /// [`EmptyGuard`]: crate::catalog::EmptyGuard
    pub withheld: Arc<[Arc<Instance>]>,
    /// Records of the registry that could not be used, each with the reason; the first 1,000.
    pub rejected: Arc<[Rejected]>,
    /// How far this view can be trusted.
    pub state: ViewState,
    /// The error that keeps this view from being fresh; `None` while the registry replies.
    pub error: Option<RegistryError>,
    /// When the registry last confirmed this view.
    pub confirmed: Option<Instant>,
    /// The views of two registries that are used as one ([`Merge`](super::Merge),
    /// [`Failover`](super::Failover)), the first one first; empty for one registry.
    pub parts: Arc<[ViewPart]>,
}

/// The view of one of two registries that are used as one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ViewPart {
    /// The name of the registry.
    pub registry: Arc<str>,
    /// Whether its instances are in use. Of a [`Failover`](super::Failover), those of one registry are.
    pub is_used: bool,
    /// Its view, with the keys that this registry gives.
    pub view: View,
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

    /// Publishes this view. Receivers are notified only if it differs from the previous one by more than
    /// its age, or if `always` is set.
    pub(super) fn publish(self, cell: &cell::Sender<Self>, always: bool) {
        cell.send_if_modified(|view| {
            let same = view.is_like(&self);
            *view = self;
            always || !same
        });
    }

    /// Whether two views differ by their ages only.
    fn is_like(&self, other: &Self) -> bool {
        let parts = || self.parts.iter().zip(&*other.parts);
        self.state == other.state
            && self.error == other.error
            && self.instances.is_same(&other.instances)
            && Arc::ptr_eq(&self.withheld, &other.withheld)
            && Arc::ptr_eq(&self.rejected, &other.rejected)
            && self.parts.len() == other.parts.len()
            && parts().all(|(a, b)| a.is_used == b.is_used && a.view.is_like(&b.view))
    }
}
