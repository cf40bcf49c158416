//! Makes a [`Plan`] from endpoints and rules.
//!
//! The driver plans on its own task when an endpoint comes, goes, changes or is ejected, or when a
//! setting changes. The properties of each instance that the rules use are computed before ([`Traits`]),
//! so planning is arithmetic on numbers. Endpoints of weight 0 are left out, unless all have weight 0;
//! then each counts as weight 1. Ejected endpoints are left out. When no endpoint is left, the rules
//! decide (another version, group, zone or subset). When that leaves none either, all endpoints are used
//! as if they were not ejected, if [`Topology::panic`] permits. Panic mode does not use endpoints that
//! were ejected by hand, and never crosses [`Locality::Strict`] or [`Otherwise::Fail`].
//!
//! An endpoint on trial is in the plan, so that a request tries it, but counts as ejected when the rules
//! check whether an endpoint is left. Planning takes O(n) without subsets and ranks, and O(n log n)
//! otherwise.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    deterministic::hash_key,
    hash,
    peers::{Census, Peers},
    plan::{By, Choose, Nowhere, Plan, Set, SubsetPlan, usable},
    priority::Group,
    rules::Topology,
    split::{Shares, Split, Version},
    subset::{Otherwise, Subset, Subsets},
    zone::{Locality, Zone},
};
use crate::instance::{Instance, Key};

/// The properties of an endpoint that planning uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    /// The index in the driver's list, which the leaves contain.
    pub(crate) index: usize,
    pub(crate) traits: &'a Traits,
    /// The share relative to other endpoints; 0 drains the endpoint.
    pub(crate) weight: f64,
    pub(crate) standing: Standing,
}

/// The requests that an endpoint may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All requests.
    In,
    /// The endpoint is ejected, and one request may try it.
    OnTrial,
    /// The endpoint is ejected.
    Out,
    /// The endpoint is ejected by hand. It gets no request, also not in panic mode.
    Held,
}

/// The properties of an instance that the rules of one topology use, as numbers. They are computed when
/// the instance changes, not for each plan: reading the texts of all instances would take most of the
/// time of planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traits {
    key: u64,
    zone: Option<u64>,
    version: Version,
    /// The priority group.
    group: u32,
    subsets: Box<[Subset]>,
}

impl Traits {
    /// The traits of an endpoint in a topology without rules.
    pub(crate) fn none() -> Self {
        Self {
            key: 0,
            zone: None,
            version: Version::REST,
            group: 0,
            subsets: Box::default(),
        }
    }
}

impl Topology {
    /// The traits of an endpoint. `None` stands for an endpoint of a foreign discovery, which is in no
    /// zone, version or subset.
    pub(crate) fn traits(&self, key: &Key, instance: Option<&Instance>) -> Traits {
        let zone = instance.and_then(|instance| instance.zone.as_deref());
        let zone = zone.filter(|name| !name.is_empty());
        let split = self.split.as_ref();
        let version = split.and_then(|split| split.version(instance?));
        let priority = self.priority.as_ref();
        let names = self.subsets.as_ref().zip(instance);
        let names = names.map(|(subsets, instance)| subsets.of(instance).collect());
        Traits {
            key: hash_key(key),
            zone: zone.map(|name| hash::bytes(name.as_bytes())),
            version: version.map_or(Version::REST, |name| Version::new(&name)),
            group: priority.map_or(0, |priority| priority.of(key, instance)),
            subsets: names.unwrap_or_default(),
        }
    }
}

/// A condition of the current plan that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// A version has a share but no available endpoint. The other versions get its share.
    NoVersion {
        /// The version; `None` for all versions that the shares do not name.
        version: Option<Arc<str>>,
    },
    /// The default subset has no endpoint, so requests whose own subset is missing fail.
    NoSubset,
    /// The caller's own zone has no available endpoint.
    NoLocal {
        /// The caller's zone.
        zone: Arc<str>,
    },
    /// Every endpoint is ejected, and all are used anyway; see
    /// [`Topology::panic`](super::Topology::panic).
    Panic,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVersion {
                version: Some(version),
            } => {
                write!(
                    f,
                    "version {version:?} has a share and no available endpoint"
                )
            }
            Self::NoVersion { version: None } => {
                f.write_str("the rest has a share and no available endpoint")
            }
            Self::NoSubset => f.write_str("the default subset has no endpoint"),
            Self::NoLocal { zone } => write!(f, "zone {zone:?} has no available endpoint"),
            Self::Panic => f.write_str("every endpoint is ejected, so all are used"),
        }
    }
}

