//! Assigns the picks that the slots have counted to their endpoints.

use std::{collections::HashMap, hash::Hash};

use super::{departed::Departed, member::MemberId, members::Members};
use crate::balance::pick::state::Held;

/// Gets the picks of one endpoint: the id of the member, its state in the snapshot, and the number of
/// picks.
pub(super) type Count<'a, L> = &'a mut dyn FnMut(MemberId, &Held<L>, u64);

/// States that were replaced since the last snapshot. Picks that were counted for the old state belong to
/// the new one.
pub(super) struct Replaced<L> {
    /// The old state, and the address of the new one.
    states: Vec<(Held<L>, usize)>,
}

impl<L> Replaced<L> {
    pub(super) fn new() -> Self {
        Self { states: Vec::new() }
    }

    pub(super) fn add(&mut self, old: Held<L>, new: usize) {
        self.states.push((old, new));
    }

    /// Clears the list, because a new snapshot has no replaced states. The list is replaced, because after
    /// many replacements it would keep its large capacity.
    pub(super) fn clear(&mut self) {
        self.states = Vec::new();
    }
}

/// Picks that do not belong to a member in its present state, by the address of the state.
#[derive(Default)]
pub(super) struct Strays(Vec<(usize, u64)>);

impl Strays {
    /// Adds picks to their member, if the member still has this state.
    pub(super) fn count<K, S, L>(
        &mut self,
        members: &mut Members<K, S, L>,
        id: MemberId,
        state: &Held<L>,
        picks: u64,
    ) where
        K: Eq + Hash + 'static,
    {
        match members.get_mut(id) {
            // Another member may have the id now.
            Some(member) if member.state().is_same(state) => *member.requests_mut() += picks,
            _ => self.0.push((state.address(), picks)),
        }
    }

    /// Adds the picks to endpoints whose state was replaced, that have left, or that left and came back
    /// before a snapshot was made.
    pub(super) fn add_to<K, S, L>(
        mut self,
        replaced: &Replaced<L>,
        members: &mut Members<K, S, L>,
        departed: &mut Departed<K, S, L>,
    ) where
        K: Eq + Hash + 'static,
    {
        if self.0.is_empty() {
            return;
        }
        let replaced = replaced.states.iter();
        let replaced: HashMap<_, _> = replaced.map(|(old, new)| (old.address(), *new)).collect();
        for (address, _) in &mut self.0 {
            // In a loop, because the new state may have been replaced, too.
            while let Some(new) = replaced.get(address) {
                *address = *new;
            }
        }
        self.0.sort_unstable();
        let listed = members.all_mut().iter_mut();
        let listed = listed.map(|m| (m.state().address(), m.requests_mut()));
        for (address, requests) in departed.requests_mut().chain(listed) {
            let first = self.0.partition_point(|(of, _)| *of < address);
            let of_it = self.0[first..].iter().take_while(|(of, _)| *of == address);
            *requests += of_it.map(|(_, picks)| picks).sum::<u64>();
        }
    }
}
