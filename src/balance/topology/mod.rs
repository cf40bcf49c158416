//! Where traffic may go: zones, priorities, subsets, versions.
//!
//! A policy picks the best endpoint; a [`Topology`] says among which it may pick. Both matter, and in this
//! order: which version a user sees, or in which zone the traffic stays, is decided before anybody looks
//! at load.
//!
//! ```text
//!           rule             decided by               what is left of the endpoints
//! request ─ Subsets          its wish                 those with the metadata it asks for
//!         ─ Split            shares, or its key       those of one version
//!         ─ Priority         health of the groups     the near datacenter, mostly
//!         ─ ZonePreference   shares of the zones      the same zone, mostly
//!         ─ Subsetting       the client's name        some of many
//!         ─ policy           load, weight, key        one
//! ```
//!
//! Each rule is optional; without any, everybody is a candidate. All are worked out when something changes,
//! not for each request, which costs what it takes to draw a number for each rule with shares. What a request
//! itself can say is its [`Wish`], which a [`Route`] makes of it.
//!
//! [`Topology::shares`] shows what the rules come to for a list of instances, without a balancer.

mod deterministic;
mod guard;
mod hash;
mod peers;
mod plan;
mod planner;
mod preview;
mod priority;
mod route;
mod rules;
mod split;
mod subset;
mod zone;

#[cfg(feature = "_hyper")]
pub use self::route::ByHeaders;
pub use self::{
    deterministic::Subsetting,
    guard::{Cause, Guard, Trip},
    peers::Peers,
    plan::Nowhere,
    planner::Notice,
    priority::Priority,
    route::{Route, Wish},
    rules::Topology,
    split::{Shares, Split, Version},
    subset::{Otherwise, Subset, Subsets},
    zone::{Locality, ZonePreference},
};
pub(crate) use self::{
    plan::{Plan, Set},
    planner::{Member, Planned, Standing, Traits},
    rules::Changes,
};
