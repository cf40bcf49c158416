//! Decides which endpoints are ejected, for how long, and which are probed. Pure: reports go in through the
//! methods, and steps come out.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{
    cause::{EjectCause, Restored},
    entry::{EjectEntry, EjectPlace, History},
    gate::Round,
    health::EndpointHealth,
    recent::Recent,
    settings::{BUCKETS, Ejection},
    share::Share,
    slow::SlowLimit,
    step::EjectStep,
};
use crate::{backoff::after, classify::Outcome, endpoint::schedule::Schedule};

/// Decides which endpoints are ejected.
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
/// [`next_step`](Self::next_step) returns the decisions. They depend only on the calls of the methods, the
/// settings and the generator: equal runs with equal seeds are equal.
///
/// These hold as long as it is called at each of its [deadlines](Self::next_deadline):
/// - Of the endpoints that [have a weight](Self::set_weighed), never more are out than
///   [`Ejection::allowed`] permits. Endpoints ejected by hand are not limited. When the set shrinks, the
///   endpoints that have been out longest are restored.
/// - Every endpoint that is out because of its own requests is probed again and again.
/// - A report from an earlier [`Round`] has no effect.
pub(crate) struct Ejector<K> {
    pub(super) rules: Ejection,
    pub(super) rng: SmallRng,
    pub(super) entries: HashMap<K, EjectEntry>,
    pub(super) deadlines: Schedule<K>,
    pub(super) share: Share<K>,
    pub(super) steps: VecDeque<EjectStep<K>>,
    pub(super) rounds: u32,
    slow: Option<SlowLimit>,
    next_tick: Instant,
}

impl<K: Clone + Eq + Hash> Ejector<K> {
    /// An ejector without endpoints.
    pub(crate) fn new(rules: Ejection, rng: SmallRng, now: Instant) -> Self {
        Self {
            next_tick: now + rules.bucket(),
            rules,
            rng,
            entries: HashMap::new(),
            deadlines: Schedule::new(),
            share: Share::new(),
            steps: VecDeque::new(),
            rounds: 0,
            slow: None,
        }
    }

    pub(crate) fn rules(&self) -> &Ejection {
        &self.rules
    }

    /// Adds an endpoint with a weight and an open gate, and returns its round. A known endpoint stays
    /// unchanged.
    pub(crate) fn insert(&mut self, key: K) -> Round {
        if let Some(entry) = self.entries.get(&key) {
            return entry.round;
        }
        let round = self.next_round();
        self.entries.insert(key, EjectEntry::new(round));
        self.share.insert(true);
        round
    }

    /// Removes an endpoint and returns its history, for [`recall`](Self::recall) when it comes back. Other
    /// endpoints may be restored, because fewer may now be out.
    pub(crate) fn remove(&mut self, key: &K, now: Instant) -> Option<History> {
        let entry = self.take(key)?;
        self.keep_share(now);
        entry.history()
    }

    fn take(&mut self, key: &K) -> Option<EjectEntry> {
        let entry = self.entries.remove(key)?;
        let past = entry.past();
        if let Some(due) = past.and_then(|past| past.due) {
            self.deadlines.remove(due);
        }
        let out = past.and_then(|past| past.out);
        self.share.remove(entry.weighs, out);
        Some(entry)
    }

    /// Restores the history of an endpoint that was just [inserted](Self::insert) again. If it was out, it
    /// is out for the rest of its time, or is spared. Its next ejection is longer than its last. An
    /// endpoint that was ejected by hand is in, because the caller keeps the orders.
    pub(crate) fn recall(&mut self, key: &K, history: History, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.place() != EjectPlace::In {
            return;
        }
        let past = entry.recall(history);
        let (place, cause) = (past.place, past.cause);
        let rest = match (place, past.due) {
            (EjectPlace::Ejected, Some((at, _))) => at.saturating_duration_since(now),
            // A probe in progress is repeated at once.
            _ => Duration::ZERO,
        };
        past.due = None;
        if place == EjectPlace::In {
            return;
        }
        (past.place, past.out, past.healthy) = (EjectPlace::In, None, now);
        if place == EjectPlace::Held {
            return;
        }
        if !self.has_room_for(key) {
            return self.spare(key, cause, now);
        }
        self.count_out(key, now);
        if let EjectPlace::Failing { .. } = place {
            self.turn_out(key, place, cause, None);
        } else {
            self.set_due(key, Some(now + rest));
            self.turn_out(key, EjectPlace::Ejected, cause, Some(rest));
        }
    }

