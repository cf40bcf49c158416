//! The callers of a service: the other instances of the caller's own service.
//!
//! Two rules use them. Zone preference needs the share of callers in each zone. Subsetting by rank needs
//! the caller's position among all callers. A registered process can watch its own service and get both;
//! any other process can set them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::watch as cell;

use super::hash;
use crate::{
    error::ConfigError,
    instance::{Instance, Key},
    registry::{Closed, ViewState, Watch},
};

/// What is known about the callers of a service. It is a handle: clones share the state, and balancers
/// follow every change.
///
/// # Examples
/// A process that follows its own service:
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_roster::{balance::topology::Peers, instance::Key, registry};
///
/// let registry = registry::connect("consul:")?;
/// let me = Key::new("web-7", "dc1/node-3");
/// let peers = Peers::new();
/// tokio::spawn(peers.clone().follow(me, registry.watch("web")?));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Peers(Arc<cell::Sender<Census>>);

impl Peers {
    /// Creates a handle without knowledge: callers are assumed to be spread evenly over the zones, and
    /// no rank is known.
    pub fn new() -> Self {
        Self(Arc::new(cell::Sender::new(Census::default())))
    }

    /// Sets the number of callers in each zone (or any proportional numbers), and discards the rank.
    /// Callers in a zone with an empty name are not counted. No zones, or only zeros, means that nothing
    /// is known.
    ///
    /// # Errors
    /// Returns an error when a number is negative or not finite, or when their sum is not finite.
    pub fn set_zones<'a>(
        &self,
        zones: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), ConfigError> {
        self.set(Census::of_zones(zones)?);
        Ok(())
    }

    /// Sets the caller's position: `rank`, from 0, among `of` callers. The zones stay.
    ///
    /// # Errors
    /// Returns an error when `rank` is not below `of`.
    pub fn set_rank(&self, rank: usize, of: usize) -> Result<(), ConfigError> {
        if rank >= of {
            return Err(ConfigError::new(
                "peers.rank",
                format!("rank {rank} is not in 0..{of}, the number of callers"),
            ));
        }
        let mut census = self.0.borrow().clone();
        census.place = Some(CallerRank { rank, of });
        self.set(census);
        Ok(())
    }

    /// Takes zones and rank from `peers`, the instances of the caller's own service, with `me` among
    /// them. Without instances, nothing is known. If `me` is not among them, no rank is known.
    pub fn observe<'a>(&self, me: &Key, peers: impl IntoIterator<Item = &'a Arc<Instance>>) {
        let mut keys = BTreeSet::new();
        let mut census = Census::default();
        for peer in peers {
            // An instance that is listed twice is one caller.
            if keys.insert(&peer.key) {
                census.add(peer.zone.as_deref().unwrap_or_default(), 1.0);
            }
        }
        census.place = keys
            .contains(me)
            .then(|| keys.range::<&Key, _>(..me).count())
            .map(|rank| CallerRank {
                rank,
                of: keys.len(),
            });
        self.set(census);
    }

    /// Follows `watch`, a watch of the caller's own service, until the watch is closed or the future is
    /// dropped. While the registry does not respond, the last good set stays in use.
    ///
    /// # Cancel safety
    /// Dropping the future keeps what was observed.
    pub async fn follow(self, me: Key, mut watch: Watch) -> Closed {
        loop {
            match watch.changed().await {
                Ok(view) if view.state == ViewState::Pending => {}
                Ok(view) => self.observe(&me, &view.instances),
                Err(closed) => return closed,
            }
        }
    }

    pub(super) fn census(&self) -> Census {
        self.0.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> cell::Receiver<Census> {
        self.0.subscribe()
    }

    fn set(&self, census: Census) {
        self.0.send_if_modified(|known| {
            let news = *known != census;
            *known = census;
            news
        });
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self::new()
    }
}

/// The number of callers in each zone, and this caller's position.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Census {
    zones: BTreeMap<u64, (Arc<str>, f64)>,
    /// The sum of the callers of all zones.
    total: f64,
    pub(super) place: Option<CallerRank>,
}

/// A caller's position among all callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallerRank {
    /// The position, from 0; below `of`.
    pub(super) rank: usize,
    pub(super) of: usize,
}

