//! Decides which endpoints are out, for how long, and which are probed. Pure: what happened goes in
//! through the methods, and the steps that follow come out.

use std::{fmt, hash::Hash, time::Duration};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{
    cause::{EjectCause, Restored},
    entry::{Entry, History, Place},
    gate::Round,
    health::Health,
    places::Places,
    recent::Recent,
    settings::{BUCKETS, Ejection},
    slow::SlowLimit,
    step::Step,
};
use crate::{backoff::after, classify::Outcome};

/// Decides which endpoints are out.
///
/// ```text
///               trip, room left           its time is up           probe passed
///  In ─────────────────────────▶ Ejected ───────────────▶ Probing ──────────────▶ In, slow start
///  │ ▲                              ▲                        │
///  │ │ checks pass                  └── failed, unanswered ──┘
///  │ └───────────── Failing             (for longer)
///  └─ checks fail ─────▲
/// ```
///
/// [`next_step`](Self::next_step) tells what follows. It depends on the calls of its methods, the
/// settings and the generator alone: equal runs with equal seeds are equal.
///
/// As long as it is called at its [deadlines](Self::next_deadline), these hold:
/// - without endpoints ejected by hand, never more of those that [have a weight](Self::set_weighed) are
///   out than [`Ejection::allowed`] says; when there are fewer endpoints, those that have been out
///   longest return;
/// - every endpoint that is out through its own requests is probed, again and again;
/// - what is reported from an earlier [`Round`] changes nothing.
pub(crate) struct Ejector<K> {
    places: Places<K>,
    slow: Option<SlowLimit>,
    next_tick: Instant,
}

impl<K: Clone + Eq + Hash> Ejector<K> {
    /// An ejector without endpoints.
    pub(crate) fn new(rules: Ejection, rng: SmallRng, now: Instant) -> Self {
        Self {
            next_tick: now + rules.bucket(),
            places: Places::new(rules, rng),
            slow: None,
        }
    }

    pub(crate) fn rules(&self) -> &Ejection {
        &self.places.rules
    }

    /// Takes an endpoint on, with a weight and an open gate, and returns its round. An endpoint that is
    /// known stays as it is.
    pub(crate) fn insert(&mut self, key: K) -> Round {
        self.places.insert(key)
    }

    /// Forgets an endpoint, and returns what was known of it, to be [recalled](Self::recall) when it comes
    /// back. Others may return, as fewer may now be out.
    pub(crate) fn remove(&mut self, key: &K, now: Instant) -> Option<History> {
        let entry = self.places.remove(key)?;
        self.places.keep_share(now);
        entry.history()
    }

    /// Gives back what was known of an endpoint that has just been [inserted](Self::insert) again. If it
    /// was out, it is out for the rest of its time, or spared; and the next time is longer than the last.
    /// An endpoint that was ejected by hand is in: the caller keeps orders.
    pub(crate) fn recall(&mut self, key: &K, history: History, now: Instant) {
        let Some(entry) = self.places.get_mut(key) else {
            return;
        };
        if entry.place() != Place::In {
            return;
        }
        let past = entry.recall(history);
        let (place, cause) = (past.place, past.cause);
        let rest = match (place, past.due) {
            (Place::Ejected, Some((at, _))) => at.saturating_duration_since(now),
            // A probe that was under way comes at once.
            _ => Duration::ZERO,
        };
        past.due = None;
        if place == Place::In {
            return;
        }
        (past.place, past.out, past.healthy) = (Place::In, None, now);
        if place == Place::Held {
            return;
        }
        if !self.places.has_room_for(key) {
            return self.places.spare(key, cause, now);
        }
        self.places.count_out(key, now);
        if let Place::Failing { .. } = place {
            self.places.turn_out(key, place, cause, None);
        } else {
            self.places.set_due(key, Some(now + rest));
            self.places.turn_out(key, Place::Ejected, cause, Some(rest));
        }
    }

    /// Another process has taken an endpoint's place: forgets what is known of the process before, and
    /// returns the round in which the new one begins. An endpoint that is ejected by hand stays so.
    pub(crate) fn renew(&mut self, key: &K, now: Instant) -> Round {
        let entry = self.places.get(key);
        let held = entry.map(Entry::place) == Some(Place::Held);
        let weighs = entry.is_none_or(|entry| entry.weighs);
        self.places.remove(key);
        let round = self.insert(key.clone());
        self.set_weighed(key, weighs);
        if held {
            self.eject(key, now);
        }
        round
    }

