//! Starts a balancer: makes what requests share, and the task that follows discovery.

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, atomic::AtomicUsize},
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tower::discover::Discover;

use super::{
    driver::{Apart, Checker, Driver, Ends, Setup},
    handle::{BalanceHandle, BalanceStatus},
    pick::{core::Core, home::Home, slots::Slots, snapshot::Snapshot, state::Common},
    policy::Policy,
    settings::Checked,
    topology::Split,
};
use crate::{
    endpoint::{eject::Ejection, load::LoadTracker},
    error::BoxError,
};

/// Starts a balancer. `apart` takes an item of discovery apart into the service to call and the registry's
/// data.
pub(super) fn start<D, S, P, C, W>(
    discover: D,
    apart: Apart<D::Service, S>,
    policy: P,
    classify: C,
    route: W,
    checked: Checked,
) -> Arc<Core<S, P, C, W>>
where
    D: Discover + Send + 'static,
    D::Key: Hash + Eq + Clone + fmt::Debug + Send + 'static,
    D::Error: Into<BoxError> + Send,
    D::Service: Send + 'static,
    S: Send + Sync + 'static,
    P: Policy,
    C: Send + Sync + 'static,
    W: Send + Sync + 'static,
{
    let (settings, topology) = (checked.settings, checked.topology);
    let (command, commands) = mpsc::unbounded_channel();
    let (alarm, alarms) = mpsc::unbounded_channel();
    let (status, following) = watch::channel(BalanceStatus::default());
    let (alive, ended) = mpsc::channel(1);
    let now = Instant::now();
    let empty = Arc::new(Snapshot::empty());
    let core = Arc::new(Core {
        slots: Slots::new(Arc::clone(&empty), settings.seed),
        usable: AtomicUsize::new(0),
        handle: BalanceHandle::new(command, following, topology.as_split()),
        classify,
        route,
        wait: settings.wait,
        epoch: now,
        _alive: alive,
    });
    let weak = Arc::downgrade(&core);
    let tallies = topology.as_split().and_then(Split::tallies);
    let slow = settings.ejection.as_ref().is_some_and(Ejection::is_timed);
    let common = Common {
        epoch: now,
        timed: !P::Load::TIMED && (tallies.is_some() || slow),
        rules: settings.ejection.clone(),
        alarm,
        tallies,
        home: Home::of(&weak),
    };
    #[cfg(feature = "_hyper")]
    let checker = Checker::new(checked.checks, settings.seed);
    #[cfg(not(feature = "_hyper"))]
    let checker = Checker::new();
    let setup = Setup {
        policy,
        grace: settings.grace,
        drain: settings.drain,
        topology,
        ejection: settings.ejection,
        ramp: checked.ramp,
        watch: checked.watch,
        seed: settings.seed,
    };
    let ends = Ends {
        core: weak,
        empty,
        common: Arc::new(common),
        alive: ended,
        commands,
        alarms,
        status,
    };
    let mut driver = Driver::new(discover, apart, checker, setup, ends);
    // The task owns the driver and `run` borrows it: a future would keep its argument twice, as argument
    // and as local.
    tokio::spawn(async move { driver.run().await });
    core
}
