//! Zone preference: traffic stays in the caller's zone, as far as that overloads no zone.
//!
//! The documentation of [`ZonePreference`] gives the formula. The tests check for random zones that no
//! zone gets more than its share.

use std::sync::Arc;

use super::{hash, peers::Census};
use crate::error::ConfigError;

/// How strongly the caller's own zone is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Locality {
    /// As far as no zone gets more than its share when all callers use this rule. This is the default.
    #[default]
    Balanced,
    /// While enough local endpoints are available (see [`ZonePreference::min_local`]), even if that
    /// overloads them; otherwise as [`Balanced`](Self::Balanced). A small zone with many callers gets
    /// too many requests.
    Prefer,
    /// Always. A request fails when the zone has no endpoint.
    Strict,
}

/// Prefers endpoints in the caller's own zone.
///
/// # How it works
/// Traffic between zones is slow and costs money, so a request should stay in its zone. But when a zone
/// has half of the callers and a tenth of the endpoints, its endpoints would be overloaded. Envoy's
/// [zone aware routing] finds the balance without measurements, from two shares for each zone `z`:
/// `L(z)` of the callers, and `U(z)` of the endpoints' weight.
///
/// ```text
/// U(mine) ≥ L(mine):  all traffic stays.
/// otherwise:          U(mine) / L(mine) stays; the rest goes to the zones with capacity left over,
///                     each in proportion to max(0, U(z) − L(z)).
/// ```
///
/// When every caller does the same, zone `z` gets `min(L, U)` from its own callers, and `max(0, U − L)`
/// from other zones, because the excess of some zones equals the capacity left over in the others. In
/// total it gets `U(z)`, its fair share.
///
/// Endpoints without a zone are local to no caller and take what other zones cannot. Callers without a
/// zone, or without this rule, take the same part of every zone, so `L` does not include them. `L` comes
/// from [`Peers`](super::Peers). Without it, callers are assumed to be spread evenly over the zones,
/// which is what deployments aim for.
///
/// [zone aware routing]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/zone_aware
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::{Locality, Peers, Topology, ZonePreference};
///
/// let peers = Peers::new();
/// peers.set_zones([("eu-1a", 6.0), ("eu-1b", 2.0)])?; // or follow your own service
/// let topology = Topology::new().peers(peers).zone(ZonePreference::new("eu-1a"));
///
/// let strict = ZonePreference::new("eu-1a").locality(Locality::Strict);
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZonePreference {
    pub(super) zone: Arc<str>,
    pub(super) locality: Locality,
    pub(super) min_local: usize,
    pub(super) min_endpoints: usize,
}

impl ZonePreference {
    /// Creates a rule that prefers `zone`, with [`Locality::Balanced`].
    pub fn new(zone: impl Into<Arc<str>>) -> Self {
        Self {
            zone: zone.into(),
            locality: Locality::Balanced,
            min_local: 1,
            min_endpoints: 6,
        }
    }

    /// Sets how strongly the zone is preferred; [`Locality::Balanced`] by default.
    #[must_use]
    pub fn locality(mut self, locality: Locality) -> Self {
        self.locality = locality;
        self
    }

    /// Sets the number of available endpoints in the zone from which [`Locality::Prefer`] keeps all
    /// requests in it; 1 by default. 0 counts as 1.
    #[must_use]
    pub fn min_local(mut self, endpoints: usize) -> Self {
        self.min_local = endpoints;
        self
    }

    /// Sets the number of available endpoints in all zones from which [`Locality::Balanced`] prefers the
    /// zone; 6 by default, as in Envoy. With fewer endpoints, the loss of one would change the shares
    /// too much. With 0 or 1, the zone is always preferred.
    #[must_use]
    pub fn min_endpoints(mut self, endpoints: usize) -> Self {
        self.min_endpoints = endpoints;
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.zone.is_empty() {
            return Err(ConfigError::new(
                "zone.name",
                "the name of the caller's zone is empty",
            ));
        }
        Ok(())
    }