    /// An endpoint should be ejected, as [`Health::record`] said.
    pub(crate) fn trip(&mut self, key: &K, round: Round, cause: EjectCause, now: Instant) {
        match self.places.get(key) {
            Some(entry) if entry.place() == Place::In && entry.round == round => {
                self.places.eject_if_room(key, cause, now);
            }
            _ => {}
        }
    }

    /// The requests of an endpoint in the last one to two tenths of the window, for
    /// [`Recent::is_shared_by`]; none of an endpoint that is out.
    pub(crate) fn recent<T>(&self, key: &K, health: &Health<T>) -> Recent {
        let Some(entry) = self.places.get(key).filter(|e| e.place() == Place::In) else {
            return Recent::default();
        };
        let (failed, total) = match entry.recent() {
            Some(start) => health.sums().counts_since(start),
            None => health.counts(),
        };
        Recent { failed, total }
    }

    /// A probe is over, as [`Health::record`] said.
    pub(crate) fn probed(
        &mut self,
        key: &K,
        round: Round,
        outcome: Outcome,
        latency: Option<Duration>,
        now: Instant,
    ) {
        let Some(entry) = self.places.get(key) else {
            return;
        };
        let Some(past) = entry.past().filter(|_| entry.round == round) else {
            return;
        };
        if !matches!(past.place, Place::Probing { .. }) {
            return;
        }
        let limit = self.slow.map(|slow| slow.limit());
        let still_slow = matches!(past.cause, EjectCause::Slow { .. })
            && limit.is_some_and(|limit| latency.is_some_and(|latency| latency > limit));
        // Cancelled before it could be answered, for example because a hedge was faster: that proves
        // nothing, and must not keep a healthy endpoint out for ever. It returns through slow start.
        let unproved = outcome == Outcome::Cancelled
            && latency.is_some_and(|latency| latency < self.places.rules.probe_timeout / 2);
        if outcome == Outcome::Success && !still_slow {
            self.places.restore(key, Restored::Probe, now);
        } else if unproved {
            self.places.restore(key, Restored::Doubt, now);
        } else {
            self.places.eject_for_a_time(key, None, now);
        }
    }

    /// An endpoint's checks fail, so many times in a row. To be called at each failure, because an
    /// endpoint that is spared now may not be later.
    pub(crate) fn check_failed(&mut self, key: &K, failures: u32, now: Instant) {
        let cause = EjectCause::HealthCheck { failures };
        match self.places.of(key) {
            Some(Place::In) => self.places.eject_if_room(key, cause, now),
            Some(Place::Ejected | Place::Probing { .. }) => {
                self.places.set_due(key, None);
                self.places
                    .turn_out(key, Place::Failing { probe: true }, cause, None);
            }
            _ => {}
        }
    }

    /// An endpoint's checks pass. That brings back an endpoint only if its checks ejected it: that checks
    /// pass does not prove that requests do.
    pub(crate) fn check_passed(&mut self, key: &K, now: Instant) {
        match self.places.of(key) {
            Some(Place::Failing { probe: true }) => self.places.probe(key, now),
            Some(Place::Failing { probe: false }) => {
                self.places.restore(key, Restored::HealthCheck, now)
            }
            _ => {}
        }
    }

    /// Ejects an endpoint until it is restored by hand, even the last. Returns whether it is known.
    pub(crate) fn eject(&mut self, key: &K, now: Instant) -> bool {
        let Some(place) = self.places.of(key) else {
            return false;
        };
        if place != Place::Held {
            self.places.hold(key, now);
            self.places.keep_share(now);
        }
        true
    }

    /// Restores an endpoint, whatever ejected it, and forgets its past. Returns whether it was out.
    pub(crate) fn restore_by_hand(&mut self, key: &K, now: Instant) -> bool {
        let Some(entry) = self.places.get_mut(key) else {
            return false;
        };
        let out = entry.place() != Place::In;
        if let Some(past) = entry.past_mut() {
            past.times = 0;
        }
        if out {
            self.places.restore(key, Restored::ByHand, now);
        }
        out
    }

