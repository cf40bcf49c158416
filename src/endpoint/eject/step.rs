//! The effects of a decision about an endpoint.

use std::time::Duration;

use super::{
    cause::{EjectCause, Restored},
    gate::Round,
};

/// What the driver must do for one endpoint: let its [`EndpointHealth`](super::EndpointHealth)
/// [follow](super::EndpointHealth::follow), update the set for picks, and publish an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EjectStep<K> {
    /// The endpoint.
    pub(crate) key: K,
    /// The round that this step begins.
    pub(crate) round: Round,
    /// The kind of the step.
    pub(crate) kind: StepKind,
}

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    /// It gets no requests.
    Ejected {
        /// The reason.
        cause: EjectCause,
        /// The time until it is probed. `None`: until its checks pass or it is restored by hand.
        time: Option<Duration>,
    },
    /// It gets one request, as a probe.
    Probe,
    /// It gets requests again, with slow start.
    Restored {
        /// The reason.
        by: Restored,
    },
    /// It was not ejected, because too many endpoints are out. Only an event follows.
    Spared {
        /// The reason for which it would have been ejected.
        cause: EjectCause,
    },
}
