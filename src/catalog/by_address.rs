//! Folds the sets of several registries into one, in which each address stands once.
//!
//! Registries give one process different ids: a Consul id is unique on one agent only, and others have
//! their own. The address is what they have in common. So here it is the identity: a process that is
//! registered in two registries counts once, and one that moves from the first to the second keeps its
//! key, and with it connection, load and state.

use std::{collections::HashMap, sync::Arc};

use super::InstanceSet;
use crate::instance::{Instance, Key, Status};

/// The instances that one registry lists: those that may get traffic, and those that may not.
pub(crate) type Listed<'a> = (&'a InstanceSet, &'a Arc<[Arc<Instance>]>);

/// Folds the sets of several registries into one, by address.
#[derive(Debug, Default)]
pub(crate) struct ByAddress {
    set: InstanceSet,
    withheld: Arc<[Arc<Instance>]>,
    /// What was folded last.
    folded: Vec<(InstanceSet, Arc<[Arc<Instance>]>)>,
    /// Each record that was folded last, and its copy under the new key, by the place of the record in
    /// memory. A record that did not change keeps its copy.
    copies: HashMap<usize, (Arc<Instance>, Arc<Instance>)>,
}

impl ByAddress {
    /// Returns the instances that may get traffic.
    pub(crate) fn set(&self) -> &InstanceSet {
        &self.set
    }

    /// Returns the instances that may not get traffic.
    pub(crate) fn withheld(&self) -> &Arc<[Arc<Instance>]> {
        &self.withheld
    }

    /// Folds lists, the most significant first. Of several records with one address, the first stays,
    /// with these exceptions:
    ///
    /// - an instance in maintenance in any list is in maintenance, because a person decided that;
    /// - a record that may not get traffic for another reason yields to one that may: it may be left over
    ///   from a process that sends its heartbeats to another registry by now.
    pub(crate) fn fold(&mut self, lists: &[Listed<'_>]) {
        let same = |((set, withheld), known): (&Listed<'_>, &(InstanceSet, _))| {
            set.is_same(&known.0) && Arc::ptr_eq(withheld, &known.1)
        };
        if lists.len() == self.folded.len() && lists.iter().zip(&self.folded).all(same) {
            return;
        }
        let mut copies = HashMap::with_capacity(self.copies.len());
        let mut all = Vec::new();
        for (set, withheld) in lists {
            let serving = set.iter().map(|instance| (1, instance));
            let others = withheld.iter().map(|instance| match instance.status {
                Status::Maintenance => (0, instance),
                _ => (2, instance),
            });
            for (rank, instance) in serving.chain(others) {
                let place = Arc::as_ptr(instance).addr();
                let known = self.copies.remove(&place);
                let known = known.or_else(|| copies.get(&place).cloned());
                let entry = known.unwrap_or_else(|| (Arc::clone(instance), copy(instance)));
                all.push((rank, Arc::clone(&entry.1)));
                copies.insert(place, entry);
            }
        }
        // A stable sort: the order of the lists decides between records of equal rank.
        all.sort_by(|(a_rank, a), (b_rank, b)| a.key.cmp(&b.key).then(a_rank.cmp(b_rank)));
        all.dedup_by(|(_, later), (_, kept)| later.key == kept.key);
        let (serving, withheld): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(rank, _)| *rank == 1);
        let plain =
            |ranked: Vec<(u8, Arc<Instance>)>| ranked.into_iter().map(|(_, instance)| instance);
        self.set = self.set.succeed(plain(serving).collect(), &[]);
        let withheld: Vec<_> = plain(withheld).collect();
        if *withheld != *self.withheld {
            self.withheld = withheld.into();
        }
        self.copies = copies;
        let folded = lists.iter();
        self.folded = folded
            .map(|(set, withheld)| ((*set).clone(), Arc::clone(withheld)))
            .collect();
    }
}