impl Census {
    pub(super) fn of_zones<'a>(
        zones: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<Self, ConfigError> {
        let mut census = Self::default();
        for (zone, callers) in zones {
            if !(callers >= 0.0 && callers.is_finite()) {
                return Err(ConfigError::new(
                    "peers.zones",
                    format!("{callers} callers in zone {zone:?} is no finite number from 0"),
                ));
            }
            census.add(zone, callers);
        }
        if !census.total.is_finite() {
            return Err(ConfigError::new(
                "peers.zones",
                "the sum of callers overflows",
            ));
        }
        Ok(census)
    }

    fn add(&mut self, zone: &str, callers: f64) {
        // Callers without a zone use all zones in proportion, which takes the same part of each zone.
        if zone.is_empty() || callers == 0.0 {
            return;
        }
        self.total += callers;
        let listed = self.zones.entry(hash::bytes(zone.as_bytes()));
        listed.or_insert_with(|| (zone.into(), 0.0)).1 += callers;
    }

    /// The share of callers in each zone. `mine` is the caller's own zone, which has at least one
    /// caller. `upstream` are the zones of the endpoints; callers are assumed to be spread evenly over
    /// them when nothing is known.
    pub(super) fn shares(&self, mine: u64, upstream: impl Iterator<Item = u64>) -> Callers<'_> {
        if self.total <= 0.0 {
            let (zones, home) = upstream.fold((0, 0), |(zones, home), zone| {
                (zones + 1, home | u32::from(zone == mine))
            });
            return Callers::Even(1.0 / f64::from(zones + 1 - home));
        }
        let more = f64::from(!self.zones.contains_key(&mine));
        Callers::Counted {
            census: self,
            mine,
            more,
        }
    }
}

/// The share of callers in each zone.
pub(super) enum Callers<'a> {
    Even(f64),
    Counted {
        census: &'a Census,
        mine: u64,
        /// 1 for the caller itself, when its zone has no listed caller; else 0.
        more: f64,
    },
}

impl Callers<'_> {
    pub(super) fn of(&self, zone: u64) -> f64 {
        match self {
            Self::Even(share) => *share,
            Self::Counted { census, mine, more } => {
                let listed = census.zones.get(&zone).map_or(0.0, |(_, callers)| *callers);
                let own = if zone == *mine { *more } else { 0.0 };
                (listed + own) / (census.total + more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, zone: &str) -> Arc<Instance> {
        let address = "127.0.0.1:80".parse().unwrap();
        Arc::new(Instance::new("web", id, address).zone(zone))
    }

    #[test]
    fn instances_tell_zones_and_rank() {
        let peers = Peers::new();
        let me = Key::new("b", "");
        let all = [
            peer("c", "z1"),
            peer("a", ""),
            peer("b", "z1"),
            peer("b", "z1"),
        ];
        peers.observe(&me, &all);
        let census = peers.census();
        assert_eq!(census.place, Some(CallerRank { rank: 1, of: 3 }));
        assert_eq!(census.total, 2.0, "twice listed, once there");
        let share = |zone: &str| {
            let zone = hash::bytes(zone.as_bytes());
            census.shares(zone, std::iter::empty()).of(zone)
        };
        assert_eq!(share("z1"), 1.0);
        assert_eq!(share("z2"), 1.0 / 3.0);
        peers.observe(&Key::new("x", ""), &all);
        assert_eq!(peers.census().place, None);
        peers.observe(&me, []);
        assert_eq!(peers.census(), Census::default());
    }

    #[test]
    fn what_says_nothing_new_wakes_nobody() {
        let peers = Peers::new();
        let seen = peers.subscribe();
        peers.set_zones([("a", 0.0)]).unwrap();
        assert!(!seen.has_changed().unwrap());
        peers.set_zones([("a", 1.0)]).unwrap();
        assert!(seen.has_changed().unwrap());
    }

    #[test]
    fn numbers_that_count_nothing_are_refused() {
        let peers = Peers::new();
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(
                peers.set_zones([("a", bad)]).unwrap_err().field(),
                "peers.zones"
            );
        }
        assert!(peers.set_zones([("a", f64::MAX), ("b", f64::MAX)]).is_err());
        assert!(peers.set_rank(3, 3).is_err());
        assert!(peers.set_rank(0, 0).is_err());
        assert!(peers.set_rank(2, 3).is_ok());
    }
}
