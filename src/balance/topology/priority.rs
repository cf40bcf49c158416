//! Priority groups with gradual failover: first the near datacenter, then the next one for the part that
//! it cannot serve.
//!
//! The documentation of [`Priority`] gives the rule.

use std::sync::Arc;

use crate::{
    error::{ConfigError, check_range},
    instance::{Instance, Key},
    task::caught,
};

/// The factor by which a group may be loaded above its size. It is Envoy's default.
const OVERPROVISION: f64 = 1.4;

/// Assigns endpoints to groups, and decides when the next group is needed.
///
/// # How it works
/// Failing over when the last endpoint of a group is gone is too late, because the remaining few are
/// overloaded long before. Envoy's rule ([priority levels]) starts earlier. The health of a group is the
/// available part of its weight, multiplied by an overprovisioning factor of 1.4. A group takes the
/// share that the groups before it leave, up to its health:
///
/// ```text
/// health(g) = min(1, 1.4 · available(g) / total(g))
/// share(g)  = min(health(g), 1 − shares before g)
/// ```
///
/// With at least 72 % of its endpoints available, the first group serves all requests. Below that, the
/// next group gets a growing share. When the healths of all groups sum to less than 1, each group gets
/// its part of the sum.
///
/// An instance that is critical in its registry is not listed, so it is also missing from the total. A
/// group that shrinks in this way looks healthy to the end, unless [`expect`](Self::expect) sets how
/// many endpoints there should be.
///
/// [priority levels]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::{Priority, Topology};
///
/// let near_first = Priority::by_datacenter(["fra", "ams"]).expect(4);
/// let topology = Topology::new().priority(near_first);
///
/// let spot_last = Priority::by_fn(|instance| instance.tags.iter().any(|tag| tag == "spot").into());
/// # topology.shares(&[], &Default::default())?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Priority {
    by: GroupBy,
    overprovision: f64,
    expect: usize,
}

#[derive(Clone)]
enum GroupBy {
    Metadata(String),
    Datacenter(Vec<String>),
    Zone(Vec<String>),
    Fn(Arc<dyn Fn(&Instance) -> u32 + Send + Sync>),
}

/// The group of endpoints whose group is not known.
const LAST: u32 = u32::MAX;

impl Priority {
    /// Takes the group from the number in the metadata `name`; group 0 is first. Endpoints without a
    /// number from 0 to 4,294,967,295 are in the last group.
    pub fn by_metadata(name: impl Into<String>) -> Self {
        Self::new(GroupBy::Metadata(name.into()))
    }

    /// Makes each datacenter a group, in this order. All other datacenters form one last group. The
    /// datacenter is the part of the key's scope before the first `/`, as in Consul's keys.
    pub fn by_datacenter<N: Into<String>>(order: impl IntoIterator<Item = N>) -> Self {
        Self::new(GroupBy::Datacenter(
            order.into_iter().map(Into::into).collect(),
        ))
    }

    /// Makes each zone a group, in this order. All other zones form one last group.
    pub fn by_zone<N: Into<String>>(order: impl IntoIterator<Item = N>) -> Self {
        Self::new(GroupBy::Zone(order.into_iter().map(Into::into).collect()))
    }

    /// Takes the group from `priority`; group 0 is first. An endpoint is in the last group when the
    /// closure panics, or when its instance is not known.
    pub fn by_fn(priority: impl Fn(&Instance) -> u32 + Send + Sync + 'static) -> Self {
        Self::new(GroupBy::Fn(Arc::new(priority)))
    }

    fn new(by: GroupBy) -> Self {
        Self {
            by,
            overprovision: OVERPROVISION,
            expect: 0,
        }
    }

    /// Sets by which factor a group may be loaded above its size, from 1; 1.4 by default. At 1, each
    /// missing endpoint moves its share to the next group. With a large factor, a group serves all
    /// requests while one of its endpoints is available.
    #[must_use]
    pub fn overprovision(mut self, factor: f64) -> Self {
        self.overprovision = factor;
        self
    }

    /// Sets the number of endpoints that each group should have; by default 0, which assumes that all
    /// endpoints are listed. A group with fewer endpoints counts as unhealthy in proportion.
    #[must_use]
    pub fn expect(mut self, endpoints: usize) -> Self {
        self.expect = endpoints;
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let factors = 1.0..f64::INFINITY;
        check_range("priority.overprovision", self.overprovision, factors)
    }

    /// The group of an endpoint.
    pub(super) fn of(&self, key: &Key, instance: Option<&Instance>) -> u32 {
        let position = |order: &[String], name: &str| {
            let found = order.iter().position(|known| known == name);
            found.and_then(|i| u32::try_from(i).ok())
        };
        let group = match &self.by {
            GroupBy::Metadata(name) => instance
                .and_then(|instance| instance.metadata.get(name))
                .and_then(|number| number.trim().parse().ok()),
            GroupBy::Datacenter(order) => key
                .scope()
                .split('/')
                .next()
                .and_then(|name| position(order, name)),
            GroupBy::Zone(order) => instance
                .and_then(|instance| instance.zone.as_deref())
                .and_then(|name| position(order, name)),
            GroupBy::Fn(priority) => instance.and_then(|instance| {
                let group = caught(|| priority(instance));
                if group.is_none() {
                    tracing::warn!(endpoint = %key, "a priority panicked");
                }
                group
            }),
        };
        group.unwrap_or(LAST)
    }

