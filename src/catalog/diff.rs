//! Computes the smallest ordered list of changes between two sets.

use std::sync::Arc;

use super::InstanceSet;
use crate::instance::Instance;

/// One change of an instance set.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// A new instance.
    Insert(Arc<Instance>),
    /// An instance whose key is in both sets, with other data.
    Update {
        /// The instance in the old set.
        old: Arc<Instance>,
        /// The instance in the new set.
        new: Arc<Instance>,
    },
    /// An instance that is not in the new set.
    Remove(Arc<Instance>),
}

/// Computes the changes that turn `old` into `new`.
///
/// Inserts come first, then updates, then removes, each in the order of keys. So the set of a client
/// that applies them one by one is never empty, even if all instances are replaced. The time is linear
/// in the sizes of the sets; elements with equal `Arc`s cost one pointer comparison.
pub fn diff(old: &InstanceSet, new: &InstanceSet) -> Vec<Delta> {
    if old.is_same(new) {
        return Vec::new();
    }
    let (mut inserts, mut updates, mut removes) = (Vec::new(), Vec::new(), Vec::new());
    InstanceSet::merge(old, new, |old, new| match (old, new) {
        (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old.says_the_same(new) => {}
        (Some(old), Some(new)) => updates.push(Delta::Update {
            old: Arc::clone(old),
            new: Arc::clone(new),
        }),
        (None, Some(new)) => inserts.push(Delta::Insert(Arc::clone(new))),
        (Some(old), None) => removes.push(Delta::Remove(Arc::clone(old))),
        (None, None) => {}
    });
    inserts.append(&mut updates);
    inserts.append(&mut removes);
    inserts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn instance(id: u8, weight: u16) -> Instance {
        let address = format!("10.0.0.{id}:80").parse().unwrap();
        Instance::new("web", format!("web-{id:03}"), address).weight(weight)
    }

    fn set(ids: &[(u8, u16)]) -> InstanceSet {
        ids.iter()
            .map(|(id, weight)| instance(*id, *weight))
            .collect()
    }

    #[test]
    fn equal_sets_have_no_changes() {
        let one = set(&[(1, 1), (2, 1)]);
        assert!(diff(&one, &one.clone()).is_empty());
        assert!(diff(&one, &set(&[(2, 1), (1, 1)])).is_empty());
    }

    #[test]
    fn a_rolling_replacement_never_empties_the_set() {
        let (old, new) = (set(&[(1, 1), (2, 1)]), set(&[(3, 1), (4, 1)]));
        let mut held = old.len();
        for delta in diff(&old, &new) {
            match delta {
                Delta::Insert(_) => held += 1,
                Delta::Remove(_) => held -= 1,
                Delta::Update { .. } => {}
            }
            assert!(held >= 2, "the set must not shrink below both generations");
        }
        assert_eq!(held, 2);
    }

    proptest! {
        #[test]
        fn applying_the_changes_to_the_old_set_gives_the_new(
            old in prop::collection::btree_map(0u8..40, 0u16..3, 0..30),
            new in prop::collection::btree_map(0u8..40, 0u16..3, 0..30),
        ) {
            let flat = |map: &BTreeMap<u8, u16>| set(&map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
            let (before, after) = (flat(&old), flat(&new));
            let changes = diff(&before, &after);
            let mut model: BTreeMap<_, _> = before.iter().map(|i| (i.key.clone(), (**i).clone())).collect();
            for change in &changes {
                match change {
                    Delta::Insert(new) => prop_assert!(model.insert(new.key.clone(), (**new).clone()).is_none()),
                    Delta::Update { old, new } => {
                        prop_assert_ne!(old, new);
                        let known = model.insert(new.key.clone(), (**new).clone());
                        prop_assert_eq!(known.as_ref(), Some(&**old));
                    }
                    Delta::Remove(old) => prop_assert!(model.remove(&old.key).is_some()),
                }
            }
            let applied: InstanceSet = model.into_values().collect();
            prop_assert_eq!(&applied, &after);
            let differing = old.iter().filter(|(k, v)| new.get(k) != Some(v)).count()
                + new.keys().filter(|k| !old.contains_key(k)).count();
            prop_assert_eq!(changes.len(), differing, "as few changes as possible");
        }
    }
}
