//! Which endpoint the picks belong to that the slots have counted.

use std::{collections::HashMap, hash::Hash};

use super::{departed::Departed, member::MemberId, members::Members};
use crate::balance::pick::state::Held;

/// Takes in the picks of one endpoint: a member's id, its state in the snapshot, and the number.
pub(super) type Count<'a, L> = &'a mut dyn FnMut(MemberId, &Held<L>, u64);

/// States whose place another took since the last snapshot. Picks that were counted for the old state
/// belong to the new one.
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

    /// A new snapshot has no old states. The list is not only cleared: after many replacements it would keep
    /// room for as many for ever.
    pub(super) fn clear(&mut self) {
        self.states = Vec::new();
    }
}

/// Picks that are not of a member in the state that it has now, by the address of the state.
#[derive(Default)]
pub(super) struct Strays(Vec<(usize, u64)>);

impl Strays {
    /// Adds picks to the member that they are of, if that has still this state.
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
            // Another member may have the id by now.
            Some(member) if member.state().is_same(state) => *member.requests_mut() += picks,
            _ => self.0.push((state.address(), picks)),
        }
    }

    /// Adds the picks to the endpoints whose state was replaced, that have left, or that left and came back
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
            // More than once where the new state was replaced, too.
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