/// A plan with its notices.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// The notices about the whole set, not about single subsets. A notice stays equal while its
    /// condition lasts, so the driver reports the notices that the previous plan did not have.
    pub(crate) notices: Vec<Notice>,
}

impl Topology {
    /// Makes the plan. It is pure: equal members and settings give the same plan. `panics` is whether
    /// ejected endpoints are used when there are no others.
    pub(crate) fn plan(&self, members: &[Member<'_>], panics: bool) -> Planned {
        let shares = self.split.as_ref().map(Split::shares);
        let mut planner = Planner {
            topology: self,
            members,
            weights: weigh(members),
            shares: shares.as_ref(),
            census: self.peers.as_ref().map(Peers::census).unwrap_or_default(),
            panics,
            crisis: false,
            whole: true,
            notices: Vec::new(),
        };
        let plan = planner.all();
        Planned {
            plan,
            notices: planner.notices,
        }
    }
}

fn weigh(members: &[Member<'_>]) -> Vec<f64> {
    let mut weights: Vec<f64> = members.iter().map(|member| usable(member.weight)).collect();
    if weights.iter().all(|weight| *weight == 0.0) {
        weights.fill(1.0);
    }
    weights
}

/// A plan that is being made. Sets hold indexes into `members` of endpoints with a weight.
struct Planner<'a> {
    topology: &'a Topology,
    members: &'a [Member<'a>],
    weights: Vec<f64>,
    shares: Option<&'a Shares>,
    census: Census,
    /// Whether ejected endpoints are used when there are no others.
    panics: bool,
    /// Whether ejected endpoints are used for the set that is being planned.
    crisis: bool,
    /// Whether all endpoints are being planned, and not a subset.
    whole: bool,
    notices: Vec<Notice>,
}

impl<'a> Planner<'a> {
    fn all(&mut self) -> Plan {
        if self.members.is_empty() {
            return Plan::Nowhere(Nowhere::Empty);
        }
        let serving = (0..self.members.len()).filter(|i| self.weights[*i] > 0.0);
        let mut serving: Vec<usize> = serving.collect();
        if let Some(zone) = self.topology.zone.as_ref() {
            let mine = Some(zone.id());
            let local = serving.iter().copied();
            let local: Vec<usize> = local
                .filter(|i| self.members[*i].traits.zone == mine)
                .collect();
            if !self.serves(&local) {
                let zone = Arc::clone(&zone.zone);
                self.notice(Notice::NoLocal { zone });
            }
            if zone.locality == Locality::Strict {
                serving = local;
                if serving.is_empty() {
                    return Plan::Nowhere(Nowhere::Zone);
                }
            }
        }
        match &self.topology.subsets {
            Some(subsets) => self.subsets(&serving, subsets),
            None => self.group(&serving),
        }
    }

