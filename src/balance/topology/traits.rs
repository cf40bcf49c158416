//! What the rules of a topology need to know of an endpoint.

use super::{hash, rules::Topology, split::Version, subset::Subset};
use crate::{
    balance::pick::hash::hash_id,
    instance::{Instance, Key},
};

/// The properties of an endpoint that planning uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuledMember<'a> {
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
    pub(super) key: u64,
    pub(super) zone: Option<u64>,
    pub(super) version: Version,
    /// The priority group.
    pub(super) group: u32,
    pub(super) subsets: Box<[Subset]>,
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
            key: hash_id(key),
            zone: zone.map(|name| hash::bytes(name.as_bytes())),
            version: version.map_or(Version::REST, |name| Version::new(&name)),
            group: priority.map_or(0, |priority| priority.of(key, instance)),
            subsets: names.unwrap_or_default(),
        }
    }
}
