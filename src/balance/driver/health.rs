//! Ejection and slow start: who is out, and who gets less.

use std::{
    fmt,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};
use tower::discover::Discover;

use super::{Alarm, Driver, FLOOD, TURN, roll::Member};
use crate::{
    attempt::EndpointId,
    backoff::after,
    balance::{checks::Found, handle::Event, policy::Policy, topology::Split},
    endpoint::{
        Age,
        eject::{Recent, Signal, StepKind},
        load::LoadTracker,
    },
    instance::Weight,
    task::at_once,
};

/// How often the guard of a split looks, where its window does not ask for more.
const GUARD_LOOK: Duration = Duration::from_secs(1);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// The ramp of an endpoint that is new or restored. Whether anybody is warm, so that there is
    /// something to ramp for, [`weigh`](Self::weigh) finds out when all of a burst are there.
    pub(super) fn new_ramp(&self) -> Option<Age> {
        self.settings.ramp.map(|_| Age::default())
    }

    /// Whether the weights of endpoints in slow start have changed. Ends it for those that are warm.
    pub(super) fn warm_up(&mut self, now: Instant) -> bool {
        if self.warm_at.is_none_or(|at| at > now) {
            return false;
        }
        let Some(ramp) = self.settings.ramp else {
            return false;
        };
        for member in &mut self.roll.members {
            member
                .ramp
                .take_if(|age| ramp.next_change(age.at(now)).is_none());
        }
        true
    }

    /// Hears all that requests tell.
    pub(super) async fn hear_all(&mut self, mut first: Option<Alarm>, now: Instant) {
        // What all have failed is added up once: in an outage, all endpoints tell something.
        let mut all = None;
        for heard in 1..=FLOOD {
            let Some(alarm) = first.take().or_else(|| self.alarms.try_recv().ok()) else {
                return;
            };
            let (id, signal) = *alarm;
            self.hear(id, signal, &mut all, now);
            if heard % TURN == 0 {
                yield_now().await;
            }
        }
    }

    /// Hears what requests tell of an endpoint. `all` is what all that are in have failed, once that is
    /// known.
    fn hear(&mut self, id: EndpointId, signal: Signal, all: &mut Option<Recent>, now: Instant) {
        let Some(place) = self.roll.place_of(id) else {
            return;
        };
        let (members, ejector) = (&self.roll.members, &mut self.ejector);
        let member = &members[place];
        match signal {
            Signal::Tripped { round, cause } => {
                let recent = |m: &Member<S, P::Load>| ejector.recent(&m.id, &m.state.health);
                let sum = all.get_or_insert_with(|| members.iter().map(recent).sum());
                let own = recent(member);
                if own.is_shared_by(*sum - own) {
                    let endpoint = &member.state.key;
                    tracing::debug!(%endpoint, "not ejected, others fail as much: {cause}");
                    return;
                }
                ejector.trip(&member.id, round, cause, now);
                if ejector.cause(&member.id).is_some() {
                    *sum = *sum - own;
                }
            }
            Signal::Probed {
                round,
                outcome,
                latency,
            } => ejector.probed(&member.id, round, outcome, latency, now),
        }
    }

    /// Hears all that checks have found.
    pub(super) async fn check_all(&mut self, mut first: Option<Found<D::Key>>, now: Instant) {
        for checked in 1..=FLOOD {
            let found = match first.take() {
                None => at_once(self.checker.next()).await,
                found => found,
            };
            let Some(found) = found else { return };
            self.checked(&found, now);
            if checked % TURN == 0 {
                yield_now().await;
            }
        }
    }

    fn checked(&mut self, found: &Found<D::Key>, now: Instant) {
        let Some(id) = self.roll.index.get(&found.key) else {
            return;
        };
        if found.failures > 0 {
            self.ejector.check_failed(id, found.failures, now);
        } else if found.passed {
            // Of one that is back nobody knows yet whether the first failure is the last.
            self.ejector.check_passed(id, now);
        }
    }

    /// Does what is due about endpoints and versions that fail.
    pub(super) fn judge(&mut self, now: Instant) {
        let roll = &self.roll;
        self.ejector.due(now, |id| {
            let place = roll.place(*id)?;
            Some(&roll.members[place].state.health)
        });
        if self.common.rules.is_some() && self.ejector.is_tick_due(now) {
            let endpoints = roll.members.iter().map(|m| (&m.id, &m.state.health));
            self.ejector.tick(now, endpoints);
        }
        if self.guard_at.is_some_and(|at| at <= now) {
            let split = self.settings.topology.as_split();
            let every = split.and_then(Split::look_every).unwrap_or(GUARD_LOOK);
            self.guard_at = Some(after(now, every.min(GUARD_LOOK)));
            if let Some(trip) = split.and_then(|split| split.check(now)) {
                tracing::warn!("{trip}");
            }
        }
        // Also when another balancer with the same split was the one that looked.
        let split = self.settings.topology.as_split();
        if let Some((epoch, trip)) = split.and_then(|split| split.trip_after(self.trip_told)) {
            self.trip_told = epoch;
            self.tell(Event::SplitTripped(trip));
        }
    }

    /// Does what the ejector decided. Returns whether a snapshot is due.
    pub(super) fn follow(&mut self, now: Instant) -> bool {
        let mut dirty = false;
        while let Some(step) = self.ejector.next_step() {
            let Some(place) = self.roll.place(step.key) else {
                continue;
            };
            let member = &mut self.roll.members[place];
            member.state.health.follow(&step);
            let key = member.state.key.clone();
            dirty |= !matches!(step.kind, StepKind::Spared { .. });
            let event = match step.kind {
                StepKind::Ejected { cause, time } => {
                    tracing::warn!(endpoint = %key, ?time, "ejected: {cause}");
                    member.out = true;
                    // It begins anew when it is back.
                    member.ramp = None;
                    Event::Ejected(key, cause, time)
                }
                StepKind::Probe => {
                    member.out = true;
                    Event::Probing(key)
                }
                StepKind::Restored { by } => {
                    tracing::info!(endpoint = %key, "restored: {by}");
                    let tracker = member.state.tracker();
                    // A tracker that panics over it keeps what it knows.
                    let _ = catch_unwind(AssertUnwindSafe(|| tracker.forget(now)));
                    member.out = false;
                    let ramp = self.new_ramp();
                    self.roll.members[place].ramp = ramp;
                    Event::Restored(key, by)
                }
                StepKind::Spared { cause } => {
                    tracing::warn!(endpoint = %key, "not ejected, too many are: {cause}");
                    Event::Spared(key, cause)
                }
            };
            self.tell(event);
        }
        dirty
    }

    /// Looks at what all weigh. Returns whether any has a weight.
    pub(super) fn weigh(&mut self, now: Instant) -> bool {
        let mut members = self.roll.members.iter();
        let weighed = members.any(|member| member.weight() > Weight::ZERO);
        let mut next = None::<Instant>;
        let (mut warm, mut ramping, mut are_warm) = (0.0, 0.0, 0);
        for member in &mut self.roll.members {
            let weight = member.weight();
            let weighs = weight > Weight::ZERO;
            if member.weighs != weighs {
                member.weighs = weighs;
                self.ejector.set_weighed(&member.id, weighs);
            }
            let weight = f64::from(weight.get());
            match (self.settings.ramp, &mut member.ramp) {
                // It is sent nothing, and does not get warmer.
                (Some(_), Some(age)) if weighed && !weighs => age.stop(now),
                (Some(ramp), Some(age)) => {
                    ramping += weight;
                    age.run(now);
                    let age = age.at(now);
                    let wait = ramp.next_change(age).unwrap_or_default();
                    let at = now + wait.saturating_sub(age);
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
                _ if !member.out && weight > 0.0 => {
                    warm += weight;
                    are_warm += 1;
                }
                _ => {}
            }
        }
        self.least = 1.0;
        if let (Some(ramp), Some(_)) = (self.settings.ramp, next) {
            if ramp.begins(are_warm) {
                // So that those who are warm are not flooded.
                self.least = ramp.least(warm, ramping);
            } else {
                // Their order of arrival is all that they would differ by.
                next = None;
                for member in &mut self.roll.members {
                    member.ramp.take_if(|age| age.runs());
                }
            }
        }
        self.warm_at = next;
        weighed
    }

    /// A member's weight in picks now.
    pub(super) fn effective(&self, member: &Member<S, P::Load>, now: Instant) -> f64 {
        let weight = f64::from(member.weight().get());
        match (self.settings.ramp, member.ramp) {
            (Some(ramp), Some(age)) => {
                let factor = ramp.factor(age.at(now));
                weight * factor.max(self.least)
            }
            _ => weight,
        }
    }
}