    /// When [`due`](Self::due) and [`tick`](Self::tick) are to be called next.
    pub(crate) fn next_deadline(&self) -> Instant {
        let first = self.places.deadlines.next();
        first.map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// Does what is due. `health` looks an endpoint up.
    pub(crate) fn due<'h, T: 'h>(
        &mut self,
        now: Instant,
        mut health: impl FnMut(&K) -> Option<&'h Health<T>>,
    ) {
        while let Some(key) = self.places.deadlines.pop(now) {
            let entry = self.places.get_mut(&key);
            let Some(past) = entry.and_then(Entry::past_mut) else {
                continue;
            };
            past.due = None;
            let Place::Probing { turn } = past.place else {
                self.places.probe(&key, now);
                continue;
            };
            let taken = health(&key).and_then(Health::taken);
            if taken.is_some() && taken == turn {
                // The same probe has been under way since the last deadline: it counts as failed.
                self.places.eject_for_a_time(&key, None, now);
            } else {
                // No request took the permit, or one took it just now.
                past.place = Place::Probing { turn: taken };
                let deadline = after(now, self.places.rules.probe_timeout);
                self.places.set_due(&key, Some(deadline));
            }
        }
    }

    /// Whether it is time for [`tick`](Self::tick).
    pub(crate) fn is_tick_due(&self, now: Instant) -> bool {
        now >= self.next_tick
    }

    /// Moves the windows on, and ejects endpoints that are far slower than their peers. To be called with
    /// all endpoints whenever it [is due](Self::is_tick_due), which is each tenth of the window. A late
    /// call makes the windows longer by its delay.
    pub(crate) fn tick<'h, T>(
        &mut self,
        now: Instant,
        endpoints: impl Iterator<Item = (&'h K, &'h Health<T>)>,
    ) where
        K: 'h,
        T: 'h,
    {
        if !self.is_tick_due(now) {
            return;
        }
        let bucket = self.places.rules.bucket();
        let late = now.saturating_duration_since(self.next_tick);
        // A gap of many buckets is moved over at once.
        let missed = (late.as_nanos() / bucket.as_nanos()).min(u128::from(BUCKETS)) as u32;
        self.next_tick = now + bucket;
        let mut measured = Vec::new();
        let mut healths = Vec::new();
        for (key, health) in endpoints {
            let Some(entry) = self.places.get_mut(key) else {
                continue;
            };
            if entry.place() != Place::In {
                continue;
            }
            health.rearm();
            healths.push(health);
            let (start, is_full) = entry.slide(health, missed + 1);
            if is_full {
                health.rebase(start);
            }
            let latency = health.sums().latency_since(start);
            if latency.count() >= self.places.rules.min_requests.into() {
                measured.extend(latency.typical().map(|estimate| (key, estimate)));
            }
        }
        let mut estimates: Vec<_> = measured.iter().map(|(_, estimate)| *estimate).collect();
        self.slow = SlowLimit::of(&mut estimates, &self.places.rules);
        let Some(slow) = self.slow else {
            return;
        };
        for health in healths {
            health.set_slow_after(Some(slow.limit()));
        }
        // The slowest first, as there may not be room for all.
        measured.retain(|(_, estimate)| *estimate > slow.limit());
        measured.sort_by_key(|(_, estimate)| std::cmp::Reverse(*estimate));
        for (key, estimate) in measured {
            if let Some(cause) = slow.judge(estimate) {
                self.places.eject_if_room(key, cause, now);
            }
        }
    }

    /// The steps that follow, in order.
    pub(crate) fn next_step(&mut self) -> Option<Step<K>> {
        self.places.next_step()
    }

    /// Sets whether an endpoint has a weight; to be followed by [`keep_share`](Self::keep_share) when
    /// that is known of all.
    ///
    /// The share that may be out is of those with a weight (see [`Share`](super::share::Share)). An endpoint without a weight
    /// may be ejected whatever else is out; its time runs, and it is probed when it has a weight again.
    pub(crate) fn set_weighed(&mut self, key: &K, weighs: bool) {
        self.places.set_weighed(key, weighs);
    }

    /// Restores endpoints as long as more are out than may be.
    pub(crate) fn keep_share(&mut self, now: Instant) {
        self.places.keep_share(now);
    }

    /// The number of endpoints that take no requests, also those that are probed.
    #[cfg(test)]
    pub(crate) fn out(&self) -> usize {
        self.places.out()
    }

    /// The number of endpoints.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Why an endpoint is out; `None` while it is in.
    pub(crate) fn cause(&self, key: &K) -> Option<EjectCause> {
        let past = self.places.get(key)?.past()?;
        (past.place != Place::In).then_some(past.cause)
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Ejector<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ejector")
            .field("endpoints", &self.places.len())
            .field("out", &self.places.out())
            .field("slow", &self.slow)
            .finish_non_exhaustive()
    }
}
