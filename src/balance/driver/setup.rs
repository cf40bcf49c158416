//! The parts that a driver is made from.

use std::{
    convert::Infallible,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::ejections::Alarm;
use crate::{
    balance::{
        handle::{BalanceStatus, Command},
        pick::{core::Core, snapshot::Snapshot, state::Common},
        policy::Policy,
        topology::Topology,
    },
    endpoint::{Ramp, eject::Ejection},
    registry::Watch,
};

/// Settings of a driver.
pub(in crate::balance) struct Setup<P> {
    pub(in crate::balance) policy: P,
    pub(in crate::balance) grace: Duration,
    pub(in crate::balance) drain: Duration,
    pub(in crate::balance) topology: Topology,
    pub(in crate::balance) ejection: Option<Ejection>,
    pub(in crate::balance) ramp: Ramp,
    pub(in crate::balance) watch: Option<Watch>,
    pub(in crate::balance) seed: Option<u64>,
}

/// The parts that a driver shares with the balancer: the driver's ends of the channels.
pub(in crate::balance) struct Ends<S, P: Policy, C, W> {
    pub(in crate::balance) core: Weak<Core<S, P, C, W>>,
    /// The snapshot that requests read until another is published.
    pub(in crate::balance) empty: Arc<Snapshot<S, P>>,
    pub(in crate::balance) common: Arc<Common>,
    pub(in crate::balance) alive: mpsc::Receiver<Infallible>,
    pub(in crate::balance) commands: mpsc::UnboundedReceiver<Box<Command>>,
    pub(in crate::balance) alarms: mpsc::UnboundedReceiver<Alarm>,
    pub(in crate::balance) status: watch::Sender<BalanceStatus>,
}
