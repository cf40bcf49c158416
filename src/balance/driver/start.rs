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
    Driver,
    checks::Checker,
    departed::Departed,
    discovery::{Apart, Discovery},
    ejections::Ejections,
    endpoints::Endpoints,
    orders::Orders,
    planning::Planning,
    publisher::SnapshotPublisher,
    registries::Registries,
    revisions::Revisions,
    span::DriverSpan,
    warm_up::WarmUp,
};
use crate::{
    balance::{
        builder::BalanceBuilder,
        handle::{BalanceHandle, BalanceStatus},
        pick::{core::Core, home::Home, slots::Slots, snapshot::Snapshot, state::Common},
        policy::Policy,
        topology::Split,
    },
    endpoint::{
        eject::{Ejection, Ejector},
        load::LoadTracker,
    },
    error::BoxError,
    rng::small_rng,
};

impl<D, S, P, C, W> Driver<D, S, P, C, W>
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
    /// Starts a balancer with checked settings. `apart` takes an item of discovery apart into the service
    /// to call and the registry's data.
    pub(in crate::balance) fn start(
        discover: D,
        apart: Apart<D::Key, D::Service, S>,
        balance: BalanceBuilder<P, C, W>,
    ) -> Arc<Core<S, P, C, W>> {
        let (config, policy) = (balance.config, Arc::new(balance.policy));
        let (settings, topology) = (config.settings, config.topology.live());
        let rng = || small_rng(settings.seed);
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
            classify: balance.classify,
            route: balance.route,
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
        let checker = Checker::new(settings.health_check, settings.seed);
        #[cfg(not(feature = "_hyper"))]
        let checker = Checker::new();
        let by_requests = settings.ejection.is_some();
        let ejector = Ejector::new(settings.ejection.unwrap_or_default(), rng(), now);
        let mut driver = Self {
            discovery: Discovery::new(discover, apart, rng()),
            registries: Registries::new(config.watch, now),
            orders: Orders::new(commands),
            checker,
            alarms,
            changes: topology.changes(),
            revisions: Revisions::default(),
            publisher: SnapshotPublisher::new(Arc::clone(&policy), empty, rng(), now),
            endpoints: Endpoints::new(
                policy,
                Arc::new(common),
                Departed::new(settings.grace, settings.drain),
                Ejections::new(ejector, by_requests),
                WarmUp::new(settings.slow_start),
                Planning::new(topology, now),
            ),
            core: weak,
            alive: ended,
            status,
            rng: rng(),
            span: DriverSpan::new(),
        };
        // The task owns the driver and `run` borrows it: a future would keep its argument twice, as
        // argument and as local.
        tokio::spawn(async move { driver.run().await });
        core
    }
}