    /// The share of each group, in their order. They sum to 1, or are all 0 when no endpoint is
    /// available.
    pub(super) fn shares(&self, groups: &[PriorityGroup]) -> Vec<f64> {
        let health = |group: &PriorityGroup| {
            let missing = (self.expect as f64 / group.endpoints.max(1) as f64).max(1.0);
            (self.overprovision * group.available / (group.weight * missing)).min(1.0)
        };
        let healths: Vec<f64> = groups.iter().map(health).collect();
        let sum: f64 = healths.iter().sum();
        if sum <= 0.0 {
            return vec![0.0; groups.len()];
        }
        if sum < 1.0 {
            return healths.iter().map(|health| health / sum).collect();
        }
        let mut left = 1.0_f64;
        let take = |health: &f64| {
            let share = health.min(left);
            left -= share;
            share
        };
        healths.iter().map(take).collect()
    }
}

impl_debug!(Priority: |this| overprovision = this.overprovision, expect = this.expect);

/// The sums over the endpoints of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct PriorityGroup {
    /// The sum of weights, above 0.
    pub(super) weight: f64,
    /// The sum of the weights of available endpoints.
    pub(super) available: f64,
    pub(super) endpoints: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(priority: &Priority, groups: &[(f64, usize)]) -> Vec<f64> {
        let groups: Vec<_> = groups
            .iter()
            .map(|(available, endpoints)| PriorityGroup {
                weight: *endpoints as f64,
                available: *available,
                endpoints: *endpoints,
            })
            .collect();
        priority.shares(&groups)
    }

    #[test]
    fn spills_as_in_envoys_table() {
        let by = Priority::by_metadata("priority");
        for (first, second, expected) in [
            (100.0, 100.0, [1.0, 0.0]),
            (72.0, 100.0, [1.0, 0.0]),
            (71.0, 100.0, [0.994, 0.006]),
            (50.0, 100.0, [0.7, 0.3]),
            (25.0, 100.0, [0.35, 0.65]),
            (0.0, 100.0, [0.0, 1.0]),
            (25.0, 25.0, [0.5, 0.5]),
            (5.0, 65.0, [0.07, 0.93]),
        ] {
            // The healths of the last row sum to 0.98, so each share is scaled up.
            let sum = if first == 5.0 { 0.98 } else { 1.0 };
            let expected = if first == 5.0 {
                [0.07 / sum, 0.91 / sum]
            } else {
                expected
            };
            let got = shares(&by, &[(first, 100), (second, 100)]);
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    (got - expected).abs() < 1e-9,
                    "{first} {second}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_group_with_fewer_than_expected_spills() {
        let by = Priority::by_metadata("priority")
            .expect(10)
            .overprovision(1.0);
        assert_eq!(shares(&by, &[(3.0, 3), (10.0, 10)]), [0.3, 0.7]);
        assert_eq!(shares(&by, &[(12.0, 12), (10.0, 10)]), [1.0, 0.0]);
    }

    #[test]
    fn tells_groups_by_what_is_known_of_an_endpoint() {
        let address = || "127.0.0.1:80".parse().unwrap();
        let instance = Instance::new("web", "1", address())
            .zone("b")
            .meta("priority", " 2 ");
        let key = Key::new("1", "ams/n1");
        let of = |priority: Priority| priority.of(&key, Some(&instance));
        assert_eq!(of(Priority::by_metadata("priority")), 2);
        assert_eq!(of(Priority::by_metadata("other")), LAST);
        assert_eq!(of(Priority::by_datacenter(["fra", "ams"])), 1);
        assert_eq!(of(Priority::by_datacenter(["fra"])), LAST);
        assert_eq!(of(Priority::by_zone(["b"])), 0);
        assert_eq!(of(Priority::by_fn(|_| 7)), 7);
        assert_eq!(of(Priority::by_fn(|_| panic!("a user's mistake"))), LAST);
        assert_eq!(
            Priority::by_datacenter(["ams"]).of(&key, None),
            0,
            "the key alone tells"
        );
        assert_eq!(Priority::by_fn(|_| 0).of(&key, None), LAST);
        for bad in ["-1", "", "4294967296", "1.5", "NaN"] {
            let instance = Instance::new("web", "1", address()).meta("priority", bad);
            assert_eq!(
                Priority::by_metadata("priority").of(&key, Some(&instance)),
                LAST
            );
        }
    }

    #[test]
    fn factors_below_one_are_refused() {
        for bad in [0.99, -1.0, f64::NAN, f64::INFINITY] {
            let priority = Priority::by_zone(["a"]).overprovision(bad);
            assert_eq!(
                priority.check().unwrap_err().field(),
                "priority.overprovision"
            );
        }
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_no_group_gets_more_than_its_health_if_that_suffices(
            groups in proptest::collection::vec((1_usize..50, 0.0..1.0_f64), 1..6),
            expect in 0_usize..20,
        ) {
            let groups: Vec<_> = groups
                .iter()
                .map(|(n, live)| ((*n as f64 * live).floor(), *n))
                .collect();
            prop_assume!(groups.iter().any(|(live, _)| *live > 0.0));
            let by = Priority::by_metadata("priority").expect(expect);
            let shares = shares(&by, &groups);
            let sum: f64 = shares.iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
            for (share, (live, _)) in shares.iter().zip(&groups) {
                prop_assert!(*share >= 0.0);
                prop_assert!(*live > 0.0 || *share == 0.0, "nobody there, {} of the traffic", share);
            }
        }
    }
}