    /// Starts anew for an endpoint whose process was replaced: forgets its history, and returns its new
    /// round. An endpoint that is ejected by hand stays ejected.
    pub(crate) fn renew(&mut self, key: &K, now: Instant) -> Round {
        let entry = self.entries.get(key);
        let held = entry.map(EjectEntry::place) == Some(EjectPlace::Held);
        let weighs = entry.is_none_or(|entry| entry.weighs);
        self.take(key);
        let round = self.insert(key.clone());
        self.set_weighed(key, weighs);
        if held {
            self.eject(key, now);
        }
        round
    }

    /// Handles a signal of [`EndpointHealth::record`] to eject an endpoint.
    pub(crate) fn trip(&mut self, key: &K, round: Round, cause: EjectCause, now: Instant) {
        match self.entries.get(key) {
            Some(entry) if entry.place() == EjectPlace::In && entry.round == round => {
                self.eject_if_room(key, cause, now);
            }
            _ => {}
        }
    }

    /// The requests of an endpoint in the last one to two tenths of the window, for
    /// [`Recent::is_shared_by`]. None for an endpoint that is out.
    pub(crate) fn recent<T>(&self, key: &K, health: &EndpointHealth<T>) -> Recent {
        let Some(entry) = self
            .entries
            .get(key)
            .filter(|e| e.place() == EjectPlace::In)
        else {
            return Recent::default();
        };
        let (failed, total) = match entry.recent() {
            Some(start) => health.sums().counts_since(start),
            None => health.counts(),
        };
        Recent { failed, total }
    }

    /// Handles a signal of [`EndpointHealth::record`] that a probe has ended.
    pub(crate) fn probed(
        &mut self,
        key: &K,
        round: Round,
        outcome: Outcome,
        latency: Option<Duration>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let Some(past) = entry.past().filter(|_| entry.round == round) else {
            return;
        };
        if !matches!(past.place, EjectPlace::Probing { .. }) {
            return;
        }
        let limit = self.slow.map(|slow| slow.limit());
        let still_slow = matches!(past.cause, EjectCause::Slow { .. })
            && limit.is_some_and(|limit| latency.is_some_and(|latency| latency > limit));
        // A probe may be cancelled before a response can arrive, for example because a hedge was faster.
        // This proves nothing and must not keep a healthy endpoint out for ever, so the endpoint is
        // restored with slow start.
        let unproved = outcome == Outcome::Cancelled
            && latency.is_some_and(|latency| latency < self.rules.probe_timeout / 2);
        if outcome == Outcome::Success && !still_slow {
            self.restore(key, Restored::Probe, now);
        } else if unproved {
            self.restore(key, Restored::Doubt, now);
        } else {
            let failed = outcome != Outcome::Success;
            let told = failed.then_some(EjectCause::ProbeFailed);
            self.eject_again(key, told, now);
        }
    }

    /// Handles `failures` failed checks in a row. Call it at each failure, because an endpoint that is
    /// spared now may be ejected at a later one.
    pub(crate) fn check_failed(&mut self, key: &K, failures: u32, now: Instant) {
        let cause = EjectCause::HealthCheck { failures };
        match self.place(key) {
            Some(EjectPlace::In) => self.eject_if_room(key, cause, now),
            Some(EjectPlace::Ejected | EjectPlace::Probing { .. }) => {
                self.set_due(key, None);
                self.turn_out(key, EjectPlace::Failing { probe: true }, cause, None);
            }
            _ => {}
        }
    }

    /// Handles a passed check. It restores an endpoint only if its checks ejected it, because a passed
    /// check does not prove that requests succeed.
    pub(crate) fn check_passed(&mut self, key: &K, now: Instant) {
        match self.place(key) {
            Some(EjectPlace::Failing { probe: true }) => self.probe(key, now),
            Some(EjectPlace::Failing { probe: false }) => {
                self.restore(key, Restored::HealthCheck, now)
            }
            _ => {}
        }
    }

    /// Ejects an endpoint until it is restored by hand, even the last one. Returns whether it is known.
    pub(crate) fn eject(&mut self, key: &K, now: Instant) -> bool {
        let Some(place) = self.place(key) else {
            return false;
        };
        if place != EjectPlace::Held {
            self.hold(key, now);
            self.keep_share(now);
        }
        true
    }

    /// Restores an endpoint, whatever ejected it, and forgets its history. Returns whether it was out.
    pub(crate) fn restore_by_hand(&mut self, key: &K, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        let out = entry.place() != EjectPlace::In;
        if let Some(past) = entry.past_mut() {
            past.times = 0;
        }
        if out {
            self.restore(key, Restored::ByHand, now);
        }
        out
    }

