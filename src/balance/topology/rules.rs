//! The rules that limit where traffic may go, as the user sets them.

use std::future::pending;

use tokio::sync::watch;

#[cfg(doc)]
use super::{Locality, Otherwise};
use super::{
    deterministic::Subsetting,
    peers::{self, Peers},
    priority::Priority,
    split::{self, Split},
    split_settings::SplitSettings,
    subset::Subsets,
    zone::ZonePreference,
};
use crate::error::ConfigError;

/// The rules that limit where traffic may go; see the [module](super). Without rules, requests may go to
/// every endpoint.
///
/// # Examples
/// Traffic stays in the zone, as far as that overloads no zone:
/// ```
/// use tower_roster::balance::topology::{Topology, ZonePreference};
///
/// let topology = Topology::new().zone(ZonePreference::new("eu-1a"));
/// # topology.shares(&[], &Default::default())?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
///
/// A canary gets 1 %, and the near datacenter comes first:
/// ```
/// use std::sync::Arc;
/// use tower_roster::{
///     Instance,
///     balance::topology::{Priority, Shares, SplitSettings, Topology, Wish},
/// };
///
/// let split = SplitSettings::new(Shares::canary("v2", 0.01)).build()?;
/// let topology = Topology::new()
///     .shared_split(split.clone())
///     .priority(Priority::by_datacenter(["fra", "ams"]));
///
/// let web = |id, version| {
///     let address = "10.0.0.1:80".parse().unwrap();
///     Arc::new(Instance::new("web", id, address).meta("version", version))
/// };
/// let instances = [web("a", "v1"), web("b", "v1"), web("c", "v2")];
/// assert_eq!(topology.shares(&instances, &Wish::new())?, [0.495, 0.495, 0.01]);
///
/// split.set(Shares::canary("v2", 0.5))?;
/// assert_eq!(topology.shares(&instances, &Wish::new())?, [0.25, 0.25, 0.5]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Topology {
    pub(super) zone: Option<ZonePreference>,
    pub(super) priority: Option<Priority>,
    pub(super) subsets: Option<Subsets>,
    pub(super) subsetting: Option<Subsetting>,
    /// The settings of a split that each balancer makes for itself.
    split_settings: Option<SplitSettings>,
    /// The split of a balancer, or one that several balancers share.
    pub(super) split: Option<Split>,
    pub(super) peers: Option<Peers>,
    /// `None` until the user sets it.
    pub(super) panic: Option<bool>,
}

impl Topology {
    /// Creates a topology without rules: requests may go to every endpoint.
    pub fn new() -> Self {
        Self {
            zone: None,
            priority: None,
            subsets: None,
            subsetting: None,
            split_settings: None,
            split: None,
            peers: None,
            panic: None,
        }
    }

    /// Prefers the caller's zone; by default, no zone.
    #[must_use]
    pub fn zone(mut self, zone: ZonePreference) -> Self {
        self.zone = Some(zone);
        self
    }

    /// Prefers groups of endpoints in an order; by default, there are no groups.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Lets requests ask for a subset of the endpoints; by default, there are no subsets and wishes for
    /// one have no effect.
    #[must_use]
    pub fn subsets(mut self, subsets: Subsets) -> Self {
        self.subsets = Some(subsets);
        self
    }

    /// Uses only a part of a large set; by default, all endpoints.
    #[must_use]
    pub fn subsetting(mut self, subsetting: Subsetting) -> Self {
        self.subsetting = Some(subsetting);
        self
    }

    /// Splits traffic between versions; by default, versions are ignored. Each balancer that is made with
    /// this topology has a split of its own, which
    /// [`BalanceHandle::split`](crate::balance::BalanceHandle::split) returns.
    #[must_use]
    pub fn split(mut self, split: SplitSettings) -> Self {
        (self.split_settings, self.split) = (Some(split), None);
        self
    }

    /// Splits traffic by a split that all balancers which are made with this topology share, and others to
    /// which it is given: they have the same shares, and its guard judges the requests of all.
    #[must_use]
    pub fn shared_split(mut self, split: Split) -> Self {
        (self.split_settings, self.split) = (None, Some(split));
        self
    }

    /// Sets what is known about the callers, for zone preference and subsetting by rank; by default,
    /// nothing is known.
    #[must_use]
    pub fn peers(mut self, peers: Peers) -> Self {
        self.peers = Some(peers);
        self
    }

