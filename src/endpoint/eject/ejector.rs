//! Decides who is out, for how long, and who is tried again. Pure: told of what happened, it hands out
//! the steps that follow.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    hash::Hash,
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::{
    cause::{Cause, Restored},
    entry::{Entry, History, Place},
    gate::Round,
    health::Health,
    peers::Peers,
    recent::Recent,
    settings::{BUCKETS, EjectionSettings},
    step::{Step, StepKind},
};
use crate::{
    backoff::{after, jittered},
    classify::Outcome,
};

/// So much health takes one doubling of the ejection time back: Envoy's interval for the same.
const FORGIVE: Duration = Duration::from_secs(10);

/// So that clients which ejected an endpoint together do not probe it together; gRPC's ratio.
const JITTER: f64 = 0.2;

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
/// Events go in through the methods, and what follows comes out of [`next_step`](Self::next_step).
/// Nothing it does depends on anything but those, the settings and the generator: equal runs with
/// equal seeds are equal.
///
/// As long as it is asked for at its [deadlines](Self::next_deadline), these hold:
/// - without endpoints ejected by hand, never more of those that [have a weight](Self::set_weighed) are
///   out than [`EjectionSettings::allowed`] says; when there are fewer, those who have been out longest
///   return;
/// - every endpoint that is out through its own requests is probed, again and again;
/// - a word from an earlier [`Round`] changes nothing.
pub struct Ejector<K> {
    rules: EjectionSettings,
    rng: SmallRng,
    entries: HashMap<K, Entry>,
    deadlines: BTreeMap<(Instant, u64), K>,
    weighed: Group<K>,
    drained: Group<K>,
    peers: Option<Peers>,
    next_tick: Instant,
    steps: VecDeque<Step<K>>,
    rounds: u32,
    serial: u64,
}

/// The endpoints with a weight, or those without.
struct Group<K> {
    len: usize,
    /// Those who are out and not held, in the order in which they went.
    away: BTreeMap<u64, K>,
    /// Those who are held.
    held: usize,
}

impl<K> Group<K> {
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
}

