//! The moves of an endpoint between in and out. Each move begins a round and adds a step. Pure.

use std::{hash::Hash, time::Duration};

use tokio::time::Instant;

use super::{
    cause::{EjectCause, Restored},
    ejector::Ejector,
    entry::{EjectEntry, EjectPlace},
    gate::Round,
    step::{EjectStep, StepKind},
};
use crate::backoff::{after, jittered};

/// The time without an ejection that takes back one doubling of the ejection time. Envoy uses the same
/// interval.
const FORGIVE: Duration = Duration::from_secs(10);

/// So that clients which ejected an endpoint together do not probe it together. The ratio of gRPC.
const JITTER: f64 = 0.2;

impl<K: Clone + Eq + Hash> Ejector<K> {
    pub(super) fn has_room_for(&self, key: &K) -> bool {
        let weighs = self.entries.get(key).is_some_and(|entry| entry.weighs);
        self.share.has_room(weighs, &self.rules)
    }

    /// Ejects an endpoint until it is restored by hand.
    pub(super) fn hold(&mut self, key: &K, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            let weighs = entry.weighs;
            let past = entry.remember(now);
            past.out = Some(self.share.hold(weighs, past.out));
            self.set_due(key, None);
            self.turn_out(key, EjectPlace::Held, EjectCause::ByHand, None);
        }
    }

    pub(super) fn eject_if_room(&mut self, key: &K, cause: EjectCause, now: Instant) {
        if !self.has_room_for(key) {
            return self.spare(key, cause, now);
        }
        self.count_out(key, now);
        if let EjectCause::HealthCheck { .. } = cause {
            self.turn_out(key, EjectPlace::Failing { probe: false }, cause, None);
        } else {
            self.eject_for_a_time(key, cause, now);
        }
    }

    pub(super) fn count_out(&mut self, key: &K, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            let out = self.share.eject(entry.weighs, key.clone());
            entry.remember(now).out = Some(out);
        }
    }

    /// Ejects for the next longer time after a probe. The reason for the ejection stays; subscribers get
    /// `told`, if it is set.
    pub(super) fn eject_again(&mut self, key: &K, told: Option<EjectCause>, now: Instant) {
        let Some(cause) = self
            .entries
            .get(key)
            .and_then(EjectEntry::past)
            .map(|past| past.cause)
        else {
            return;
        };
        self.eject_for_a_time(key, told.unwrap_or(cause), now);
        if let Some(past) = self.entries.get_mut(key).and_then(EjectEntry::past_mut) {
            past.cause = cause;
        }
    }

    /// Ejects for the next longer time.
    pub(super) fn eject_for_a_time(&mut self, key: &K, cause: EjectCause, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let past = entry.remember(now);
        if past.place == EjectPlace::In {
            let health = now.saturating_duration_since(past.healthy);
            let forgiven = health.as_nanos() / FORGIVE.as_nanos();
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            past.times = past.times.saturating_sub(forgiven);
        }
        past.times = past.times.saturating_add(1);
        let time = jittered(self.rules.time_out(past.times), JITTER, &mut self.rng);
        self.set_due(key, Some(after(now, time)));
        self.turn_out(key, EjectPlace::Ejected, cause, Some(time));
    }

    pub(super) fn turn_out(
        &mut self,
        key: &K,
        place: EjectPlace,
        cause: EjectCause,
        time: Option<Duration>,
    ) {
        let entry = self.entries.get_mut(key);
        if let Some(past) = entry.and_then(EjectEntry::past_mut) {
            (past.place, past.cause, past.spared) = (place, cause, None);
        }
        self.step(key, StepKind::Ejected { cause, time });
    }

    pub(super) fn probe(&mut self, key: &K, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.remember(now).place = EjectPlace::Probing { turn: None };
            let deadline = after(now, self.rules.probe_timeout);
            self.set_due(key, Some(deadline));
            self.step(key, StepKind::Probe);
        }
    }

    pub(super) fn restore(&mut self, key: &K, by: Restored, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        // Requests from before the ejection do not count.
        entry.restart();
        let weighs = entry.weighs;
        let past = entry.remember(now);
        self.share.restore(weighs, past.out.take());
        (past.place, past.healthy) = (EjectPlace::In, now);
        self.set_due(key, None);
        self.step(key, StepKind::Restored { by });
    }

    pub(super) fn spare(&mut self, key: &K, cause: EjectCause, now: Instant) {
        let window = self.rules.window;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let round = entry.round;
        let past = entry.remember(now);
        // At most one such step in each window.
        let told = past
            .spared
            .is_some_and(|told| now.saturating_duration_since(told) < window);
        if !told {
            past.spared = Some(now);
            self.steps.push_back(EjectStep {
                key: key.clone(),
                round,
                kind: StepKind::Spared { cause },
            });
        }
    }

    pub(super) fn set_due(&mut self, key: &K, at: Option<Instant>) {
        let entry = self.entries.get_mut(key);
        let Some(past) = entry.and_then(EjectEntry::past_mut) else {
            return;
        };
        if let Some(due) = past.due.take() {
            self.deadlines.remove(due);
        }
        past.due = at.map(|at| self.deadlines.add(at, key.clone()));
    }

    /// Begins a round.
    fn step(&mut self, key: &K, kind: StepKind) {
        let round = self.next_round();
        if let Some(entry) = self.entries.get_mut(key) {
            entry.round = round;
        }
        self.steps.push_back(EjectStep {
            key: key.clone(),
            round,
            kind,
        });
    }

    pub(super) fn next_round(&mut self) -> Round {
        self.rounds = self.rounds.wrapping_add(1);
        Round(self.rounds)
    }
}
