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

use std::{collections::BTreeMap, sync::Arc};

use super::{
    hash,
    notice::Notice,
    peers::{Census, Peers},
    plan::{Choose, ChooseBy, LeafSet, Nowhere, Plan, SubsetPlan, usable},
    priority::PriorityGroup,
    rules::Topology,
    shares::Shares,
    split::{Split, Version},
    subset::{Otherwise, Subset, Subsets},
    traits::{RuledMember, Standing},
    zone::{Locality, Zone},
};

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
    pub(crate) fn plan(&self, members: &[RuledMember<'_>], panics: bool) -> Planned {
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

fn weigh(members: &[RuledMember<'_>]) -> Vec<f64> {
    let mut weights: Vec<f64> = members.iter().map(|member| usable(member.weight)).collect();
    if weights.iter().all(|weight| *weight == 0.0) {
        weights.fill(1.0);
    }
    weights
}

/// A plan that is being made. Sets hold indexes into `members` of endpoints with a weight.
struct Planner<'a> {
    topology: &'a Topology,
    members: &'a [RuledMember<'a>],
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
        let by = ChooseBy::Version {
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
        let sizes = groups.values().map(|set| PriorityGroup {
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
        Choose::between(ChooseBy::Chance, branches)
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
        Choose::between(ChooseBy::Chance, branches.collect())
    }

    fn end(&self, set: Vec<usize>) -> Plan {
        let set = match &self.topology.subsetting {
            Some(part) => part.choose(set, |i| self.members[i].traits.key, &self.census),
            None => set,
        };
        let index = |i: &mut usize| *i = self.members[*i].index;
        let mut set = if self.crisis {
            LeafSet::in_panic(set)
        } else {
            LeafSet::new(set, |i| self.members[i].standing == Standing::OnTrial)
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
mod tests;