impl<K: Clone + Eq + Hash> Ejector<K> {
    /// An ejector without endpoints.
    pub fn new(rules: EjectionSettings, rng: SmallRng, now: Instant) -> Self {
        Self {
            next_tick: now + rules.bucket(),
            rules,
            rng,
            entries: HashMap::new(),
            deadlines: BTreeMap::new(),
            weighed: Group::new(),
            drained: Group::new(),
            peers: None,
            steps: VecDeque::new(),
            rounds: 0,
            serial: 0,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &EjectionSettings {
        &self.rules
    }

    /// Takes an endpoint on, with a weight and an open gate, and says in which round. One that is known
    /// stays as it is.
    pub fn insert(&mut self, key: K) -> Round {
        if let Some(entry) = self.entries.get(&key) {
            return entry.round;
        }
        let round = self.next_round();
        self.entries.insert(key, Entry::new(round));
        self.weighed.len += 1;
        round
    }

    /// Forgets an endpoint, and hands out what was known of it, for when it [is back](Self::recall).
    /// Others may return, as fewer may now be out.
    pub fn remove(&mut self, key: &K, now: Instant) -> Option<History> {
        let entry = self.forget(key)?;
        self.keep_share(now);
        entry.history()
    }

    /// Gives back what was known of an endpoint that has just been [inserted](Self::insert) again. If it
    /// was out, it is out for the rest of its time, or spared; and the next time is longer than the last.
    /// Who was ejected by hand is in, because that is an order and no experience.
    pub fn recall(&mut self, key: &K, history: History, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.place() != Place::In {
            return;
        }
        let past = entry.relive(history);
        let (place, cause) = (past.place, past.cause);
        // Of one that was on trial, none.
        let rest = match place {
            Place::Ejected => past.due.map(|(at, _)| at.saturating_duration_since(now)),
            _ => None,
        };
        past.due = None;
        if place == Place::In {
            return;
        }
        (past.place, past.order, past.healthy) = (Place::In, None, now);
        if place == Place::Held {
            return;
        }
        if !self.has_room_for(key) {
            return self.spare(key, cause, now);
        }
        self.line_up(key, now);
        if let Place::Failing { .. } = place {
            self.turn_out(key, place, cause, None);
        } else {
            let rest = rest.unwrap_or_default();
            self.set_due(key, Some(now + rest));
            self.turn_out(key, Place::Ejected, cause, Some(rest));
        }
    }

    /// Another process has taken an endpoint's place: forgets what is known of the one before, and says
    /// in which round the new one begins. Who is ejected by hand stays so.
    pub fn renew(&mut self, key: &K, now: Instant) -> Round {
        let entry = self.entries.get(key);
        let held = entry.map(Entry::place) == Some(Place::Held);
        let weighs = entry.is_none_or(|entry| entry.weighs);
        self.forget(key);
        let round = self.insert(key.clone());
        self.set_weighed(key, weighs);
        if held {
            self.eject(key, now);
        }
        round
    }

    fn forget(&mut self, key: &K) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        let group = group(&mut self.weighed, &mut self.drained, entry.weighs);
        group.len -= 1;
        if let Some(past) = entry.past() {
            if let Some(due) = past.due {
                self.deadlines.remove(&due);
            }
            match past.order {
                Some(order) => _ = group.away.remove(&order),
                None if past.place == Place::Held => group.held -= 1,
                None => {}
            }
        }
        Some(entry)
    }

    /// An endpoint should be ejected, as [`Health::record`] said.
    pub fn trip(&mut self, key: &K, round: Round, cause: Cause, now: Instant) {
        match self.entries.get(key) {
            Some(entry) if entry.place() == Place::In && entry.round == round => {
                self.eject_if_room(key, cause, now);
            }
            _ => {}
        }
    }

    /// What an endpoint failed in the last one to two tenths of the window. Of one that is out, nothing.
    ///
    /// For [`Recent::is_shared_by`], which tells whether its peers fail as much.
    pub fn recent<T>(&self, key: &K, health: &Health<T>) -> Recent {
        let Some(entry) = self.entries.get(key).filter(|e| e.place() == Place::In) else {
            return Recent::default();
        };
        let (failed, total) = match entry.recent() {
            Some(start) => health.sums().counts_since(start),
            None => health.counts(),
        };
        Recent { failed, total }
    }

    /// A probe is over, as [`Health::record`] said.
    pub fn probed(
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
        if !matches!(past.place, Place::Probing { .. }) {
            return;
        }
        let limit = self.peers.map(|peers| peers.limit());
        let still_slow = matches!(past.cause, Cause::Slow { .. })
            && limit.is_some_and(|limit| latency.is_some_and(|latency| latency > limit));
        // Taken back before it could be answered, as by a hedge that was faster: that proves nothing,
        // and would keep a healthy endpoint out for ever. Its share in slow start will tell.
        let unproved = outcome == Outcome::Cancelled
            && latency.is_some_and(|latency| latency < self.rules.probe_timeout / 2);
        if outcome == Outcome::Success && !still_slow {
            self.restore(key, Restored::Probe, now);
        } else if unproved {
            self.restore(key, Restored::Doubt, now);
        } else {
            self.eject_for_a_time(key, None, now);
        }
    }

    /// An endpoint's checks fail, so many times in a row; to be told at each failure, because one
    /// that is spared now may not be later.
    pub fn check_failed(&mut self, key: &K, failures: u32, now: Instant) {
        let cause = Cause::HealthCheck { failures };
        match self.entries.get(key).map(Entry::place) {
            Some(Place::In) => self.eject_if_room(key, cause, now),
            Some(Place::Ejected | Place::Probing { .. }) => {
                self.set_due(key, None);
                self.turn_out(key, Place::Failing { probe: true }, cause, None);
            }
            _ => {}
        }
    }

    /// An endpoint's checks pass. That only brings back who was out because of them: that a check
    /// passes does not prove that requests do.
    pub fn check_passed(&mut self, key: &K, now: Instant) {
        match self.entries.get(key).map(Entry::place) {
            Some(Place::Failing { probe: true }) => self.probe(key, now),
            Some(Place::Failing { probe: false }) => self.restore(key, Restored::HealthCheck, now),
            _ => {}
        }
    }

    /// Ejects an endpoint until it is restored by hand, even the last. Returns whether it is known.
    pub fn eject(&mut self, key: &K, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        if entry.place() != Place::Held {
            let group = group(&mut self.weighed, &mut self.drained, entry.weighs);
            if let Some(order) = entry.remember(now).order.take() {
                group.away.remove(&order);
            }
            group.held += 1;
            self.set_due(key, None);
            self.turn_out(key, Place::Held, Cause::ByHand, None);
            self.keep_share(now);
        }
        true
    }

    /// Restores an endpoint, whyever it is out, and forgets its past. Returns whether it was out.
    pub fn restore_by_hand(&mut self, key: &K, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        let out = entry.place() != Place::In;
        if let Some(past) = entry.past_mut() {
            past.times = 0;
        }
        if out {
            self.restore(key, Restored::ByHand, now);
        }
        out
    }

    /// When it wants to be asked again.
    pub fn next_deadline(&self) -> Instant {
        let first = self.deadlines.first_key_value().map(|((at, _), _)| *at);
        first.map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// Does what is due. `health` looks an endpoint up.
    pub fn due<'h, T: 'h>(
        &mut self,
        now: Instant,
        mut health: impl FnMut(&K) -> Option<&'h Health<T>>,
    ) {
        while let Some(first) = self.deadlines.first_entry() {
            if first.key().0 > now {
                return;
            }
            let key = first.remove();
            let entry = self.entries.get_mut(&key);
            let Some(past) = entry.and_then(Entry::past_mut) else {
                continue;
            };
            past.due = None;
            let Place::Probing { turn } = past.place else {
                self.probe(&key, now);
                continue;
            };
            let taken = health(&key).and_then(Health::taken);
            if taken.is_some() && taken == turn {
                // Under way for the whole of the time: it is lost, or as good as.
                self.eject_for_a_time(&key, None, now);
            } else {
                // Nobody came, or somebody came just now.
                past.place = Place::Probing { turn: taken };
                let deadline = after(now, self.rules.probe_timeout);
                self.set_due(&key, Some(deadline));
            }
        }
    }

    /// Whether it is time for [`tick`](Self::tick).
    pub fn is_tick_due(&self, now: Instant) -> bool {
        now >= self.next_tick
    }

    /// Moves the windows on, and ejects who is far slower than its peers. To be called with all
    /// endpoints whenever it [is due](Self::is_tick_due), a tenth of the window at a time: late, the
    /// windows are longer by that.
    pub fn tick<'h, T>(
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
        let bucket = self.rules.bucket();
        let late = now.saturating_duration_since(self.next_tick);
        // A gap of many buckets is moved over at once.
        let missed = (late.as_nanos() / bucket.as_nanos()).min(u128::from(BUCKETS)) as u32;
        self.next_tick = now + bucket;
        let mut measured = Vec::new();
        let mut healths = Vec::new();
        for (key, health) in endpoints {
            let Some(entry) = self.entries.get_mut(key) else {
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
            if latency.count() >= self.rules.min_requests {
                measured.extend(latency.typical().map(|estimate| (key, estimate)));
            }
        }
        let mut estimates: Vec<_> = measured.iter().map(|(_, estimate)| *estimate).collect();
        self.peers = Peers::of(&mut estimates, &self.rules);
        let Some(peers) = self.peers else {
            return;
        };
        for health in healths {
            health.set_slow_after(Some(peers.limit()));
        }
        // The slowest first, as there may not be room for all.
        measured.retain(|(_, estimate)| *estimate > peers.limit());
        measured.sort_by_key(|(_, estimate)| std::cmp::Reverse(*estimate));
        for (key, estimate) in measured {
            if let Some(cause) = peers.judge(estimate) {
                self.eject_if_room(key, cause, now);
            }
        }
    }

    /// What follows from what happened, one step at a time, in order.
    pub fn next_step(&mut self) -> Option<Step<K>> {
        self.steps.pop_front()
    }

    /// Tells whether an endpoint has a weight; to be followed by [`keep_share`](Self::keep_share) when
    /// that is known of all.
    ///
    /// One without gets no requests. So it is no help while others are out, and takes nothing away when
    /// it is out itself: the share that may be out is of those with a weight. It is ejected whoever else
    /// is out, its time runs, and it can be probed when it has a weight again. Where none has a weight,
    /// all count.
    pub fn set_weighed(&mut self, key: &K, weighs: bool) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.weighs == weighs {
            return;
        }
        entry.weighs = weighs;
        let (mut from, mut to) = (&mut self.weighed, &mut self.drained);
        if weighs {
            std::mem::swap(&mut from, &mut to);
        }
        from.len -= 1;
        to.len += 1;
        match entry.past().and_then(|past| past.order) {
            Some(order) => to.away.extend(from.away.remove_entry(&order)),
            None if entry.place() == Place::Held => {
                from.held -= 1;
                to.held += 1;
            }
            None => {}
        }
    }

    /// Lets those return that may no longer be out.
    pub fn keep_share(&mut self, now: Instant) {
        loop {
            let group = self.counted();
            if group.out() <= self.rules.allowed(group.len) {
                return;
            }
            // Those who are held stay.
            let Some(key) = group.away.values().next().cloned() else {
                return;
            };
            self.restore(&key, Restored::Guard, now);
        }
    }

    /// Those of whom a share may be out.
    fn counted(&self) -> &Group<K> {
        if self.weighed.len > 0 {
            &self.weighed
        } else {
            &self.drained
        }
    }

    fn has_room_for(&self, key: &K) -> bool {
        let weighs = self.entries.get(key).is_some_and(|entry| entry.weighs);
        if !weighs && self.weighed.len > 0 {
            // Unless none is to be ejected at all.
            return self.rules.allowed(self.entries.len()) > 0;
        }
        let group = self.counted();
        group.out() < self.rules.allowed(group.len)
    }

    /// The number of endpoints that take no requests, those on trial included.
    pub fn out(&self) -> usize {
        self.weighed.out() + self.drained.out()
    }

    /// The number of endpoints.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no endpoints.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why an endpoint is out; `None` while it is in.
    pub fn cause(&self, key: &K) -> Option<Cause> {
        let past = self.entries.get(key)?.past()?;
        (past.place != Place::In).then_some(past.cause)
    }

    fn eject_if_room(&mut self, key: &K, cause: Cause, now: Instant) {
        if !self.has_room_for(key) {
            return self.spare(key, cause, now);
        }
        self.line_up(key, now);
        if let Cause::HealthCheck { .. } = cause {
            self.turn_out(key, Place::Failing { probe: false }, cause, None);
        } else {
            self.eject_for_a_time(key, Some(cause), now);
        }
    }

    /// Counts it among those who are out.
    fn line_up(&mut self, key: &K, now: Instant) {
        self.serial += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.remember(now).order = Some(self.serial);
            let group = group(&mut self.weighed, &mut self.drained, entry.weighs);
            group.away.insert(self.serial, key.clone());
        }
    }

