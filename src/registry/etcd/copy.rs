//! A copy of the keys of one service, kept up to date by the changes of a watch. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::wire::{Event, KeyValue, RangeReply};
use crate::{
    catalog::{Listing, Rejected, reject},
    instance::Instance,
    registry::{Query, decoding::MOST_RECORDS, record::RecordFormat, text::excerpt},
};

/// The keys below one prefix, by what follows the prefix.
#[derive(Debug)]
pub(super) struct Copy {
    query: Query,
    format: RecordFormat,
    prefix: Vec<u8>,
    entries: BTreeMap<Box<[u8]>, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    version: Version,
    record: Result<Arc<Instance>, Arc<str>>,
}

/// Identifies one state of a key. Not the revision alone: a store that was wiped counts from 1 again,
/// and leases have random ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: i64,
    created: i64,
    version: i64,
    lease: i64,
}

impl Version {
    fn of(kv: &KeyValue) -> Self {
        Self {
            modified: kv.mod_revision,
            created: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// The keys of a range that is being read, page by page.
#[derive(Debug, Default)]
pub(super) struct Pages(BTreeMap<Box<[u8]>, Entry>);

impl Copy {
    pub(super) fn new(query: Query, format: RecordFormat, prefix: Vec<u8>) -> Self {
        Self {
            query,
            format,
            prefix,
            entries: BTreeMap::new(),
        }
    }

    /// The first key of the range.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Adds a page. Returns the key after its last one, or why the page cannot be right.
    pub(super) fn add(&self, pages: &mut Pages, kvs: Vec<KeyValue>) -> Result<Vec<u8>, String> {
        let mut next = self.prefix.clone();
        for kv in kvs {
            let suffix = self.suffix(&kv.key)?;
            // Also where a page begins anew: a range that does not advance has no end.
            if pages
                .0
                .last_key_value()
                .is_some_and(|(last, _)| **last >= *suffix)
            {
                return Err("its keys are not in order".to_owned());
            }
            if pages.0.len() >= MOST_RECORDS {
                return Err(format!("it has more than {MOST_RECORDS} keys"));
            }
            next.clone_from(&kv.key);
            // ED17: the smallest key that is greater than the last one.
            next.push(0);
            let entry = self.entry(&suffix, &kv, self.entries.get(&suffix));
            pages.0.insert(suffix, entry);
        }
        Ok(next)
    }

    /// Replaces all keys.
    pub(super) fn replace(&mut self, pages: Pages) {
        self.entries = pages.0;
    }

    /// Applies the changes of one line, all of them, before anything is published (ED7). Returns whether
    /// an instance or a note changed, or why the line cannot be right.
    pub(super) fn apply(&mut self, events: Vec<Event>) -> Result<bool, String> {
        let mut changed = false;
        for event in events {
            let suffix = self.suffix(&event.kv.key)?;
            let known = self.entries.get(&suffix);
            // An event that was delivered before.
            if known.is_some_and(|known| known.version.modified >= event.kv.mod_revision) {
                continue;
            }
            if event.is_delete() {
                changed |= self.entries.remove(&suffix).is_some();
                continue;
            }
            if known.is_none() && self.entries.len() >= MOST_RECORDS {
                return Err(format!("there are more than {MOST_RECORDS} keys"));
            }
            let entry = self.entry(&suffix, &event.kv, known);
            changed |= known.is_none_or(|known| known.record != entry.record);
            self.entries.insert(suffix, entry);
        }
        Ok(changed)
    }

    /// Whether a range of one key, the one that was changed last, shows that the copy is complete
    /// (ED12). A change that was missed changes the number of keys, or the last change.
    pub(super) fn is_confirmed_by(&self, reply: &RangeReply) -> bool {
        if usize::try_from(reply.count) != Ok(self.entries.len()) {
            return false;
        }
        let Some(last) = reply.kvs.first() else {
            return self.entries.is_empty();
        };
        let Ok(suffix) = self.suffix(&last.key) else {
            return false;
        };
        let known = self.entries.get(&suffix).map(|entry| entry.version);
        known == Some(Version::of(last))
            && self
                .entries
                .values()
                .all(|entry| entry.version.modified <= last.mod_revision)
    }

    pub(super) fn listing(&self, doubt: Option<String>) -> Listing {
        let mut listing = Listing {
            exists: !self.entries.is_empty(),
            doubt,
            ..Listing::default()
        };
        for (suffix, entry) in &self.entries {
            match &entry.record {
                Ok(instance) if self.query.matches(&instance.tags) => {
                    listing.instances.push(Arc::clone(instance));
                }
                Ok(_) => {}
                Err(why) => reject(&mut listing.rejected, || {
                    let name = String::from_utf8_lossy(suffix);
                    Rejected::new(excerpt(&name, 64), Arc::clone(why))
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

    fn suffix(&self, key: &[u8]) -> Result<Box<[u8]>, String> {
        let suffix = key.strip_prefix(&*self.prefix);
        suffix.map(Into::into).ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            format!("the key {:?} was not asked for", excerpt(&key, 64))
        })
    }

    fn entry(&self, suffix: &[u8], kv: &KeyValue, former: Option<&Entry>) -> Entry {
        let record = self.record(suffix, kv).map(Arc::new);
        // An unchanged instance keeps its `Arc`, so that comparing sets is cheap.
        let same = former.filter(|former| former.record == record);
        Entry {
            version: Version::of(kv),
            record: same.map_or(record, |former| former.record.clone()),
        }
    }

    fn record(&self, suffix: &[u8], kv: &KeyValue) -> Result<Instance, Arc<str>> {
        let name = std::str::from_utf8(suffix).map_err(|_| "its key is not UTF-8")?;
        if name.is_empty() || name.contains('/') {
            return Err("it is not directly below the service".into());
        }
        let decoded = self.format.decode(self.query.service(), name, &kv.value);
        let mut instance = decoded.map_err(|error| Arc::<str>::from(error.to_string()))?;
        instance.generation = u64::try_from(kv.create_revision).unwrap_or_default();
        Ok(instance)
    }
}

/// Returns the end of the range of the keys that begin with `prefix`, which ends in `/`.
pub(super) fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests;