    /// Sets whether requests go to ejected endpoints, and to versions without a share, when there are no
    /// others. If not, such requests fail.
    ///
    /// By default they go there, because a request that is sent may succeed. With
    /// [`Ejection::eject_last`], which means that requests should fail at once, the default is that they
    /// fail, and `panic(true)` changes it.
    ///
    /// The rule applies with and without other rules. When all endpoints that a request may use are
    /// ejected, the balancer is in panic mode until one of them is restored:
    /// - The policy picks from them as if they were not ejected.
    /// - The outcomes of these requests neither restore nor eject endpoints. One exception: when the
    ///   ejection time of an endpoint is over, the first request to it is its trial, as without panic
    ///   mode.
    /// - An endpoint that was ejected by hand gets no request. An endpoint of weight 0 gets none, unless
    ///   all have weight 0.
    /// - [`Locality::Strict`] and [`Otherwise::Fail`] still hold: requests that must not leave a zone or
    ///   a subset go to ejected endpoints in it, and requests that may leave a subset leave it.
    /// - [`BalanceEvent::Notice`] reports it once, when it concerns all endpoints and not one subset.
    ///
    /// [`Ejection::eject_last`]: crate::endpoint::eject::Ejection::eject_last
    /// [`BalanceEvent::Notice`]: crate::balance::BalanceEvent::Notice
    #[must_use]
    pub fn panic(mut self, panic: bool) -> Self {
        self.panic = Some(panic);
        self
    }

    /// Whether requests go to ejected endpoints when there are no others.
    pub(crate) fn panics(&self, eject_last: bool) -> bool {
        self.panic.unwrap_or(!eject_last)
    }

    /// Whether every request may go to every endpoint.
    pub(crate) fn is_plain(&self) -> bool {
        let Self {
            zone,
            priority,
            subsets,
            subsetting,
            split_settings,
            split,
            peers: _,
            panic: _,
        } = self;
        zone.is_none()
            && priority.is_none()
            && subsets.is_none()
            && subsetting.is_none()
            && split_settings.is_none()
            && split.is_none()
    }

    /// Returns an error when a rule cannot be used.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        // A shared split was checked when it was made.
        let split = self.split_settings.as_ref();
        split.map_or(Ok(()), SplitSettings::check)?;
        self.zone.as_ref().map_or(Ok(()), ZonePreference::check)?;
        self.priority.as_ref().map_or(Ok(()), Priority::check)?;
        self.subsets.as_ref().map_or(Ok(()), Subsets::check)
    }

    /// Makes what a balancer does not share with others. The settings must have been checked.
    pub(crate) fn live(mut self) -> Self {
        if let Some(settings) = self.split_settings.take() {
            self.split = Some(Split::of(&settings));
        }
        self
    }

    /// Returns the changes of settings after which the driver must make a new plan. It must be called
    /// before the first plan is made, so that no change is missed.
    pub(crate) fn changes(&self) -> Changes {
        Changes {
            split: self.split.as_ref().map(Split::subscribe),
            peers: self.peers.as_ref().map(Peers::subscribe),
        }
    }

    /// The split, for its tallies and its guard.
    pub(crate) fn as_split(&self) -> Option<&Split> {
        self.split.as_ref()
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

/// The changes of settings that the user can make through handles.
#[derive(Debug)]
pub(crate) struct Changes {
    split: Option<watch::Receiver<split::SplitState>>,
    peers: Option<watch::Receiver<peers::Census>>,
}

impl Changes {
    /// Waits for a change. It never returns when no setting can change.
    ///
    /// # Cancel safety
    /// No change is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) {
        async fn next<T>(changes: &mut Option<watch::Receiver<T>>) {
            let Some(changes) = changes else {
                return pending().await;
            };
            if changes.changed().await.is_err() {
                // All handles are dropped, so the setting cannot change any more.
                pending().await
            }
        }
        tokio::select! {
            () = next(&mut self.split) => {}
            () = next(&mut self.peers) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::{super::Shares, *};

    #[test]
    fn a_change_of_shares_or_peers_wakes_the_driver_once() {
        let split = SplitSettings::new(Shares::canary("v2", 0.1))
            .build()
            .unwrap();
        let peers = Peers::new();
        let topology = Topology::new()
            .shared_split(split.clone())
            .peers(peers.clone());
        let mut changes = topology.changes();
        let mut wait = || task::spawn(async { changes.changed().await }).poll();
        assert_pending!(wait());
        split.set(Shares::canary("v2", 0.2)).unwrap();
        split.set(Shares::canary("v2", 0.3)).unwrap();
        assert_ready!(wait());
        assert_pending!(wait());
        peers.set_zones([("a", 1.0)]).unwrap();
        assert_ready!(wait());
        assert_pending!(wait());
        peers.set_zones([("a", 1.0)]).unwrap();
        assert_pending!(wait());
    }

    #[test]
    fn without_shared_settings_nothing_ever_changes() {
        let mut changes = Topology::default().changes();
        assert_pending!(task::spawn(async { changes.changed().await }).poll());
        let gone = Topology::new().peers(Peers::new());
        let mut changes = gone.changes();
        drop(gone);
        assert_pending!(task::spawn(async { changes.changed().await }).poll());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let zone = Topology::new().zone(ZonePreference::new(""));
        assert_eq!(zone.check().unwrap_err().field(), "zone.name");
        let priority = Topology::new().priority(Priority::by_zone(["a"]).overprovision(0.0));
        assert_eq!(
            priority.check().unwrap_err().field(),
            "priority.overprovision"
        );
        assert!(Topology::new().subsets(Subsets::by([""])).check().is_err());
        assert!(Topology::new().check().is_ok());
    }
}
