//! Decides which of two registries is used. Pure: the time is an argument.

use tokio::time::Instant;

use super::rule::Times;
use crate::{backoff::after, registry::View};

/// Decides which registry is used.
#[derive(Debug)]
pub(super) struct Reserve {
    times: Times,
    is_used: bool,
    /// Since when the first speaks for a change of places, without a break: it is unfit while it is used,
    /// or fit while the second is.
    since: Option<Instant>,
}

impl Reserve {
    pub(super) fn new(times: Times) -> Self {
        Self {
            times,
            is_used: false,
            since: None,
        }
    }

    /// Whether the second registry is used.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Looks at the views of both. Returns when it must look again, although they did not change.
    pub(super) fn look(&mut self, views: &[View; 2], now: Instant) -> Option<Instant> {
        let [first, second] = views;
        let has = |view: &View| !view.instances.is_empty();
        let fit = |view: &View| view.is_fresh() && has(view);
        // Whether the first speaks for a change of places, and for how long it must.
        let (speaks, wait) = match self.is_used {
            false => (!fit(first), self.times.after),
            true => (fit(first), self.times.back_after),
        };
        self.since = self.since.filter(|_| speaks).or(speaks.then_some(now));
        let due = self.since.map(|since| after(since, wait));
        let is_due = due.is_some_and(|due| due <= now);
        let changes = match self.is_used {
            // If both are gone, the last good set of the first stays in use.
            false => is_due && (fit(second) || (has(second) && !has(first))),
            true => is_due || (has(first) && !has(second)) || (fit(first) && !fit(second)),
        };
        if changes {
            self.is_used = !self.is_used;
            self.since = None;
            return self.look(views, now);
        }
        due.filter(|due| *due > now)
    }
}
