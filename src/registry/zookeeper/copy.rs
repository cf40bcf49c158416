//! A copy of the nodes of one service. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{listen::Changes, wire::Stat};
use crate::{
    catalog::{Listing, Rejected, reject},
    instance::Instance,
    registry::{Query, record::RecordFormat, text::excerpt},
};

/// How long a node that is gone is kept, until another list shows that it stays away (ZD16, ZD25). Curator
/// deletes and creates its node after each lost connection, in two transactions. Arbitrary: many times the
/// time between the two, and short beside the time that requests take to drain.
const GONE_AFTER: Duration = Duration::from_millis(150);

/// The instances of one service, by the names of their nodes.
#[derive(Debug)]
pub(super) struct Copy {
    query: Query,
    format: RecordFormat,
    entries: BTreeMap<Box<str>, Entry>,
    /// Whether the node of the service exists.
    exists: bool,
}

pub(super) type Record = Result<Arc<Instance>, Arc<str>>;

#[derive(Debug)]
struct Entry {
    record: Record,
    /// When the node was first seen to be gone.
    gone: Option<Instant>,
}

impl Copy {
    pub(super) fn new(query: Query, format: RecordFormat) -> Self {
        Self {
            query,
            format,
            entries: BTreeMap::new(),
            exists: false,
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|name| &**name)
    }

    /// Returns the nodes of a list that must be read: the new ones, those that may have changed, and
    /// those that were gone, because their watches ended.
    pub(super) fn unread(&self, names: &BTreeSet<Box<str>>, changes: &Changes) -> Vec<Box<str>> {
        let must = names.iter().filter(|name| {
            let known = self.entries.get(*name);
            known.is_none_or(|entry| entry.gone.is_some()) || changes.children.contains(*name)
        });
        must.cloned().collect()
    }

    /// Returns the nodes that may have changed, without a list.
    pub(super) fn changed(&self, changes: &Changes) -> Vec<Box<str>> {
        let changed = changes.children.iter();
        let known = changed.filter(|name| self.entries.contains_key(*name));
        known.cloned().collect()
    }

    /// Reads a node, also one that cannot be used: that costs itself only (ZD7).
    pub(super) fn record(&self, name: &str, data: &[u8], stat: &Stat) -> Record {
        let decoded = self.format.decode(self.query.service(), name, data);
        let mut instance = decoded.map_err(|error| Arc::<str>::from(error.to_string()))?;
        // ZD5: a new node is a new process, perhaps; the id says which instance it is.
        instance.generation = u64::try_from(stat.czxid).unwrap_or_default();
        Ok(Arc::new(instance))
    }

    /// Takes what was read: a list, if one was read, and nodes, of which some may be gone since (ZD6).
    /// Returns whether anything changed that a listing shows.
    pub(super) fn apply(
        &mut self,
        list: Option<Option<BTreeSet<Box<str>>>>,
        read: Vec<(Box<str>, Option<Record>)>,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        for (name, record) in read {
            match (record, self.entries.get_mut(&name)) {
                (Some(record), Some(entry)) => {
                    // An unchanged instance keeps its `Arc`, so that comparing sets is cheap.
                    if entry.record != record {
                        entry.record = record;
                        changed = true;
                    }
                    entry.gone = None;
                }
                (Some(record), None) => {
                    let entry = Entry { record, gone: None };
                    self.entries.insert(name, entry);
                    changed = true;
                }
                (None, Some(entry)) => drop(entry.gone.get_or_insert(now)),
                (None, None) => {}
            }
        }
        if let Some(names) = list {
            changed |= self.exists != names.is_some();
            self.exists = names.is_some();
            let names = names.unwrap_or_default();
            for (name, entry) in &mut self.entries {
                if !names.contains(name) {
                    entry.gone.get_or_insert(now);
                }
            }
        }
        changed
    }

    /// Returns when another list must show whether nodes that are gone stay away.
    pub(super) fn look_again(&self) -> Option<Instant> {
        let gone = self.entries.values().filter_map(|entry| entry.gone).min();
        gone.map(|at| at + GONE_AFTER)
    }

    /// Removes the nodes that were gone for long enough before a list that still lacked them was asked
    /// for. Returns whether there were any.
    pub(super) fn forget(&mut self, asked: Instant) -> bool {
        let before = self.entries.len();
        let stays = |at: Instant| at + GONE_AFTER > asked;
        self.entries.retain(|_, entry| entry.gone.is_none_or(stays));
        self.entries.len() != before
    }

    pub(super) fn listing(&self, doubt: Option<String>) -> Listing {
        let mut listing = Listing {
            exists: self.exists,
            doubt,
            ..Listing::default()
        };
        for (name, entry) in &self.entries {
            match &entry.record {
                Ok(instance) if self.query.matches(&instance.tags) => {
                    listing.instances.push(Arc::clone(instance));
                }
                Ok(_) => {}
                Err(why) => reject(&mut listing.rejected, || {
                    Rejected::new(excerpt(name, 64), Arc::clone(why))
                }),
            }
        }
        let usable = self.entries.values().any(|entry| entry.record.is_ok());
        if let Some(first) = listing.rejected.first().filter(|_| !usable) {
            let why = format!("none of its records can be used: {first}");
            listing.doubt.get_or_insert(why);
        }
        listing
    }
}

#[cfg(test)]
mod tests;
