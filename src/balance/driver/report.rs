//! The user's view of the endpoints.

use tokio::time::Instant;

use super::{
    ejections::Ejections,
    member::Member,
    warm_up::{WarmUp, any_weighs},
};
use crate::{
    balance::{
        handle::{EndpointInfo, EndpointState},
        pick::state::Held,
    },
    endpoint::load::LoadTracker,
    instance::Weight,
    task::caught,
};

/// All members in the user's view, in the order of their keys.
pub(super) fn list<S, L: LoadTracker>(
    members: &[Member<S, L>],
    ejections: &Ejections,
    warm_up: &WarmUp,
    now: Instant,
) -> Vec<EndpointInfo> {
    let total: u64 = members.iter().map(|member| member.state().requests()).sum();
    let weighed = any_weighs(members);
    let info = |member: &Member<S, L>| {
        let (state, weight) = (member.state(), member.weight());
        EndpointInfo {
            key: state.key.clone(),
            instance: member.instance(),
            state: if member.is_out() {
                // Without a weight it gets no request, and so no probe.
                match member.is_on_trial() && (weight > Weight::ZERO || !weighed) {
                    true => EndpointState::Probing,
                    false => EndpointState::Ejected,
                }
            } else if weighed && weight == Weight::ZERO {
                EndpointState::Weightless
            } else if member.age().is_some() {
                EndpointState::Warming
            } else {
                EndpointState::Active
            },
            cause: ejections.cause(member.id()),
            weight,
            effective_weight: if weighed {
                warm_up.effective(member, now)
            } else {
                1.0
            },
            load: load(state, now),
            in_flight: state.in_flight(),
            requests: state.requests(),
            failures: state.failed(),
            share: state.requests() as f64 / total.max(1) as f64,
            age: now.saturating_duration_since(member.since()),
        }
    };
    let mut list: Vec<_> = members.iter().map(info).collect();
    list.sort_by(|a, b| a.key.cmp(&b.key));
    list
}

/// The load of an endpoint; NaN when its tracker panics.
fn load<L: LoadTracker>(state: &Held<L>, now: Instant) -> f64 {
    caught(|| state.load(now)).unwrap_or(f64::NAN)
}