    fn subsets(&mut self, serving: &[usize], subsets: &Subsets) -> Plan {
        let mut plans = vec![self.group(serving)];
        self.whole = false;
        let named = serving.iter().flat_map(|i| {
            let names = self.members[*i].traits.subsets.iter();
            names.map(|name| (*name, *i))
        });
        let mut named: Vec<(Subset, usize)> = named.collect();
        named.sort_unstable();
        // Two selectors may have the same names in another order.
        named.dedup();
        let (mut table, mut on_trial) = (Vec::new(), Vec::new());
        for subset in named.chunk_by(|a, b| a.0 == b.0) {
            let name = subset[0].0;
            let set: Vec<usize> = subset.iter().map(|(_, i)| *i).collect();
            let last_resort = match subsets.otherwise {
                Otherwise::Any => false,
                Otherwise::Subset(default) => name == default,
                Otherwise::Fail => true,
            };
            // A subset without an available endpoint counts as missing when requests may go elsewhere.
            let plan = if self.serves(&set) || last_resort && self.panics {
                self.group(&set)
            } else if self.live(&set).next().is_some() {
                on_trial.push(plans.len());
                self.versions(&set)
            } else {
                continue;
            };
            table.push((name, plans.len()));
            plans.push(plan);
        }
        let default = match subsets.otherwise {
            Otherwise::Any => Some(0),
            Otherwise::Fail => None,
            Otherwise::Subset(name) => {
                let found = table.binary_search_by_key(&name, |(name, _)| *name);
                if found.is_err() {
                    self.notices.push(Notice::NoSubset);
                }
                found.ok().map(|i| table[i].1)
            }
        };
        let missing = default.unwrap_or_else(|| {
            plans.push(Plan::Nowhere(Nowhere::Subset));
            plans.len() - 1
        });
        Plan::Subsets(SubsetPlan {
            plans,
            table,
            missing,
            on_trial,
        })
    }

    /// Makes the plan of a set that requests must not leave.
    fn group(&mut self, set: &[usize]) -> Plan {
        self.crisis = self.panics && !self.serves(set);
        let plan = if self.live(set).next().is_none() {
            Plan::Nowhere(Nowhere::Ejected)
        } else {
            if self.crisis {
                self.notice(Notice::Panic);
            }
            self.versions(set)
        };
        self.crisis = false;
        plan
    }

    fn versions(&mut self, set: &[usize]) -> Plan {
        let (Some(split), Some(shares)) = (&self.topology.split, self.shares) else {
            return self.priorities(set);
        };
        let names = shares.iter().map(|(name, _)| Version::new(name));
        let places: hash::Map<Version, usize> = names.zip(0..).collect();
        let mut groups = vec![Vec::new(); places.len() + 1];
        for i in set {
            let place = places.get(&self.members[*i].traits.version);
            groups[place.copied().unwrap_or(places.len())].push(*i);
        }
        let named = shares.iter().map(|(name, share)| (Some(name), share));
        let rest = (None, shares.share_of_rest());
        let mut branches = Vec::new();
        for ((name, share), group) in named.chain([rest]).zip(&groups) {
            let live: f64 = self.live(group).map(|i| self.weights[i]).sum();
            if live > 0.0 {
                let version = name.map_or(Version::REST, Version::new);
                branches.push((share, live, version.id(), self.priorities(group)));
            }
            if share > 0.0 && !self.serves(group) {
                let version = name.map(Into::into);
                self.notice(Notice::NoVersion { version });
            }
        }
        if branches.iter().all(|(share, ..)| *share == 0.0) {
            if self.topology.panic == Some(false) {
                return Plan::Nowhere(Nowhere::Version);
            }
            // No version with a share has an endpoint, so the versions without a share serve, in
            // proportion to their weight.
            for (share, live, ..) in &mut branches {
                *share = *live;
            }
        }
        let by = By::Version {
            sticky: split.is_sticky(),
        };
        let branches = branches.into_iter();
        let branches = branches.map(|(share, _, version, plan)| (share, version, plan));
        Choose::between(by, branches.collect())
    }

    fn priorities(&mut self, set: &[usize]) -> Plan {
        let Some(priority) = &self.topology.priority else {
            let live = self.live(set).collect();
            return self.zones(live);
        };
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for i in set {
            let group = self.members[*i].traits.group;
            groups.entry(group).or_default().push(*i);
        }
        let sizes = groups.values().map(|set| Group {
            weight: set.iter().map(|i| self.weights[*i]).sum(),
            available: self.live(set).map(|i| self.weights[i]).sum(),
            endpoints: set.len(),
        });
        let shares = priority.shares(&sizes.collect::<Vec<_>>());
        let mut branches = Vec::new();
        for (set, share) in groups.values().zip(shares) {
            let live: Vec<usize> = self.live(set).collect();
            if !live.is_empty() {
                branches.push((share, 0, self.zones(live)));
            }
        }
        Choose::between(By::Chance, branches)
    }