/// Returns a copy of an instance that its address identifies.
fn copy(instance: &Instance) -> Arc<Instance> {
    let mut copy = instance.clone();
    copy.key = Key::new(instance.address.to_string(), "");
    Arc::new(copy)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn instance(id: &str, last: u8, weight: u16) -> Instance {
        let address = format!("10.0.0.{last}:80").parse().unwrap();
        Instance::new("web", id, address).weight(weight)
    }

    type Lists = Vec<(InstanceSet, Arc<[Arc<Instance>]>)>;

    fn fold(folded: &mut ByAddress, lists: &Lists) {
        let lists: Vec<_> = lists
            .iter()
            .map(|(set, withheld)| (set, withheld))
            .collect();
        folded.fold(&lists);
    }

    fn list(
        serving: Vec<Instance>,
        withheld: Vec<Instance>,
    ) -> (InstanceSet, Arc<[Arc<Instance>]>) {
        let withheld = withheld.into_iter().map(Arc::new).collect();
        (serving.into_iter().collect(), withheld)
    }

    fn told(set: &InstanceSet) -> Vec<(&str, u32)> {
        set.iter().map(|i| (i.id(), i.weight.get())).collect()
    }

    #[test]
    fn the_record_of_the_first_list_stays_and_the_others_are_added() {
        let mut folded = ByAddress::default();
        let first = list(vec![instance("a", 1, 3), instance("b", 2, 3)], vec![]);
        let second = list(vec![instance("other-a", 1, 7), instance("c", 3, 7)], vec![]);
        fold(&mut folded, &vec![first.clone(), second.clone()]);
        let all = [("10.0.0.1:80", 3), ("10.0.0.2:80", 3), ("10.0.0.3:80", 7)];
        assert_eq!(told(folded.set()), all);
        let before = folded.set().clone();
        fold(&mut folded, &vec![first, second.clone()]);
        assert!(folded.set().is_same(&before), "nothing has changed");
        // It moves from the first to the second.
        let without = list(vec![instance("b", 2, 3)], vec![]);
        fold(&mut folded, &vec![without, second]);
        let moved = [("10.0.0.1:80", 7), ("10.0.0.2:80", 3), ("10.0.0.3:80", 7)];
        assert_eq!(told(folded.set()), moved);
    }

    #[test]
    fn a_record_that_may_not_serve_yields_unless_it_is_in_maintenance() {
        let with = |status| {
            let mut instance = instance("a", 1, 1);
            instance.status = status;
            instance
        };
        for (status, serves) in [(Status::Critical, true), (Status::Maintenance, false)] {
            let withheld = list(vec![], vec![with(status)]);
            let serving = list(vec![instance("b", 1, 2)], vec![]);
            for lists in [
                vec![withheld.clone(), serving.clone()],
                vec![serving, withheld],
            ] {
                let mut folded = ByAddress::default();
                fold(&mut folded, &lists);
                assert_eq!(folded.set().is_empty(), !serves, "{status}");
                assert_eq!(folded.withheld().is_empty(), serves, "{status}");
            }
        }
    }

    proptest! {
        /// Each address stands once, and a fold says the same, whatever was folded before.
        #[test]
        fn a_fold_is_the_union_by_address(
            steps in prop::collection::vec(
                (prop::collection::btree_map(0u8..12, (0u8..6, 1u16..4), 0..8),
                 prop::collection::btree_map(0u8..12, (0u8..6, 1u16..4), 0..8)),
                1..6,
            ),
        ) {
            let set = |map: &BTreeMap<u8, (u8, u16)>, name: &str| -> InstanceSet {
                map.iter().map(|(id, (last, weight))| instance(&format!("{name}{id:02}"), *last, *weight)).collect()
            };
            let mut folded = ByAddress::default();
            for (first, second) in &steps {
                let lists: Lists = vec![
                    (set(first, "a"), Arc::default()),
                    (set(second, "b"), Arc::default()),
                ];
                fold(&mut folded, &lists);
                let mut fresh = ByAddress::default();
                fold(&mut fresh, &lists);
                prop_assert_eq!(folded.set(), fresh.set());
                let union: BTreeSet<u8> = first.values().chain(second.values()).map(|(last, _)| *last).collect();
                prop_assert_eq!(folded.set().len(), union.len());
                for (last, weight) in first.values().rev() {
                    let key = Key::new(format!("10.0.0.{last}:80"), "");
                    let kept = first.values().find(|(other, _)| other == last).unwrap();
                    let _ = weight;
                    prop_assert_eq!(folded.set().get(&key).unwrap().weight.get(), u32::from(kept.1));
                }
            }
        }
    }
}
