//! Decides when a reply is applied: the empty guard and the removal grace.
//!
//! A registry that lost its state looks like a service that was shut down. Some clients therefore hold
//! the last set when a registry suddenly lists nothing. Others apply the reply, because sending to dead
//! instances is an outage too. So both are settings. The default holds an empty list if the registry
//! gave a sign that the list may be wrong, and applies any other at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{InstanceSet, Listing, MOST_REJECTED, Rejected, fold};
use crate::{
    backoff::after,
    instance::{Instance, Key},
};

/// How long an instance that is absent from a list in doubt is kept: 1.1 s. A registry that lost its
/// state lists the instances again as their processes notice the loss; with Consul that takes up to a
/// second, after a heartbeat. This time plus the backoff of a watch must stay below 2 s, the bound for a
/// correct set after a fault.
const RETURN_WITHIN: Duration = Duration::from_millis(1_100);

/// The time within which instances are lost together: etcd drops expired leases twice a second.
const LOSS_WITHIN: Duration = Duration::from_secs(1);

/// What to do with a reply that would empty a non-empty set, and with a first reply that is empty and in
/// doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyGuard {
    /// Apply every empty reply at once.
    ApplyAtOnce,
    /// Apply an empty reply at once, unless the registry gave a sign that it may be wrong: an index that
    /// went backwards, or a list cut by access rules. Such a reply is held back for this time; an empty
    /// reply after it is applied. A first reply that is empty and in doubt is held back too, until a
    /// reply without doubt or for this time. The default, with 120 s: a Consul cluster that was wiped and
    /// bootstrapped again listed nothing for 100 s, until its agents had registered their services
    /// again. Instances that are absent from a non-empty list in doubt are kept for 1.1 s.
    ///
    /// Instances that become absent or critical together are kept for 1.1 s, too: half of them within a
    /// second, and two at least, or one within 1.1 s after an outage that the watch has noticed. When a
    /// server goes on that was paused, it has missed their heartbeats, and drops them before they reach it:
    /// etcd revokes the leases, and Consul fails the TTL checks. It is not done where there is a removal
    /// grace, which says how long they stay.
    HoldDoubtful(Duration),
    /// Hold every empty reply for this time. A first reply is held only if it is in doubt, because without
    /// doubt there is no set to keep.
    Hold(Duration),
}

impl Default for EmptyGuard {
    fn default() -> Self {
        Self::HoldDoubtful(Duration::from_secs(120))
    }
}

/// Turns the replies of a registry into the set to use. The caller passes the time.
#[derive(Debug)]
pub struct Settle {
    guard: EmptyGuard,
    removal_grace: Duration,
    passing_only: bool,
    set: InstanceSet,
    withheld: Arc<[Arc<Instance>]>,
    rejected: Arc<[Rejected]>,
    /// Whether a reply was applied.
    began: bool,
    /// When each instance that is no longer listed, but kept for now, will be removed.
    leaving: HashMap<Key, Instant>,
    /// The time from which an empty reply is applied; `None` unless one is held back.
    held: Option<Instant>,
    /// Until when a list may lack instances, because the registry has lost them for now.
    doubted_until: Option<Instant>,
    /// Whether the registry removes instances whose heartbeats it misses.
    expires: bool,
    /// Until when instances that the registry dropped with its outage may not be back.
    away_until: Option<Instant>,
    /// Until when instances that are missing or critical are kept, because many are at once.
    returning_until: Option<Instant>,
    /// The largest set of the last [`LOSS_WITHIN`], and since when that counts.
    largest: Option<(Instant, usize)>,
}

impl Settle {
    /// Creates an empty catalog of one service.
    pub fn new(guard: EmptyGuard, removal_grace: Duration, passing_only: bool) -> Self {
        Self {
            guard,
            removal_grace,
            passing_only,
            set: InstanceSet::default(),
            withheld: Arc::new([]),
            rejected: Arc::new([]),
            began: false,
            leaving: HashMap::new(),
            held: None,
            doubted_until: None,
            expires: true,
            away_until: None,
            returning_until: None,
            largest: None,
        }
    }