    fn zones(&mut self, live: Vec<usize>) -> Plan {
        let Some(zone) = self.topology.zone.as_ref() else {
            return self.end(live);
        };
        let mut places = hash::Map::default();
        let mut sets: Vec<(Zone, Vec<usize>)> = Vec::new();
        for i in live.iter().copied() {
            let id = self.members[i].traits.zone;
            let place = *places.entry(id).or_insert_with(|| {
                let empty = Zone {
                    id,
                    weight: 0.0,
                    endpoints: 0,
                };
                sets.push((empty, Vec::new()));
                sets.len() - 1
            });
            let (zone, set) = &mut sets[place];
            zone.weight += self.weights[i];
            zone.endpoints += 1;
            set.push(i);
        }
        let zones: Vec<_> = sets.iter().map(|(zone, _)| *zone).collect();
        let Some(shares) = zone.shares(&zones, &self.census) else {
            return self.end(live);
        };
        let branches = sets.into_iter().zip(shares);
        let branches = branches.map(|((_, set), share)| (share, 0, self.end(set)));
        Choose::between(By::Chance, branches.collect())
    }

    fn end(&self, set: Vec<usize>) -> Plan {
        let set = match &self.topology.subsetting {
            Some(part) => part.choose(set, |i| self.members[i].traits.key, &self.census),
            None => set,
        };
        let index = |i: &mut usize| *i = self.members[*i].index;
        let mut set = if self.crisis {
            Set::in_panic(set)
        } else {
            Set::new(set, |i| self.members[i].standing == Standing::OnTrial)
        };
        set.places.iter_mut().for_each(index);
        Plan::Leaf(set)
    }

    /// Whether at least one endpoint of a set takes all requests.
    fn serves(&self, set: &[usize]) -> bool {
        let mut set = set.iter().map(|i| self.members[*i].standing);
        set.any(|standing| match standing {
            Standing::In => true,
            Standing::OnTrial | Standing::Out => self.crisis,
            Standing::Held => false,
        })
    }

    /// The endpoints of a set that the plan includes.
    fn live<'b>(&'b self, set: &'b [usize]) -> impl Iterator<Item = usize> + 'b {
        let is_live = |i: &usize| match self.members[*i].standing {
            Standing::In | Standing::OnTrial => true,
            Standing::Out => self.crisis,
            Standing::Held => false,
        };
        set.iter().copied().filter(is_live)
    }

