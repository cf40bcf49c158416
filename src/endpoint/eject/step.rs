//! What follows from a decision about an endpoint.

use std::time::Duration;

use super::{
    cause::{EjectCause, Restored},
    gate::Round,
};

/// What the driver is to do about one endpoint: let its [`Health`](super::Health)
/// [follow](super::Health::follow), change the set that is picked from, and publish an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step<K> {
    /// The endpoint.
    pub(crate) key: K,
    /// The round that begins with it.
    pub(crate) round: Round,
    /// What to do.
    pub(crate) kind: StepKind,
}

/// What to do about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    /// No more requests.
    Ejected {
        /// Why.
        cause: EjectCause,
        /// How long until it is probed. `None`: until its checks pass or it is restored by hand.
        time: Option<Duration>,
    },
    /// One request, to see whether it is back.
    Probe,
    /// Requests again, through slow start.
    Restored {
        /// What brought it back.
        by: Restored,
    },
    /// It should have been ejected and was not, because too many are out: for the event alone.
    Spared {
        /// Why it should have been ejected.
        cause: EjectCause,
    },
}
