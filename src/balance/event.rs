//! What happens to a balancer, for those who subscribe.

use std::{sync::Arc, time::Duration};

use super::{
    registry::RegistryStatus,
    topology::{Notice, Trip},
};
use crate::{
    endpoint::eject::{EjectCause, Restored},
    instance::{Key, Weight},
};

/// What happened to a balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BalanceEvent {
    /// An endpoint was listed.
    #[non_exhaustive]
    Added {
        /// The endpoint.
        key: Key,
    },
    /// The service of an endpoint was replaced. Where its address changed it counts as another process: it
    /// is not ejected any more, unless by hand, and ramps.
    #[non_exhaustive]
    Replaced {
        /// The endpoint.
        key: Key,
    },
    /// An endpoint is not listed any more.
    #[non_exhaustive]
    Removed {
        /// The endpoint.
        key: Key,
        /// Its requests that are not complete.
        in_flight: usize,
    },
    /// A removed endpoint is let go: its last request ended, or the deadline of
    /// [`drain`](super::BalanceBuilder::drain) passed. Published neither of an endpoint that had no requests
    /// when it was removed, nor of one that is back.
    #[non_exhaustive]
    Drained {
        /// The endpoint.
        key: Key,
        /// Its requests that are not complete. They go on until they end by themselves.
        in_flight: usize,
    },
    /// The weight of an endpoint changed.
    #[non_exhaustive]
    Weighed {
        /// The endpoint.
        key: Key,
        /// Its weight now.
        weight: Weight,
    },
    /// An endpoint gets no requests for now.
    #[non_exhaustive]
    Ejected {
        /// The endpoint.
        key: Key,
        /// Why.
        cause: EjectCause,
        /// How long until it is probed. `None`: until its checks pass or a user restores it.
        time: Option<Duration>,
    },
    /// An ejected endpoint gets one request, which shows whether it is back.
    #[non_exhaustive]
    Probing {
        /// The endpoint.
        key: Key,
    },
    /// An ejected endpoint gets requests again.
    #[non_exhaustive]
    Restored {
        /// The endpoint.
        key: Key,
        /// What brought it back.
        by: Restored,
    },
    /// An endpoint should be ejected and is not, because too many are.
    #[non_exhaustive]
    Spared {
        /// The endpoint.
        key: Key,
        /// Why it should be.
        cause: EjectCause,
    },
    /// The guard of a traffic split took a version's share back. Published by every balancer with that
    /// split.
    #[non_exhaustive]
    SplitTripped {
        /// Of which version, and why.
        trip: Trip,
    },
    /// Something about where traffic goes.
    #[non_exhaustive]
    Notice {
        /// What it is.
        notice: Notice,
    },
    /// Discovery failed; the last good set serves on.
    #[non_exhaustive]
    DiscoveryFailed {
        /// What it failed with.
        error: Arc<str>,
    },
    /// Discovery ended; the last good set serves on.
    DiscoveryEnded,
    /// The state of a registry that discovery follows has changed; published once for each when it is first
    /// heard of. Not published when only the text of the same error differs.
    #[non_exhaustive]
    Registry {
        /// Its state now.
        status: RegistryStatus,
    },
}