    fn notice(&mut self, notice: Notice) {
        if self.whole {
            self.notices.push(notice);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::balance::topology::{Priority, Subsetting, Wish, ZonePreference};

    /// An endpoint, as the driver knows it.
    #[derive(Clone, Debug)]
    struct Known {
        index: usize,
        key: Key,
        instance: Option<Arc<Instance>>,
        weight: f64,
        standing: Standing,
    }

    fn traits(topology: &Topology, known: &[Known]) -> Vec<Traits> {
        let known = known.iter();
        known
            .map(|known| topology.traits(&known.key, known.instance.as_deref()))
            .collect()
    }

    fn plan_with(topology: &Topology, known: &[Known], traits: &[Traits]) -> Planned {
        let members = known.iter().zip(traits);
        let members = members.map(|(known, traits)| Member {
            index: known.index,
            traits,
            weight: known.weight,
            standing: known.standing,
        });
        let panics = topology.panics(false);
        topology.plan(&members.collect::<Vec<_>>(), panics)
    }

    fn plan(topology: &Topology, known: &[Known]) -> Planned {
        plan_with(topology, known, &traits(topology, known))
    }

    fn member(index: usize, edit: impl FnOnce(Instance) -> Instance) -> Known {
        let address = "127.0.0.1:80".parse().unwrap();
        let instance = edit(Instance::new("web", index.to_string(), address));
        Known {
            index,
            key: instance.key.clone(),
            weight: instance.weight.get().into(),
            standing: Standing::In,
            instance: Some(Arc::new(instance)),
        }
    }

    fn plain(n: usize) -> Vec<Known> {
        (0..n).map(|i| member(i, |instance| instance)).collect()
    }

    fn of_versions(versions: &[&str]) -> Vec<Known> {
        let members = versions.iter().enumerate();
        let members =
            members.map(|(i, name)| member(i, |instance| instance.meta("version", *name)));
        members.collect()
    }

    fn leaf(planned: &Planned) -> &[usize] {
        match &planned.plan {
            Plan::Leaf(set) => &set.places,
            other => panic!("no leaf: {other:?}"),
        }
    }

    fn shares(topology: &Topology, members: &[Known], wish: Wish) -> Vec<f64> {
        let weights: Vec<f64> = members.iter().map(|member| member.weight).collect();
        let shares = plan(topology, members).plan.shares(&wish, &weights);
        // Rounded to a millionth, so that tests can state exact numbers.
        shares
            .iter()
            .map(|share| (share * 1e6).round() / 1e6)
            .collect()
    }

    fn split(shares: Shares) -> Topology {
        Topology::new().split(Split::new(shares).unwrap())
    }

    #[test]
    fn everybody_with_a_weight_who_is_available_is_one_leaf() {
        let mut members = plain(6);
        members[1].weight = 0.0;
        members[2].standing = Standing::Out;
        members[3].weight = f64::NAN;
        members[4].weight = -1.0;
        let planned = plan(&Topology::new(), &members);
        assert_eq!(leaf(&planned), [0, 3, 5]);
        assert!(planned.notices.is_empty());
        for member in &mut members {
            member.weight = 0.0;
        }
        assert_eq!(
            leaf(&plan(&Topology::new(), &members)),
            [0, 1, 3, 4, 5],
            "all of weight 0 count as 1"
        );
        // The leaves hold the driver's indexes, in any order.
        members.reverse();
        members.truncate(2);
        assert_eq!(leaf(&plan(&Topology::new(), &members)), [5, 4]);
    }

    #[test]
    fn nobody_available_is_a_panic_or_an_error() {
        let mut members = plain(3);
        for member in &mut members {
            member.standing = Standing::Out;
        }
        members[2].weight = 0.0;
        let panic = plan(&Topology::new(), &members);
        assert_eq!(leaf(&panic), [0, 1], "drained stays drained");
        assert_eq!(panic.notices, [Notice::Panic]);
        let refuse = plan(&Topology::new().panic(false), &members);
        assert!(matches!(refuse.plan, Plan::Nowhere(Nowhere::Ejected)));
        let empty = plan(&Topology::new(), &[]);
        assert!(matches!(empty.plan, Plan::Nowhere(Nowhere::Empty)));
    }

    #[test]
    fn versions_get_their_shares_whatever_they_weigh() {
        let members = of_versions(&["v1", "v1", "v1", "v2"]);
        let topology = split(Shares::new().version("v1", 75.0).version("v2", 25.0));
        assert_eq!(
            shares(&topology, &members, Wish::new()),
            [0.25, 0.25, 0.25, 0.25]
        );
        let canary = split(Shares::canary("v2", 0.01));
        assert_eq!(
            shares(&canary, &members, Wish::new()),
            [0.33, 0.33, 0.33, 0.01]
        );
        let wish = Wish::new().version(Version::new("v2"));
        assert_eq!(shares(&canary, &members, wish), [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn the_share_of_a_version_without_endpoints_goes_to_the_others() {
        let mut members = of_versions(&["v1", "v1", "v2", "v3", ""]);
        members[2].standing = Standing::Out;
        let topology = split(
            Shares::new()
                .version("v1", 0.6)
                .version("v2", 0.2)
                .version("v3", 0.2),
        );
        assert_eq!(
            shares(&topology, &members, Wish::new()),
            [0.375, 0.375, 0.0, 0.25, 0.0],
            "in proportion, and nothing to those without a share"
        );
        let notices = plan(&topology, &members).notices;
        let v2 = Notice::NoVersion {
            version: Some("v2".into()),
        };
        assert_eq!(notices, [v2]);
    }

    #[test]
    fn unlisted_versions_share_the_rest_and_serve_alone_in_need() {
        let mut members = of_versions(&["v1", "v7", ""]);
        let topology = split(Shares::new().version("v1", 0.8).rest(0.2));
        assert_eq!(shares(&topology, &members, Wish::new()), [0.8, 0.1, 0.1]);
        let only_v1 = split(Shares::new().version("v1", 1.0));
        assert_eq!(shares(&only_v1, &members, Wish::new()), [1.0, 0.0, 0.0]);
        members[0].standing = Standing::Out;
        assert_eq!(shares(&only_v1, &members, Wish::new()), [0.0, 0.5, 0.5]);
        let strict = plan(&only_v1.panic(false), &members).plan;
        assert!(matches!(strict, Plan::Nowhere(Nowhere::Version)));
    }

    fn of_stages() -> Vec<Known> {
        ["prod", "prod", "beta", "gone", ""]
            .into_iter()
            .enumerate()
            .map(|(i, stage)| {
                let mut member = member(i, |instance| instance.meta("stage", stage));
                if stage == "gone" {
                    member.standing = Standing::Out;
                }
                member
            })
            .collect()
    }

    #[test]
    fn a_missing_subset_follows_its_rule() {
        let members = of_stages();
        let ask = |otherwise, stage| {
            let subsets = Subsets::by(["stage"]).otherwise(otherwise);
            let topology = Topology::new().subsets(subsets);
            let wish = Wish::new().subset(Subset::new("stage", stage));
            shares(&topology, &members, wish)
        };
        let beta = Otherwise::Subset(Subset::new("stage", "beta"));
        for otherwise in [Otherwise::Any, Otherwise::Fail, beta] {
            assert_eq!(ask(otherwise, "prod"), [0.5, 0.5, 0.0, 0.0, 0.0]);
        }
        for stage in ["gone", "unknown", ""] {
            assert_eq!(ask(Otherwise::Any, stage), [0.25, 0.25, 0.25, 0.0, 0.25]);
            assert_eq!(ask(beta, stage), [0.0, 0.0, 1.0, 0.0, 0.0]);
        }
        assert_eq!(ask(Otherwise::Fail, "unknown"), [0.0; 5]);
        assert_eq!(
            ask(Otherwise::Fail, "gone"),
            [0.0, 0.0, 0.0, 1.0, 0.0],
            "ejected, and the last resort of those who may go nowhere else"
        );
    }

    #[test]
    fn subsets_that_may_not_be_left_fail_without_panic() {
        let members = of_stages();
        let reason = |otherwise, stage| {
            let subsets = Subsets::by(["stage"]).otherwise(otherwise);
            let planned = plan(&Topology::new().subsets(subsets).panic(false), &members);
            let wish = Wish::new().subset(Subset::new("stage", stage));
            let mut rng = crate::rng::small_rng(Some(1));
            (
                planned.plan.leaf(&wish, &mut rng).err(),
                planned.notices.clone(),
            )
        };
        assert_eq!(
            reason(Otherwise::Fail, "gone"),
            (Some(Nowhere::Subset), vec![])
        );
        let gone = Otherwise::Subset(Subset::new("stage", "gone"));
        assert_eq!(
            reason(gone, "unknown"),
            (Some(Nowhere::Subset), vec![Notice::NoSubset])
        );
        assert_eq!(reason(gone, "prod").0, None);
    }

    #[test]
    fn selectors_in_any_order_name_the_same_subset_once() {
        let members = vec![
            member(0, |i| i.meta("stage", "prod").meta("model", "large")),
            member(1, |i| i.meta("stage", "prod")),
        ];
        let topology = Topology::new().subsets(
            Subsets::by(["stage", "model"])
                .and_by(["model", "stage"])
                .and_by(["stage"]),
        );
        let wish = Wish::new().subset(Subset::new("model", "large").and("stage", "prod"));
        assert_eq!(shares(&topology, &members, wish), [1.0, 0.0]);
        let stage = Wish::new().subset(Subset::new("stage", "prod"));
        assert_eq!(shares(&topology, &members, stage), [0.5, 0.5]);
    }

    fn of_zones(zones: &[&str]) -> Vec<Known> {
        let members = zones.iter().enumerate();
        let members = members.map(|(i, zone)| member(i, |instance| instance.zone(*zone)));
        members.collect()
    }

    #[test]
    fn zones_are_weighed_and_one_without_a_name_is_none() {
        let mut members = of_zones(&["a", "a", "b", "b", "b", ""]);
        let topology = Topology::new().zone(ZonePreference::new("a"));
        // Each of the two zones has half of the callers. Zone a has a third of the endpoints, zone b
        // half, and a sixth has no zone.
        assert_eq!(
            shares(&topology, &members, Wish::new()),
            [0.333333, 0.333333, 0.0, 0.0, 0.0, 0.333333]
        );
        members[0].weight = 2.0;
        assert_eq!(
            shares(&topology, &members, Wish::new())[..2],
            [0.571429, 0.285714],
            "3 of 7 is 6/7 of a half"
        );
        members[0].standing = Standing::Out;
        assert_eq!(
            shares(&topology, &members, Wish::new()),
            [0.0, 0.2, 0.2, 0.2, 0.2, 0.2],
            "five are too few to prefer any"
        );
        let without = plan(&Topology::new().zone(ZonePreference::new("x")), &members);
        assert_eq!(without.notices, [Notice::NoLocal { zone: "x".into() }]);
    }

    #[test]
    fn strict_never_leaves_the_zone() {
        let mut members = of_zones(&["a", "b", "b"]);
        let strict =
            |zone| Topology::new().zone(ZonePreference::new(zone).locality(Locality::Strict));
        assert_eq!(shares(&strict("a"), &members, Wish::new()), [1.0, 0.0, 0.0]);
        members[0].standing = Standing::Out;
        assert_eq!(
            shares(&strict("a"), &members, Wish::new()),
            [1.0, 0.0, 0.0],
            "ejected, but the only one"
        );
        let ejected = plan(&strict("a").panic(false), &members).plan;
        assert!(matches!(ejected, Plan::Nowhere(Nowhere::Ejected)));
        let nobody = plan(&strict("c"), &members).plan;
        assert!(matches!(nobody, Plan::Nowhere(Nowhere::Zone)));
    }

    #[test]
    fn other_zones_are_in_reserve() {
        let members = of_zones(&["a", "a", "a", "b", "b", "b"]);
        let plan = plan(&Topology::new().zone(ZonePreference::new("a")), &members).plan;
        let other = plan.find(&Wish::new(), &mut |set| set.places.contains(&4));
        assert_eq!(other.unwrap().places, [3, 4, 5]);
    }

    #[test]
    fn a_failing_group_spills_into_the_next() {
        let mut members: Vec<_> = (0..20)
            .map(|i| {
                member(i, |instance| {
                    instance.meta("priority", (i / 10).to_string())
                })
            })
            .collect();
        let topology = Topology::new().priority(Priority::by_metadata("priority"));
        assert_eq!(shares(&topology, &members, Wish::new())[10..], [0.0; 10]);
        for member in &mut members[..5] {
            member.standing = Standing::Out;
        }
        let spilt = shares(&topology, &members, Wish::new());
        assert_eq!(spilt[5], 0.14, "70 % on five");
        assert_eq!(spilt[10], 0.03, "30 % on ten");
        for member in &mut members[..10] {
            member.standing = Standing::Out;
        }
        assert_eq!(shares(&topology, &members, Wish::new())[10], 0.1);
        for member in &mut members {
            member.standing = Standing::Out;
        }
        assert_eq!(
            shares(&topology, &members, Wish::new())[0],
            0.1,
            "in panic as if all were well: the first group"
        );
    }

    #[test]
    fn endpoints_of_a_foreign_discovery_take_part_where_nothing_is_asked() {
        let mut members = plain(2);
        for member in &mut members {
            member.instance = None;
        }
        let topology = split(Shares::canary("v2", 0.1))
            .zone(ZonePreference::new("a"))
            .priority(Priority::by_zone(["a"]))
            .subsets(Subsets::by(["stage"]));
        assert_eq!(shares(&topology, &members, Wish::new()), [0.5, 0.5]);
    }

    fn any_member() -> impl Strategy<Value = Known> {
        let weight = prop_oneof![Just(0.0), Just(1.0), Just(5.0), Just(f64::NAN)];
        let standing = prop_oneof![
            2 => Just(Standing::In),
            1 => Just(Standing::OnTrial),
            2 => Just(Standing::Out),
            1 => Just(Standing::Held),
        ];
        (0..4_usize, 0..4_usize, 0..4_usize, weight, standing).prop_map(
            |(zone, version, stage, weight, standing)| {
                let name = |i: usize| ["", "a", "b", "c"][i];
                let mut member = member(0, |instance| {
                    instance
                        .zone(name(zone))
                        .meta("version", name(version))
                        .meta("stage", name(stage))
                });
                (member.weight, member.standing) = (weight, standing);
                member
            },
        )
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_spare_the_drained_and_the_ejected(
            mut members in proptest::collection::vec(any_member(), 1..30),
            rules in proptest::bits::u8::ANY,
            stage in 0..4_usize,
        ) {
            for (i, member) in members.iter_mut().enumerate() {
                member.index = i;
                member.key = Key::new(i.to_string(), "");
            }
            let rule = |i: u8| rules & (1 << i) != 0;
            let mut topology = Topology::new().panic(rule(0));
            if rule(1) {
                topology = topology.zone(ZonePreference::new("a").min_endpoints(0));
            }
            if rule(2) {
                topology = topology.priority(Priority::by_zone(["b", "a"]));
            }
            if rule(3) {
                let shares = Shares::new().version("a", 1.0).version("b", 2.0).rest(0.5);
                topology = topology.split(Split::new(shares).unwrap().sticky(true));
            }
            if rule(4) {
                topology = topology.subsets(Subsets::by(["stage"]));
            }
            if rule(5) {
                topology = topology.subsetting(Subsetting::new(NonZeroUsize::new(2).unwrap()));
            }
            let mut wish = Wish::new().subset(Subset::new("stage", ["", "a", "b", "c"][stage]));
            if rule(6) {
                wish = wish.key("user");
            }
            let weights: Vec<f64> = members.iter().map(|member| member.weight).collect();
            let planned = plan(&topology, &members);
            let shares = planned.plan.shares(&wish, &weights);
            let sum: f64 = shares.iter().sum();
            let drained = members.iter().any(|member| member.weight != 0.0);
            let weighs = |member: &Known| member.weight != 0.0 || !drained;
            let someone = members.iter().any(|m| weighs(m) && m.standing == Standing::In);
            let panics = rule(0) && !someone;
            let may = |member: &Known| weighs(member) && match member.standing {
                Standing::In | Standing::OnTrial => true,
                Standing::Out => panics,
                Standing::Held => false,
            };
            if members.iter().any(may) {
                prop_assert!((sum - 1.0).abs() < 1e-9, "{} of {:?}", sum, planned);
            } else {
                prop_assert_eq!(sum, 0.0);
            }
            for (member, share) in members.iter().zip(&shares) {
                prop_assert!(may(member) || *share == 0.0, "{:?} gets {}", member, share);
            }
            prop_assert_eq!(
                planned.notices.contains(&Notice::Panic),
                panics && members.iter().any(may)
            );
            planned.plan.each_leaf(&mut |set| {
                let standing = set.places.iter().map(|i| members[*i].standing);
                let picked = standing.take(set.candidates);
                let are_in = picked.filter(|standing| *standing == Standing::In).count();
                assert_eq!(are_in, if set.panic { 0 } else { set.candidates }, "{set:?}");
            });
        }
    }
}
