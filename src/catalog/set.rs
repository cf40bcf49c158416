//! The immutable set of a service's instances.

use std::{
    cmp::Ordering,
    fmt,
    sync::{Arc, LazyLock},
};

use crate::instance::{Instance, Key};

/// The instances of a service that may get traffic, ordered by key. Cheap to clone.
#[derive(Clone)]
pub struct InstanceSet(Arc<[Arc<Instance>]>);

static EMPTY: LazyLock<InstanceSet> = LazyLock::new(|| InstanceSet(Arc::new([])));

impl InstanceSet {
    /// Returns the number of instances.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the instances in the order of their keys.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Instance>> {
        self.0.iter()
    }

    /// Returns the instance with this key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Instance>> {
        let found = self.0.binary_search_by(|probe| probe.key.cmp(key));
        found.ok().map(|index| &self.0[index])
    }

    /// Whether both share one allocation, which is cheaper to check than equality.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Builds the set that follows `self` from the instances of a reply and the instances to keep, both
    /// in the order of their keys.
    ///
    /// Unchanged instances keep their `Arc`. If nothing changed, the result is `self`.
    pub(super) fn succeed(&self, sorted: Vec<Arc<Instance>>, kept: &[Arc<Instance>]) -> Self {
        let mut old = self.0.iter().peekable();
        let mut kept = kept.iter().peekable();
        let mut all = Vec::with_capacity(sorted.len() + kept.len());
        let mut same = true;
        for instance in sorted {
            while let Some(keep) = kept.next_if(|keep| keep.key < instance.key) {
                all.push(Arc::clone(keep));
            }
            let passed =
                |known: &&Arc<Instance>| !Arc::ptr_eq(known, &instance) && known.key < instance.key;
            while old.next_if(passed).is_some() {}
            match old.peek() {
                Some(known) if Arc::ptr_eq(known, &instance) || **known == instance => {
                    all.push(Arc::clone(known));
                }
                _ => {
                    same = false;
                    all.push(instance);
                }
            }
        }
        all.extend(kept.cloned());
        // If every element is reused and the lengths are equal, nothing was removed either.
        if same && all.len() == self.len() {
            return self.clone();
        }
        Self(all.into())
    }

    /// Returns the set without the instances for whose keys `leaves` returns `true`.
    pub(super) fn without(&self, leaves: impl Fn(&Key) -> bool) -> Self {
        let stay = self.0.iter().filter(|instance| !leaves(&instance.key));
        Self(stay.cloned().collect())
    }

    /// Creates a set from instances in the order of their keys, which must be distinct.
    pub(crate) fn from_sorted(sorted: Vec<Arc<Instance>>) -> Self {
        debug_assert!(sorted.is_sorted_by(|a, b| a.key < b.key));
        Self(sorted.into())
    }

    /// Calls `pair` for each key of two sets: with the old instance, the new one, or both.
    pub(super) fn merge<'a>(
        old: &'a Self,
        new: &'a Self,
        mut pair: impl FnMut(Option<&'a Arc<Instance>>, Option<&'a Arc<Instance>>),
    ) {
        let (mut a, mut b) = (old.0.iter().peekable(), new.0.iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(x), Some(y)) if Arc::ptr_eq(x, y) => Ordering::Equal,
                (Some(x), Some(y)) => x.key.cmp(&y.key),
            };
            match order {
                Ordering::Less => pair(a.next(), None),
                Ordering::Greater => pair(None, b.next()),
                Ordering::Equal => pair(a.next(), b.next()),
            }
        }
    }
}

impl Default for InstanceSet {
    fn default() -> Self {
        EMPTY.clone()
    }
}

impl fmt::Debug for InstanceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

impl PartialEq for InstanceSet {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.0 == other.0
    }
}

impl<'a> IntoIterator for &'a InstanceSet {
    type Item = &'a Arc<Instance>;
    type IntoIter = std::slice::Iter<'a, Arc<Instance>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Instance> for InstanceSet {
    /// Collects instances in any order. Of several with one key, the one with the best status stays;
    /// instances that may not get traffic are left out.
    fn from_iter<I: IntoIterator<Item = Instance>>(instances: I) -> Self {
        let (serving, _, _) = super::fold(instances.into_iter().map(Arc::new).collect(), false);
        Self::default().succeed(serving, &[])
    }
}
