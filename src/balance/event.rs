//! Events of a balancer, for subscribers.

use std::{sync::Arc, time::Duration};

use super::{
    registry::RegistryStatus,
    topology::{Notice, Trip},
};
use crate::{
    endpoint::eject::{EjectCause, Restored},
    instance::{Key, Weight},
};

/// An event of a balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BalanceEvent {
    /// An endpoint was listed.
    #[non_exhaustive]
    Added {
        /// The endpoint.
        key: Key,
    },
    /// The service of an endpoint was replaced. If the address changed too, the endpoint counts as a new
    /// process: an ejection ends, unless it is by hand, and slow start begins.
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
        /// Its requests in flight.
        in_flight: usize,
    },
    /// The balancer dropped a removed endpoint: its last request ended, or the deadline of
    /// [`drain`](super::BalanceBuilder::drain) passed. Not published when the endpoint had no requests in
    /// flight at its removal, nor when it is listed again.
    #[non_exhaustive]
    Drained {
        /// The endpoint.
        key: Key,
        /// Its requests still in flight. They continue until they end by themselves.
        in_flight: usize,
    },
    /// The weight of an endpoint changed.
    #[non_exhaustive]
    Weighed {
        /// The endpoint.
        key: Key,
        /// Its new weight.
        weight: Weight,
    },
    /// An endpoint is ejected and gets no requests for now.
    #[non_exhaustive]
    Ejected {
        /// The endpoint.
        key: Key,
        /// The reason.
        cause: EjectCause,
        /// The time until it is probed. `None`: it stays ejected until its checks pass or a user restores
        /// it.
        time: Option<Duration>,
    },
    /// An ejected endpoint gets one request as a probe.
    #[non_exhaustive]
    Probing {
        /// The endpoint.
        key: Key,
    },
    /// An ejected endpoint is restored and gets requests again.
    #[non_exhaustive]
    Restored {
        /// The endpoint.
        key: Key,
        /// What restored it.
        by: Restored,
    },
    /// An endpoint meets the conditions for ejection, but is not ejected, because too many endpoints are.
    #[non_exhaustive]
    Spared {
        /// The endpoint.
        key: Key,
        /// The reason why it would be ejected.
        cause: EjectCause,
    },
    /// The guard of a traffic split withdrew the share of a version. Every balancer with that split
    /// publishes this event.
    #[non_exhaustive]
    SplitTripped {
        /// The version and the reason.
        trip: Trip,
    },
    /// A notice about where traffic goes.
    #[non_exhaustive]
    Notice {
        /// The notice.
        notice: Notice,
    },
    /// Discovery failed. The last good set continues to serve.
    #[non_exhaustive]
    DiscoveryFailed {
        /// The error.
        error: Arc<str>,
    },
    /// Discovery ended. The last good set continues to serve.
    DiscoveryEnded,
    /// The state of a registry that discovery follows has changed. Published once for each registry when
    /// discovery begins to follow it. Not published when only the text of the same kind of error changes.
    #[non_exhaustive]
    Registry {
        /// Its new state.
        status: RegistryStatus,
    },
}