    /// The time of the next call of [`due`](Self::due) and [`tick`](Self::tick).
    pub(crate) fn next_deadline(&self) -> Instant {
        let first = self.deadlines.next();
        first.map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// Handles the deadlines that have passed. `health` looks an endpoint up.
    pub(crate) fn due<'h, T: 'h>(
        &mut self,
        now: Instant,
        mut health: impl FnMut(&K) -> Option<&'h EndpointHealth<T>>,
    ) {
        while let Some(key) = self.deadlines.pop(now) {
            let entry = self.entries.get_mut(&key);
            let Some(past) = entry.and_then(EjectEntry::past_mut) else {
                continue;
            };
            past.due = None;
            let EjectPlace::Probing { turn } = past.place else {
                self.probe(&key, now);
                continue;
            };
            let taken = health(&key).and_then(EndpointHealth::taken);
            if taken.is_some() && taken == turn {
                // The same probe has been in progress since the last deadline, so it counts as failed.
                self.eject_again(&key, Some(EjectCause::ProbeFailed), now);
            } else {
                // No request took the permit, or one took it after the last deadline.
                past.place = EjectPlace::Probing { turn: taken };
                let deadline = after(now, self.rules.probe_timeout);
                self.set_due(&key, Some(deadline));
            }
        }
    }

    /// Whether a call of [`tick`](Self::tick) is due.
    pub(crate) fn is_tick_due(&self, now: Instant) -> bool {
        now >= self.next_tick
    }

    /// Moves the windows on, and ejects endpoints that are far slower than their peers. Call it with all
    /// endpoints whenever it [is due](Self::is_tick_due), at each tenth of the window. A late call
    /// lengthens the windows by its delay.
    pub(crate) fn tick<'h, T>(
        &mut self,
        now: Instant,
        endpoints: impl Iterator<Item = (&'h K, &'h EndpointHealth<T>)>,
    ) where
        K: 'h,
        T: 'h,
    {
        if !self.is_tick_due(now) {
            return;
        }
        let bucket = self.rules.bucket();
        let late = now.saturating_duration_since(self.next_tick);
        // Skips all buckets of a gap at once.
        let missed = (late.as_nanos() / bucket.as_nanos()).min(u128::from(BUCKETS)) as u32;
        self.next_tick = now + bucket;
        let mut measured = Vec::new();
        let mut healths = Vec::new();
        for (key, health) in endpoints {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            if entry.place() != EjectPlace::In {
                continue;
            }
            health.rearm();
            healths.push(health);
            let (start, is_full) = entry.slide(health, missed + 1);
            if is_full {
                health.rebase(start);
            }
            let latency = health.sums().latency_since(start);
            if latency.count() >= self.rules.min_requests.into() {
                measured.extend(latency.typical().map(|estimate| (key, estimate)));
            }
        }
        let mut estimates: Vec<_> = measured.iter().map(|(_, estimate)| *estimate).collect();
        self.slow = SlowLimit::of(&mut estimates, &self.rules);
        let Some(slow) = self.slow else {
            return;
        };
        for health in healths {
            health.set_slow_after(Some(slow.limit()));
        }
        // The slowest first, because there may not be room for all of them.
        measured.retain(|(_, estimate)| *estimate > slow.limit());
        measured.sort_by_key(|(_, estimate)| std::cmp::Reverse(*estimate));
        for (key, estimate) in measured {
            if let Some(cause) = slow.judge(estimate) {
                self.eject_if_room(key, cause, now);
            }
        }
    }

    /// The next decision, in order.
    pub(crate) fn next_step(&mut self) -> Option<EjectStep<K>> {
        self.steps.pop_front()
    }

    /// Sets whether an endpoint has a weight. Call [`keep_share`](Self::keep_share) after this is set for
    /// all.
    ///
    /// The share that may be out refers to the endpoints with a weight (see
    /// [`Share`](super::share::Share)). An endpoint without a weight may be ejected in addition. Its time
    /// runs, and it is probed when it has a weight again.
    pub(crate) fn set_weighed(&mut self, key: &K, weighs: bool) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.weighs == weighs {
            return;
        }
        entry.weighs = weighs;
        let out = entry.past().and_then(|past| past.out);
        self.share.set_weighed(weighs, out);
    }

    /// Restores endpoints while more are out than allowed.
    pub(crate) fn keep_share(&mut self, now: Instant) {
        while let Some(key) = self.share.surplus(&self.rules).cloned() {
            self.restore(&key, Restored::Guard, now);
        }
    }

    /// Number of endpoints that take no ordinary requests, including those that are probed.
    #[cfg(test)]
    pub(crate) fn out(&self) -> usize {
        self.share.out()
    }

    /// Number of endpoints.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn place(&self, key: &K) -> Option<EjectPlace> {
        self.entries.get(key).map(EjectEntry::place)
    }

    /// The reason why an endpoint is out; `None` while it is in.
    pub(crate) fn cause(&self, key: &K) -> Option<EjectCause> {
        let past = self.entries.get(key)?.past()?;
        (past.place != EjectPlace::In).then_some(past.cause)
    }
}