    /// Sets whether the registry removes instances whose heartbeats it misses; `true` by default. If it does
    /// not, an instance that it no longer lists is gone, however many go with it.
    #[must_use]
    pub fn expires(mut self, expires: bool) -> Self {
        self.expires = expires;
        self
    }

    /// Notes that the registry answers again after it was away. Heartbeats did not arrive meanwhile, so it
    /// may drop instances that live, until it hears of them.
    pub fn returned(&mut self, now: Instant) {
        self.away_until = now.checked_add(RETURN_WITHIN);
    }

    /// Returns the set to use.
    pub fn set(&self) -> &InstanceSet {
        &self.set
    }

    /// Returns the instances that are listed, but may not get traffic.
    pub fn withheld(&self) -> &Arc<[Arc<Instance>]> {
        &self.withheld
    }

    /// Returns the records of the last reply that were left out.
    pub fn rejected(&self) -> &Arc<[Rejected]> {
        &self.rejected
    }

    /// Whether an empty reply is held back now.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Takes a reply. Returns whether it was applied; if not, it is held back.
    pub fn offer(&mut self, listing: Listing, now: Instant) -> bool {
        self.note_doubt(&listing, now);
        if listing.instances.is_empty() {
            let until = self.hold_until(listing.doubt.is_some(), now);
            if let Some(until) = until.filter(|until| *until > now) {
                self.held = Some(until);
                self.note_rejected(listing.rejected);
                return false;
            }
            if self.held.is_some() {
                // The registry has confirmed the empty list: the time in doubt ends.
                self.doubted_until = None;
            }
        }
        self.apply(listing, now);
        true
    }

    /// Returns until when an empty reply is held back; `None` or a time in the past if it is applied now.
    fn hold_until(&self, doubtful: bool, now: Instant) -> Option<Instant> {
        let hold = match self.guard {
            EmptyGuard::ApplyAtOnce => return None,
            EmptyGuard::HoldDoubtful(time) => doubtful.then_some(time),
            EmptyGuard::Hold(time) => Some(time),
        };
        let until = || hold.map(|time| after(now, time));
        match (self.set.is_empty(), self.began) {
            // The next reply may look sound and still be wrong. So an empty reply that is held once is
            // held until its time, or until instances are listed.
            (false, _) => self.held.or_else(until),
            // There is no set to keep, so only the reply in doubt itself is held: it does not confirm that
            // the service has no instances.
            (true, false) if doubtful => self.held.or_else(until),
            (true, _) => None,
        }
    }

    /// Removes the instances whose grace has ended. Returns whether there were any.
    ///
    /// It never applies a held empty reply: only another empty reply from the registry does, and a
    /// registry that cannot be reached sends none.
    pub fn tick(&mut self, now: Instant) -> bool {
        let leaving = self.leaving.len();
        let mut due = HashSet::new();
        self.leaving.retain(|key, until| {
            let stays = *until > now;
            if !stays {
                due.insert(key.clone());
            }
            stays
        });
        if self.leaving.len() == leaving {
            return false;
        }
        self.set = self.set.without(|key| due.contains(key));
        true
    }

    /// Returns when [`tick`](Self::tick) must be called next; `None` if no instance is in its grace.
    pub fn deadline(&self) -> Option<Instant> {
        self.leaving.values().copied().min()
    }

    fn apply(&mut self, listing: Listing, now: Instant) {
        self.held = None;
        self.began = true;
        let Listing {
            instances,
            mut rejected,
            ..
        } = listing;
        let (serving, withheld, mut folded) = fold(instances, self.passing_only);
        rejected.append(&mut folded);

        let grace = Some(after(now, self.removal_grace));
        self.doubted_until = self.doubted_until.filter(|until| *until > now);
        self.note_loss(serving.len(), now);
        let until = grace.max(self.doubted_until).max(self.returning_until);
        let until = until.filter(|until| *until > now);
        if until.is_some() || !self.leaving.is_empty() {
            self.note_leaving(&serving, &withheld, until, now);
        }
        let kept = self.kept();
        self.set = self.set.succeed(serving, &kept);
        if withheld.len() != self.withheld.len()
            || !withheld.iter().zip(&*self.withheld).all(|(a, b)| a == b)
        {
            self.withheld = withheld.into();
        }
        self.note_rejected(rejected);
    }

