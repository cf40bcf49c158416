//! The arrays of the old snapshot, reused for the next one.
//!
//! A snapshot holds the state and the service of each endpoint. To clone and drop an `Arc` changes a
//! counter somewhere in memory. With ten thousand endpoints, that is forty thousand cache misses for a
//! single endpoint that comes or leaves. So two sets of arrays take turns, as in [left-right]: requests
//! read one, and the driver owns the other. A publish updates the driver's arrays where they differ, by
//! comparing addresses. It then gets the old arrays back and updates them in the same way. This happens at
//! once and not when they are needed, because the arrays must not keep the connection of a removed endpoint
//! open.
//!
//! [left-right]: https://docs.rs/left-right

use std::sync::Arc;

use crate::balance::{
    pick::{slots::make_room, snapshot::Snapshot, state::Held},
    policy::Policy,
};

/// The arrays of all leaves, in their order.
pub(super) struct Spare<S, L> {
    arrays: Vec<Arrays<S, L>>,
}

/// The arrays of one leaf.
pub(super) struct Arrays<S, L> {
    states: Vec<Held<L>>,
    services: Vec<Arc<S>>,
}

impl<S, L> Spare<S, L> {
    /// Takes the arrays out of a snapshot that no request reads any more, and gives them the content of
    /// `new`.
    pub(super) fn new<P: Policy<Load = L>>(old: Arc<Snapshot<S, P>>, new: &Snapshot<S, P>) -> Self {
        let mut arrays = Vec::new();
        if let Some(old) = Arc::into_inner(old) {
            old.plan.map(&mut |leaf| {
                arrays.push(Arrays {
                    states: leaf.states,
                    services: leaf.services,
                });
            });
        }
        let mut left = arrays.into_iter();
        let mut arrays = Vec::new();
        new.plan.each_leaf(&mut |leaf| {
            if let Some(mut spare) = left.next() {
                spare.hold(leaf.states.iter().zip(&leaf.services));
                arrays.push(spare);
            }
        });
        Self { arrays }
    }

    /// The arrays, starting with those of the first leaf.
    pub(super) fn into_arrays(self) -> impl Iterator<Item = Arrays<S, L>> {
        self.arrays.into_iter()
    }
}

impl<S, L> Arrays<S, L> {
    /// The states and services of these endpoints, in the reused arrays.
    pub(super) fn of<'a>(
        mut self,
        endpoints: impl ExactSizeIterator<Item = (&'a Held<L>, &'a Arc<S>)>,
    ) -> (Vec<Held<L>>, Vec<Arc<S>>)
    where
        S: 'a,
        L: 'a,
    {
        self.hold(endpoints);
        (self.states, self.services)
    }

    /// Makes the arrays hold these endpoints. Entries that are equal already stay untouched.
    fn hold<'a>(&mut self, mut endpoints: impl ExactSizeIterator<Item = (&'a Held<L>, &'a Arc<S>)>)
    where
        S: 'a,
        L: 'a,
    {
        let Self { states, services } = self;
        let len = endpoints.len();
        states.truncate(len);
        services.truncate(len);
        let places = states.iter_mut().zip(services.iter_mut());
        for ((state, service), (new, new_service)) in places.zip(&mut endpoints) {
            if !state.is_same(new) {
                *state = new.clone();
            }
            if !Arc::ptr_eq(service, new_service) {
                *service = Arc::clone(new_service);
            }
        }
        make_room(states, len);
        make_room(services, len);
        for (state, service) in endpoints {
            states.push(state.clone());
            services.push(Arc::clone(service));
        }
    }
}

impl<S, L> Default for Spare<S, L> {
    fn default() -> Self {
        Self { arrays: Vec::new() }
    }
}

impl<S, L> Default for Arrays<S, L> {
    fn default() -> Self {
        Self {
            states: Vec::new(),
            services: Vec::new(),
        }
    }
}

#[cfg(all(test, not(roster_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        balance::pick::state::Common, endpoint::eject::Round, endpoint::load::InFlight,
        instance::Key,
    };

    proptest! {
        #[test]
        fn arrays_hold_what_they_are_told_and_nothing_else(
            turns in prop::collection::vec(prop::collection::vec((0usize..8, 0usize..3), 0..12), 1..8),
        ) {
            let common = Arc::new(Common::lonely());
            let state = |n: usize| {
                let key = Key::new(n.to_string(), "");
                Held::new(key, InFlight::new(), Round::default(), Arc::clone(&common))
            };
            let states: Vec<_> = (0..8).map(state).collect();
            let services: Vec<_> = (0..3).map(Arc::new).collect();
            let mut arrays = Arrays::default();
            for turn in turns {
                arrays.hold(turn.iter().map(|(a, b)| (&states[*a], &services[*b])));
                prop_assert_eq!(arrays.states.len(), turn.len());
                prop_assert_eq!(arrays.services.len(), turn.len());
                for (at, (a, b)) in turn.iter().enumerate() {
                    prop_assert!(arrays.states[at].is_same(&states[*a]));
                    prop_assert!(Arc::ptr_eq(&arrays.services[at], &services[*b]));
                }
                for (n, service) in services.iter().enumerate() {
                    let held = turn.iter().filter(|(_, b)| *b == n).count();
                    prop_assert_eq!(Arc::strong_count(service), held + 1);
                }
                prop_assert!(states.iter().all(|state| state.in_flight() == 0));
            }
        }
    }
}
