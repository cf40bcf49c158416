//! The data that one request uses: a slot with the snapshot, the state of its endpoint, and its guard.

pub(super) mod core;
pub(super) mod hash;
pub(super) mod home;
pub(super) mod request_guard;
pub(super) mod slots;
pub(super) mod snapshot;
pub(super) mod state;
pub(super) mod version_tally;
