//! The rules that limit where traffic may go: zones, priorities, subsets, versions.
//!
//! A policy picks the best endpoint; a [`Topology`] limits the endpoints that the policy may pick from.
//! The rules come first: the version of a request and the zone in which traffic stays are chosen before
//! loads are compared.
//!
//! ```text
//!           rule             decided by               endpoints that remain
//! request ─ Subsets          its wish                 the ones with the wished metadata
//!         ─ Split            shares, or its key       the ones of one version
//!         ─ Priority         health of the groups     usually the near datacenter
//!         ─ ZonePreference   shares of the zones      usually the same zone
//!         ─ Subsetting       the client's name        a part of a large set
//!         ─ policy           load, weight, key        one
//! ```
//!
//! Each rule is optional; without rules, every endpoint is a candidate. The rules are evaluated when
//! something changes, not for each request. A request costs only one random number for each rule with
//! shares. What a request itself asks for is its [`Wish`], which a [`Route`] makes from the request.
//!
//! [`Topology::shares`] returns the resulting share of each instance of a list, without a balancer.

mod deterministic;
mod guard;
mod hash;
mod notice;
mod peers;
mod plan;
mod planner;
mod preview;
mod priority;
mod route;
mod rules;
mod shares;
mod split;
mod split_settings;
mod subset;
mod traits;
mod zone;

#[cfg(feature = "_hyper")]
pub use self::route::ByHeaders;
pub use self::{
    deterministic::Subsetting,
    guard::{Guard, Trip, TripCause},
    notice::Notice,
    peers::Peers,
    priority::Priority,
    route::{Route, Wish},
    rules::Topology,
    shares::Shares,
    split::{Split, Version},
    split_settings::SplitSettings,
    subset::{Otherwise, Subset, Subsets},
    zone::{Locality, ZonePreference},
};
pub(crate) use self::{
    plan::{LeafSet, Nowhere, Plan},
    planner::Planned,
    rules::Changes,
    traits::{RuledMember, Standing, Traits},
};
