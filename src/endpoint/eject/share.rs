//! Counts of the endpoints that are out, and of all endpoints. Pure.

use std::{collections::BTreeMap, mem};

use super::settings::Ejection;

/// Counts the endpoints that are out, separately for those with and without a weight.
///
/// An endpoint without a weight gets no requests. So it cannot replace endpoints that are out, and its own
/// ejection takes away no capacity. The share that may be out therefore refers to endpoints with a weight.
/// If none has a weight, all count.
pub(super) struct Share<K> {
    weighed: ShareGroup<K>,
    drained: ShareGroup<K>,
    serial: u64,
}

/// The endpoints with a weight, or those without.
struct ShareGroup<K> {
    len: usize,
    /// The endpoints that are out and not held, in the order of their ejections.
    away: BTreeMap<u64, K>,
    /// Number of held endpoints.
    held: usize,
}

/// How an endpoint that is out is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// It is restored when too many are out. The number is its position in the order.
    Away(u64),
    /// It stays out until it is restored by hand.
    Held,
}

impl<K> ShareGroup<K> {
    fn new() -> Self {
        Self {
            len: 0,
            away: BTreeMap::new(),
            held: 0,
        }
    }

    fn out(&self) -> usize {
        self.away.len() + self.held
    }

    fn restore(&mut self, out: Out) {
        match out {
            Out::Away(place) => _ = self.away.remove(&place),
            Out::Held => self.held -= 1,
        }
    }
}

impl<K> Share<K> {
    pub(super) fn new() -> Self {
        Self {
            weighed: ShareGroup::new(),
            drained: ShareGroup::new(),
            serial: 0,
        }
    }

    fn group(&mut self, weighs: bool) -> &mut ShareGroup<K> {
        match weighs {
            true => &mut self.weighed,
            false => &mut self.drained,
        }
    }

    /// Counts an endpoint that takes requests.
    pub(super) fn insert(&mut self, weighs: bool) {
        self.group(weighs).len += 1;
    }

    /// Removes an endpoint. `out` tells how it is counted if it is out.
    pub(super) fn remove(&mut self, weighs: bool, out: Option<Out>) {
        self.restore(weighs, out);
        self.group(weighs).len -= 1;
    }

    /// Counts an endpoint as out, last in the order.
    pub(super) fn eject(&mut self, weighs: bool, key: K) -> Out {
        self.serial += 1;
        let place = self.serial;
        self.group(weighs).away.insert(place, key);
        Out::Away(place)
    }

    /// Counts an endpoint as held. `out` tells how it was counted if it was out.
    pub(super) fn hold(&mut self, weighs: bool, out: Option<Out>) -> Out {
        self.restore(weighs, out);
        self.group(weighs).held += 1;
        Out::Held
    }

    /// Counts an endpoint as taking requests again.
    pub(super) fn restore(&mut self, weighs: bool, out: Option<Out>) {
        if let Some(out) = out {
            self.group(weighs).restore(out);
        }
    }

    /// Moves an endpoint that gained or lost its weight to the other group.
    pub(super) fn set_weighed(&mut self, weighs: bool, out: Option<Out>) {
        let (mut from, mut to) = (&mut self.weighed, &mut self.drained);
        if weighs {
            mem::swap(&mut from, &mut to);
        }
        from.len -= 1;
        to.len += 1;
        match out {
            Some(Out::Away(place)) => to.away.extend(from.away.remove_entry(&place)),
            Some(Out::Held) => {
                from.held -= 1;
                to.held += 1;
            }
            None => {}
        }
    }

    /// The group that the share refers to.
    fn counted(&self) -> &ShareGroup<K> {
        match self.weighed.len {
            0 => &self.drained,
            _ => &self.weighed,
        }
    }

    /// Whether one more endpoint may be out.
    pub(super) fn has_room(&self, weighs: bool, rules: &Ejection) -> bool {
        if !weighs && self.weighed.len > 0 {
            // Not if the settings allow no ejection at all.
            return rules.allowed(self.weighed.len + self.drained.len) > 0;
        }
        let group = self.counted();
        group.out() < rules.allowed(group.len)
    }

    /// The endpoint that has been out longest, if more are out than allowed. Held endpoints do not qualify.
    pub(super) fn surplus(&self, rules: &Ejection) -> Option<&K> {
        let group = self.counted();
        let is_over = group.out() > rules.allowed(group.len);
        group.away.values().next().filter(|_| is_over)
    }

    /// Number of endpoints that are out.
    #[cfg(test)]
    pub(super) fn out(&self) -> usize {
        self.weighed.out() + self.drained.out()
    }
}