    /// Ejects for the next longer time, for the same cause as before unless given one.
    fn eject_for_a_time(&mut self, key: &K, cause: Option<Cause>, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let past = entry.remember(now);
        if past.place == Place::In {
            let health = now.saturating_duration_since(past.healthy);
            let forgiven = health.as_nanos() / FORGIVE.as_nanos();
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            past.times = past.times.saturating_sub(forgiven);
        }
        past.times = past.times.saturating_add(1);
        let cause = cause.unwrap_or(past.cause);
        let time = jittered(self.rules.time.bound(past.times), JITTER, &mut self.rng);
        self.set_due(key, Some(after(now, time)));
        self.turn_out(key, Place::Ejected, cause, Some(time));
    }

    fn turn_out(&mut self, key: &K, place: Place, cause: Cause, time: Option<Duration>) {
        let entry = self.entries.get_mut(key);
        if let Some(past) = entry.and_then(Entry::past_mut) {
            (past.place, past.cause, past.spared) = (place, cause, None);
        }
        self.step(key, StepKind::Ejected { cause, time });
    }

    fn probe(&mut self, key: &K, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.remember(now).place = Place::Probing { turn: None };
            let deadline = after(now, self.rules.probe_timeout);
            self.set_due(key, Some(deadline));
            self.step(key, StepKind::Probe);
        }
    }

    fn restore(&mut self, key: &K, by: Restored, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        // Requests of before are not held against it.
        entry.restart();
        let group = group(&mut self.weighed, &mut self.drained, entry.weighs);
        let past = entry.remember(now);
        match past.order.take() {
            Some(order) => _ = group.away.remove(&order),
            None => group.held -= 1,
        }
        (past.place, past.healthy) = (Place::In, now);
        self.set_due(key, None);
        self.step(key, StepKind::Restored { by });
    }

    fn spare(&mut self, key: &K, cause: Cause, now: Instant) {
        let window = self.rules.window;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let round = entry.round;
        let past = entry.remember(now);
        // Once a window is often enough to tell.
        let told = past
            .spared
            .is_some_and(|told| now.saturating_duration_since(told) < window);
        if !told {
            past.spared = Some(now);
            self.steps.push_back(Step {
                key: key.clone(),
                round,
                kind: StepKind::Spared { cause },
            });
        }
    }

    fn set_due(&mut self, key: &K, at: Option<Instant>) {
        let entry = self.entries.get_mut(key);
        let Some(past) = entry.and_then(Entry::past_mut) else {
            return;
        };
        if let Some(due) = past.due.take() {
            self.deadlines.remove(&due);
        }
        if let Some(at) = at {
            self.serial += 1;
            past.due = Some((at, self.serial));
            self.deadlines.insert((at, self.serial), key.clone());
        }
    }

    /// Begins a round.
    fn step(&mut self, key: &K, kind: StepKind) {
        let round = self.next_round();
        if let Some(entry) = self.entries.get_mut(key) {
            entry.round = round;
        }
        self.steps.push_back(Step {
            key: key.clone(),
            round,
            kind,
        });
    }

    fn next_round(&mut self) -> Round {
        self.rounds = self.rounds.wrapping_add(1);
        Round(self.rounds)
    }
}

/// The group of those with a weight, or of those without.
fn group<'a, K>(
    weighed: &'a mut Group<K>,
    drained: &'a mut Group<K>,
    weighs: bool,
) -> &'a mut Group<K> {
    if weighs { weighed } else { drained }
}

impl<K> fmt::Debug for Ejector<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ejector")
            .field("endpoints", &self.entries.len())
            .field("out", &(self.weighed.out() + self.drained.out()))
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