    /// The caller's own zone.
    pub(super) fn id(&self) -> u64 {
        hash::bytes(self.zone.as_bytes())
    }

    /// The share of each zone, from each zone's weight and number of available endpoints; `None` when
    /// zones are ignored.
    pub(super) fn shares(&self, zones: &[Zone], callers: &Census) -> Option<Vec<f64>> {
        let mine = self.id();
        let local = zones.iter().position(|zone| zone.id == Some(mine));
        if self.locality == Locality::Prefer
            && let Some(local) = local.filter(|i| zones[*i].endpoints >= self.min_local.max(1))
        {
            return Some((0..zones.len()).map(|i| f64::from(i == local)).collect());
        }
        let endpoints: usize = zones.iter().map(|zone| zone.endpoints).sum();
        if endpoints < self.min_endpoints {
            return None;
        }
        Some(balanced(mine, zones, callers))
    }
}

/// The sums over the endpoints of one zone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone {
    /// The hash of the zone's name; `None` for endpoints without a zone.
    pub(super) id: Option<u64>,
    pub(super) weight: f64,
    pub(super) endpoints: usize,
}

fn balanced(mine: u64, zones: &[Zone], callers: &Census) -> Vec<f64> {
    let total: f64 = zones.iter().map(|zone| zone.weight).sum();
    let upstream = |zone: &Zone| zone.weight / total;
    let callers = callers.shares(mine, zones.iter().filter_map(|zone| zone.id));
    let local = zones.iter().find(|zone| zone.id == Some(mine));
    let stay = local.map_or(0.0, |zone| {
        let callers = callers.of(mine);
        // This also avoids a division by 0. At least this process is a caller, so `callers` is above 0.
        if callers <= upstream(zone) {
            1.0
        } else {
            upstream(zone) / callers
        }
    });
    let left_over = |zone: &Zone| match zone.id {
        Some(id) => (upstream(zone) - callers.of(id)).max(0.0),
        None => upstream(zone),
    };
    let left: f64 = zones.iter().map(left_over).sum();
    zones
        .iter()
        .map(|zone| {
            let spill = if left > 0.0 {
                left_over(zone) / left
            } else {
                // Rounding made the capacity left over 0: each zone has what it needs, so all are used
                // by weight.
                upstream(zone)
            };
            let at_home = f64::from(zone.id == Some(mine));
            stay * at_home + (1.0 - stay) * spill
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str, endpoints: usize) -> Zone {
        Zone {
            id: (!name.is_empty()).then(|| hash::bytes(name.as_bytes())),
            weight: endpoints as f64,
            endpoints,
        }
    }

    fn shares(mine: &str, zones: &[(&str, usize)], callers: &[(&str, f64)]) -> Option<Vec<f64>> {
        let zones: Vec<_> = zones.iter().map(|(name, n)| zone(name, *n)).collect();
        let census = Census::of_zones(callers.iter().copied()).unwrap();
        ZonePreference::new(mine).shares(&zones, &census)
    }

    #[test]
    fn what_the_local_zone_cannot_take_goes_where_something_is_left() {
        // Callers 50 : 25 : 25, endpoints 20 : 30 : 50. Zone a keeps 0.2 / 0.5; zone b has 5 left over,
        // zone c 25.
        let zones = [("a", 2), ("b", 3), ("c", 5)];
        let callers = [("a", 2.0), ("b", 1.0), ("c", 1.0)];
        let a = shares("a", &zones, &callers).unwrap();
        for (share, expected) in a.iter().zip([0.4, 0.1, 0.5]) {
            assert!((share - expected).abs() < 1e-12, "{a:?}");
        }
        assert_eq!(shares("b", &zones, &callers).unwrap(), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn without_peers_callers_are_taken_to_be_spread_evenly() {
        let even = shares("a", &[("a", 3), ("b", 3)], &[]).unwrap();
        assert_eq!(even, [1.0, 0.0]);
        // Zone a has half of the callers and a quarter of the endpoints.
        let uneven = shares("a", &[("a", 2), ("b", 6)], &[]).unwrap();
        assert_eq!(uneven, [0.5, 0.5]);
        let nobody_home = shares("x", &[("a", 3), ("b", 6)], &[]).unwrap();
        assert_eq!(nobody_home, [0.0, 1.0], "b alone has more than a third");
    }

    #[test]
    fn a_caller_that_its_peers_do_not_list_counts_itself() {
        let new = shares("a", &[("a", 1), ("b", 9)], &[("b", 1.0)]).unwrap();
        assert!((new[0] - 0.2).abs() < 1e-12, "one of two callers: {new:?}");
    }

    #[test]
    fn endpoints_without_a_zone_take_what_spills_over() {
        let spill = shares("a", &[("a", 2), ("", 8)], &[]).unwrap();
        assert_eq!(spill, [0.2, 0.8]);
    }

    #[test]
    fn few_endpoints_are_shared_by_everybody() {
        assert_eq!(shares("a", &[("a", 2), ("b", 3)], &[]), None);
        assert!(shares("a", &[("a", 3), ("b", 3)], &[]).is_some());
    }

    #[test]
    fn prefer_stays_as_long_as_enough_are_left() {
        let census = Census::default();
        let prefer = ZonePreference::new("a")
            .locality(Locality::Prefer)
            .min_local(2);
        let of = |a: usize| prefer.shares(&[zone("a", a), zone("b", 8)], &census);
        assert_eq!(of(2), Some(vec![1.0, 0.0]));
        let balanced = of(1).unwrap();
        assert!(
            (balanced[0] - 2.0 / 9.0).abs() < 1e-12,
            "as balanced: {balanced:?}"
        );
    }

    proptest! {
        #[test]
        fn no_zone_gets_more_than_its_share_when_all_callers_do_the_same(
            zones in proptest::collection::vec((0_usize..20, 0_u32..20), 1..8),
            nameless in (0_usize..5, 0_u32..5),
        ) {
            let names: Vec<String> = (0..zones.len()).map(|i| format!("z{i}")).collect();
            let mut upstream: Vec<Zone> = Vec::new();
            for (name, (endpoints, _)) in names.iter().zip(&zones) {
                if *endpoints > 0 {
                    upstream.push(zone(name, *endpoints));
                }
            }
            if nameless.0 > 0 {
                upstream.push(zone("", nameless.0));
            }
            let callers: f64 = zones.iter().map(|(_, n)| f64::from(*n)).sum::<f64>() + f64::from(nameless.1);
            prop_assume!(!upstream.is_empty() && callers > 0.0);
            let counts = names.iter().zip(&zones).map(|(name, (_, n))| (name.as_str(), f64::from(*n)));
            let census = Census::of_zones(counts.chain([("", f64::from(nameless.1))])).unwrap();
            let mut got = vec![0.0; upstream.len()];
            let all = names.iter().map(String::as_str).zip(zones.iter().map(|(_, n)| *n));
            for (name, n) in all.filter(|(_, n)| *n > 0) {
                let shares = ZonePreference::new(name).min_endpoints(0).shares(&upstream, &census).unwrap();
                let sum: f64 = shares.iter().sum();
                prop_assert!((sum - 1.0).abs() < 1e-9, "shares sum to {}", sum);
                for (got, share) in got.iter_mut().zip(shares) {
                    prop_assert!(share >= 0.0);
                    *got += share * f64::from(n) / callers;
                }
            }
            let total: f64 = upstream.iter().map(|zone| zone.weight).sum();
            for (got, zone) in got.iter_mut().zip(&upstream) {
                *got += zone.weight / total * f64::from(nameless.1) / callers;
            }
            for (got, zone) in got.iter().zip(&upstream) {
                prop_assert!(*got <= zone.weight / total + 1e-9, "{:?} of {:?}", got, zone);
            }
        }
    }
}
