//! Folds the replies of a registry into the instance set of a service, and computes the changes between
//! sets. Pure: without a runtime, a clock or a lock.
//!
//! ```text
//! Listing ──▶ fold ──▶ settle ──▶ InstanceSet ──▶ diff ──▶ Delta, Delta, …
//! (one reply)  sort, dedup,  empty guard,   (immutable,   (smallest, inserts
//!              reuse equals  removal grace   shared)       before removes)
//! ```
//!
//! A reply costs one sort and one merge with the set before it. Unchanged instances keep their `Arc`, so
//! comparing two sets mostly compares pointers. A reply without changes yields the same set.

mod by_address;
mod diff;
mod set;
mod settle;

pub(crate) use self::by_address::ByAddress;
pub use self::{
    diff::{Delta, diff},
    set::InstanceSet,
    settle::{EmptyGuard, Settle},
};

use std::{fmt, sync::Arc};

use crate::{
    instance::{Instance, Status},
    text::Escaped,
};

/// One complete reply of a registry about one service.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Every instance that could be parsed, in any order; records with equal keys are folded into one.
    /// Comparing is cheap if a backend returns the same `Arc` for an unchanged record.
    pub instances: Vec<Arc<Instance>>,
    /// Whether the service exists. An existing service may have no instances; that state differs from a
    /// service that the registry does not know.
    pub exists: bool,
    /// Why the list may be wrong, if the registry gave a sign of that. An empty list in doubt is held
    /// back, also if it is the first. Instances that are absent from a list in doubt are kept for 1.1 s; see [`EmptyGuard`].
    pub doubt: Option<String>,
    /// Records that were left out, the first 1,000 of them.
    pub rejected: Vec<Rejected>,
}

/// The number of notes kept about unusable records of one reply. Arbitrary: it is more than a person
/// reads. A reply may consist of such records only (three bytes make a record), and the notes must not
/// fill memory and logs.
pub(crate) const MOST_REJECTED: usize = 1_000;

/// Adds a note, unless there are [`MOST_REJECTED`] already.
pub(crate) fn reject(rejected: &mut Vec<Rejected>, note: impl FnOnce() -> Rejected) {
    if rejected.len() < MOST_REJECTED {
        rejected.push(note());
    }
}

/// A record of a registry that cannot be used, and why. The other records of the reply are still used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejected {
    /// The record: its id, or its position in the reply.
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
        let Self { record, reason } = self;
        write!(f, "record {record:?} left out: {}", Escaped(reason))
    }
}

/// Sorts a reply by key. Of several records with one key, the one with the best status stays.
///
/// Returns the instances that may get traffic, those that may not, and notes on the folded records.
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
