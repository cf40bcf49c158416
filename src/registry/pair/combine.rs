//! Combines the views of two registries. Pure: the time is an argument.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{reserve::Reserve, rule::Rule};
use crate::{
    backoff::after,
    catalog::{ByAddress, MOST_REJECTED, Rejected},
    registry::{View, ViewPart, ViewState},
    text::Escaped,
};

/// How long the first set waits for the second registry. A set of one registry alone would send all
/// traffic to a part of the instances for a moment, at each start of a client. Arbitrary: many times what
/// a registry takes to answer, and shorter than a caller waits for a first endpoint.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Combines the views of two registries.
#[derive(Debug)]
pub(super) struct Combine {
    names: [Arc<str>; 2],
    state: State,
    instances: ByAddress,
    rejected: Arc<[Rejected]>,
}

#[derive(Debug)]
enum State {
    /// Until when the first set may wait for the second registry; `None` once it is published.
    Merge(Option<Instant>),
    Failover(Reserve),
}

impl Combine {
    pub(super) fn new(rule: Rule, names: [Arc<str>; 2], now: Instant) -> Self {
        Self {
            names,
            state: match rule {
                Rule::Merge => State::Merge(Some(after(now, FIRST_WITHIN))),
                Rule::Failover(times) => State::Failover(Reserve::new(times)),
            },
            instances: ByAddress::default(),
            rejected: Arc::default(),
        }
    }

    /// Combines the views. Also returns the time at which they must be combined again, although they did
    /// not change.
    pub(super) fn views(&mut self, views: [View; 2], now: Instant) -> (View, Option<Instant>) {
        let (used, due) = match &mut self.state {
            State::Merge(until) => match await_both(until, &views, now) {
                Some(until) => ([false, false], Some(until)),
                None => ([true, true], None),
            },
            State::Failover(reserve) => {
                let was_used = reserve.is_used();
                let due = reserve.look(&views, now);
                let is_used = reserve.is_used();
                if is_used != was_used {
                    let [first, second] = &self.names;
                    let registry = Escaped(if is_used { second } else { first });
                    tracing::warn!(%registry, "another registry is used from now on");
                }
                ([!is_used, is_used], due)
            }
        };
        (self.view(views, used), due)
    }

    fn view(&mut self, views: [View; 2], used: [bool; 2]) -> View {
        let in_use = || views.iter().zip(used).filter(|(_, used)| *used);
        let lists: Vec<_> = in_use()
            .map(|(view, _)| (&view.instances, &view.withheld))
            .collect();
        self.instances.fold(&lists);
        let rejected = in_use().flat_map(|(view, _)| view.rejected.iter());
        if !rejected
            .clone()
            .take(MOST_REJECTED)
            .eq(self.rejected.iter())
        {
            self.rejected = rejected.take(MOST_REJECTED).cloned().collect();
        }
        let in_use: Vec<_> = in_use().map(|(view, _)| view).collect();
        let some = !self.instances.set().is_empty();
        let telling = match some {
            // The first that does not confirm its instances.
            true => in_use.iter().find(|view| !view.is_fresh()).copied(),
            // The one that most likely hides instances.
            false => hiding(&in_use, &views),
        };
        let state = match telling.map_or(ViewState::Live, |view| view.state) {
            // Without an answer of one, the set is confirmed in part only.
            ViewState::Pending if some => ViewState::Stale,
            ViewState::Live if !some => ViewState::Empty,
            state => state,
        };
        let error = telling.and_then(|view| view.error.clone());
        let confirmed = in_use.iter().map(|view| view.confirmed).min().flatten();
        let mut parts = self.names.iter().zip(used).zip(views);
        let mut part = || {
            let ((registry, is_used), view) = parts.next()?;
            let registry = Arc::clone(registry);
            Some(ViewPart {
                registry,
                is_used,
                view,
            })
        };
        View {
            instances: self.instances.set().clone(),
            withheld: Arc::clone(self.instances.withheld()),
            rejected: Arc::clone(&self.rejected),
            state,
            error,
            confirmed,
            parts: std::iter::from_fn(&mut part).collect(),
        }
    }
}

/// Of views without instances, the one that most likely hides some: of those in use, or of both if neither
/// has any.
fn hiding<'a>(in_use: &[&'a View], both: &'a [View; 2]) -> Option<&'a View> {
    let none = both.iter().all(|view| view.instances.is_empty());
    let all = both.iter().filter(|_| none || in_use.is_empty());
    let views = all.chain(in_use.iter().copied());
    views.min_by_key(|view| view.state.rank(view.error.is_some()))
}

/// Returns until when the first set waits for the other registry. One that has failed is not waited for.
fn await_both(until: &mut Option<Instant>, views: &[View; 2], now: Instant) -> Option<Instant> {
    let awaited = |view: &View| view.state == ViewState::Pending && view.error.is_none();
    *until = until.filter(|until| now < *until && views.iter().any(awaited));
    *until
}
