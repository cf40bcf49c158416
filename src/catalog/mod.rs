//! What follows from what a registry said: pure, without a runtime, a clock or a lock.
//!
//! ```text
//! Listing ──▶ fold ──▶ settle ──▶ InstanceSet ──▶ diff ──▶ Delta, Delta, …
//! (one reply)  sort, dedup,  empty guard,   (immutable,   (smallest, inserts
//!              reuse equals  removal grace   shared)       before removes)
//! ```
//!
//! A registry's reply costs one sort and one merge with the set known so far. Instances that did
//! not change keep their `Arc`, so that comparing two sets is mostly comparing pointers, and a reply
//! that says nothing new yields the very same set.

mod diff;
mod set;
mod settle;

pub use self::{
    diff::{Delta, diff},
    set::InstanceSet,
    settle::{EmptyGuard, Settle},
};

use std::{fmt, sync::Arc};

use crate::instance::{Instance, Status};

/// One complete reply of a registry about one service.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Every instance that could be understood, in any order; equal keys are folded. A backend that
    /// hands out the same `Arc` for the same record again makes comparing cheap.
    pub instances: Vec<Arc<Instance>>,
    /// Whether the service exists, apart from having instances. An empty list of an existing
    /// service is another state than a service that nobody knows.
    pub exists: bool,
    /// Why the list may be wrong, when the registry gave a sign of that. An empty list in doubt is
    /// held back, and what another one lacks is kept for a moment; see [`EmptyGuard`].
    pub doubt: Option<String>,
    /// Records that had to be left out; the first 1,000 are noted.
    pub rejected: Vec<Rejected>,
}

/// As many notes on unusable records are kept of one reply; arbitrary: more than anybody reads, and
/// few enough that a reply of nothing else (three bytes make a record) does not fill memory and logs.
const MOST_REJECTED: usize = 1_000;

/// Adds a note, unless there are enough.
pub(crate) fn reject(rejected: &mut Vec<Rejected>, note: impl FnOnce() -> Rejected) {
    if rejected.len() < MOST_REJECTED {
        rejected.push(note());
    }
}

/// A record of a registry that cannot be used, and why. It costs itself only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejected {
    /// The record: an id, or its place in the reply.
    pub record: Arc<str>,
    /// Why it was left out.
    pub reason: Arc<str>,
}

impl Rejected {
    /// Creates a note that `record` was left out for `reason`.
    pub fn new(record: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self {
            record: record.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {:?} left out: {}", self.record, self.reason)
    }
}

/// Sorts a reply by key and folds records of one key into the healthiest.
///
/// Returns the instances that may serve, those that may not, and notes on folded records.
fn fold(
    mut instances: Vec<Arc<Instance>>,
    passing_only: bool,
) -> (Vec<Arc<Instance>>, Vec<Arc<Instance>>, Vec<Rejected>) {
    let mut rejected = Vec::new();
    let rank = |status: Status| match status {
        Status::Passing => 0,
        Status::Warning => 1,
        Status::Maintenance => 2,
        Status::Critical => 3,
    };
    if !instances.is_sorted_by(|a, b| a.key < b.key) {
        instances.sort_by(|a, b| {
            a.key
                .cmp(&b.key)
                .then_with(|| rank(a.status).cmp(&rank(b.status)))
        });
        instances.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                reject(&mut rejected, || {
                    let (address, status) = (&kept.address, kept.status);
                    let reason = format!("listed more than once; kept {address} ({status})");
                    Rejected::new(later.key.to_string(), reason)
                });
            }
            same
        });
    }
    let serves = |instance: &Arc<Instance>| {
        instance.status.is_serving() && !(passing_only && instance.status == Status::Warning)
    };
    if instances.iter().all(serves) {
        return (instances, Vec::new(), rejected);
    }
    let (serving, withheld) = instances.into_iter().partition(serves);
    (serving, withheld, rejected)
}
