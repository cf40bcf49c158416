//! What follows from a decision about an endpoint.

use std::time::Duration;

use super::{
    cause::{Cause, Restored},
    gate::Round,
};

/// What the driver is to do about one endpoint: see that its [`Health`](super::Health) [follows](super::Health::follow),
/// change the set that is picked from, and tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step<K> {
    /// Whom it is about.
    pub key: K,
    /// The round that begins with it.
    pub round: Round,
    /// What to do.
    pub kind: StepKind,
}

/// What to do about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepKind {
    /// No more requests.
    Ejected {
        /// Why.
        cause: Cause,
        /// How long until it is probed. `None`: until its checks pass or somebody restores it.
        time: Option<Duration>,
    },
    /// One request, to see whether it is back.
    Probe,
    /// Requests again, through slow start.
    Restored {
        /// What brought it back.
        by: Restored,
    },
    /// It should have been ejected and was not, because too many are out; only to tell.
    Spared {
        /// Why it should have been.
        cause: Cause,
    },
}
