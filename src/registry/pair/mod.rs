//! Two registries used as one: [`Merge`] for a migration, [`Failover`] for a second one in reserve.
//!
//! ```text
//! first  ──▶ Watch ──┐
//!                    ├──▶ combine: union, or the one in use; by address ──▶ Watch ──▶ View, with both parts
//! second ──▶ Watch ──┘
//! ```
//!
//! Each of the two is a whole [`Registry`] with its own settings: its last good set, its empty guard, its
//! removal grace and its staleness apply before the two are combined. So nothing here waits for one of
//! them or fails with it.

mod both;
mod combine;
mod failover;
mod follow;
mod merge;
mod reserve;
mod rule;
mod url;

pub(super) use self::url::of_url;
pub use self::{failover::Failover, merge::Merge};