    /// Keeps the instances if half of them go within a second: two at least, or any after an outage.
    fn note_loss(&mut self, serving: usize, now: Instant) {
        let before = self.set.len();
        let largest = self
            .largest
            .filter(|(since, size)| now < after(*since, LOSS_WITHIN) && *size >= before)
            .unwrap_or((now, before));
        self.largest = Some(largest);
        self.away_until = self.away_until.filter(|until| *until > now);
        self.returning_until = self.returning_until.filter(|until| *until > now);
        // A removal grace already says how long instances stay.
        let asked = self.guard == EmptyGuard::ApplyAtOnce || !self.removal_grace.is_zero();
        if !self.expires || asked || self.returning_until.is_some() {
            return;
        }
        let lost = largest.1.saturating_sub(serving);
        let least = if self.away_until.is_some() { 1 } else { 2 };
        if lost >= least && 2 * lost >= largest.1 {
            self.returning_until = self.away_until.or_else(|| now.checked_add(RETURN_WITHIN));
        }
    }

    fn note_rejected(&mut self, mut rejected: Vec<Rejected>) {
        rejected.truncate(MOST_REJECTED);
        if *rejected != *self.rejected {
            self.rejected = rejected.into();
        }
    }

    /// Starts the time in which absent instances are kept. A second sign of doubt does not prolong it.
    /// But the first non-empty list after an empty one may lack instances, so at least half of the time
    /// remains then.
    fn note_doubt(&mut self, listing: &Listing, now: Instant) {
        let doubted = self.held.is_some() && self.doubted_until.is_some();
        let ends = doubted && !listing.instances.is_empty();
        if self.guard == EmptyGuard::ApplyAtOnce || !(ends || listing.doubt.is_some()) {
            return;
        }
        let open = self.doubted_until.filter(|until| *until > now);
        let least = match (open, ends) {
            (None, _) => RETURN_WITHIN,
            (Some(_), true) => RETURN_WITHIN / 2,
            (Some(_), false) => Duration::ZERO,
        };
        self.doubted_until = open.max(now.checked_add(least));
    }

    /// Starts the grace of instances that are no longer listed, and ends the grace of those that are
    /// listed again. An instance that is listed as unhealthy is removed at once, because the registry
    /// reports its state; but not while the registry may only lack its heartbeats.
    fn note_leaving(
        &mut self,
        serving: &[Arc<Instance>],
        withheld: &[Arc<Instance>],
        leaves: Option<Instant>,
        now: Instant,
    ) {
        let returning = self.returning_until.is_some();
        let listed = |key: &Key| {
            let find = |list: &[Arc<Instance>]| list.binary_search_by(|i| i.key.cmp(key)).is_ok();
            find(serving) || (find(withheld) && !returning)
        };
        // An instance whose grace has ended gets no second one if a reply comes before the tick that
        // removes it.
        let known: HashSet<Key> = self.leaving.keys().cloned().collect();
        self.leaving
            .retain(|key, until| *until > now && !listed(key));
        for instance in &self.set {
            if !listed(&instance.key)
                && !known.contains(&instance.key)
                && let Some(leaves) = leaves
            {
                self.leaving.insert(instance.key.clone(), leaves);
            }
        }
    }

    fn kept(&self) -> Vec<Arc<Instance>> {
        let kept = self
            .set
            .iter()
            .filter(|i| self.leaving.contains_key(&i.key));
        kept.cloned().collect()
    }
}

#[cfg(test)]
mod tests;
