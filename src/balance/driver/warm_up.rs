//! Slow start of members: a smaller share for a while.

use tokio::time::Instant;

use super::member::{Member, MemberId};
use crate::{endpoint::SlowStart, instance::Weight};

/// Slow start of the members.
pub(super) struct WarmUp {
    rules: SlowStart,
    /// The least factor now.
    least: f64,
    /// The time of the next change of weights.
    next: Option<Instant>,
}

impl WarmUp {
    pub(super) fn new(rules: SlowStart) -> Self {
        Self {
            rules,
            least: 1.0,
            next: None,
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next
    }

    /// Whether the weights of members in slow start have changed. Ends slow start for members that are
    /// warm.
    pub(super) fn is_due<S, L>(&self, members: &mut [Member<S, L>], now: Instant) -> bool {
        if self.next.is_none_or(|at| at > now) {
            return false;
        }
        for member in members {
            let age = member.age_mut();
            age.take_if(|age| self.rules.next_change(age.at(now)).is_none());
        }
        true
    }

    /// Computes the weights of all members. `changed` gets the members that gained or lost a weight.
    pub(super) fn weigh<S, L>(
        &mut self,
        members: &mut [Member<S, L>],
        now: Instant,
        mut changed: impl FnMut(MemberId, bool),
    ) {
        let weighed = any_weighs(members);
        let mut next = None::<Instant>;
        let (mut warm, mut ramping, mut are_warm) = (0.0, 0.0, 0);
        for member in &mut *members {
            if let Some(weighs) = member.weighs_otherwise() {
                changed(member.id(), weighs);
            }
            let weight = f64::from(member.weight().get());
            let is_out = member.is_out();
            match member.age_mut() {
                // It gets no requests, so it does not get warmer.
                Some(age) if weighed && weight == 0.0 => age.stop(now),
                Some(age) => {
                    ramping += weight;
                    age.run(now);
                    let age = age.at(now);
                    let wait = self.rules.next_change(age).unwrap_or_default();
                    let at = now + wait.saturating_sub(age);
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
                None if !is_out && weight > 0.0 => {
                    warm += weight;
                    are_warm += 1;
                }
                None => {}
            }
        }
        self.least = 1.0;
        if next.is_some() {
            if self.rules.begins(are_warm) {
                // Limits the load on the warm members.
                self.least = self.rules.least_factor(warm, ramping);
            } else {
                // Without a warm member, slow start would only make shares depend on the order of arrival.
                next = None;
                for member in members {
                    member.age_mut().take_if(|age| age.runs());
                }
            }
        }
        self.next = next;
    }

    /// The weight of a member in picks now.
    pub(super) fn effective<S, L>(&self, member: &Member<S, L>, now: Instant) -> f64 {
        let weight = f64::from(member.weight().get());
        match member.age() {
            Some(age) => {
                let factor = self.rules.factor(age.at(now));
                weight * factor.max(self.least)
            }
            None => weight,
        }
    }
}

/// Whether any member has a weight. When none has, all count alike.
pub(super) fn any_weighs<S, L>(members: &[Member<S, L>]) -> bool {
    members.iter().any(|member| member.weight() > Weight::ZERO)
}
