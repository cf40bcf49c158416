//! Folds the replies of a registry into the published view.

use std::{collections::HashSet, future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::watch as cell, time::Instant};

use super::{
    query::Query,
    settings::WatchSettings,
    view::{View, ViewState},
    warned::Warned,
};
use crate::{
    catalog::{Listing, Settle},
    error::{ErrorKind, RegistryError},
    task::sleep_until_some,
};

/// The number of unusable records of one reply that the log names. Arbitrary: enough to see what is
/// wrong. The view has the others.
const MOST_LOGGED: usize = 5;

/// The shortest silence of a registry after which instances may have expired although they live: below
/// the TTLs that are in use. A registry that fails for a shorter time has lost a connection.
const AWAY: Duration = Duration::from_secs(2);

/// Folds replies into the published view.
pub(super) struct Publisher<'a> {
    cell: &'a cell::Sender<View>,
    /// Whether receivers of the view are notified of confirmations without a change, too.
    relayed: bool,
    backend: &'a Arc<str>,
    service: &'a Arc<str>,
    settle: Settle,
    /// The state after the last applied listing; `Pending` before the first.
    listed: ViewState,
    /// The state once that listing has no instance left: empty or missing.
    without_instances: ViewState,
    confirmed: Option<Instant>,
    error: Option<RegistryError>,
    warned: Warned,
    stale_after: Duration,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        query: &'a Query,
        backend: &'a Arc<str>,
        settings: &WatchSettings,
        stale_after: Duration,
        cell: &'a cell::Sender<View>,
        relayed: bool,
    ) -> Self {
        let WatchSettings {
            empty_guard,
            removal_grace,
            ..
        } = *settings;
        Self {
            cell,
            relayed,
            backend,
            service: query.service(),
            settle: Settle::new(empty_guard, removal_grace, query.passing_only),
            listed: ViewState::Pending,
            without_instances: ViewState::Missing,
            confirmed: None,
            error: None,
            warned: Warned::default(),
            stale_after,
        }
    }

    /// Sets whether the registry removes instances whose heartbeats it misses.
    pub(super) fn expires(mut self, expires: bool) -> Self {
        self.settle = self.settle.expires(expires);
        self
    }

    /// Whether heartbeats may have been missed: the registry failed, and has confirmed nothing for long.
    fn was_away(&self, now: Instant) -> bool {
        let failed = self.error.as_ref().map(RegistryError::kind);
        let failed = failed.is_some_and(|kind| kind != ErrorKind::Doubtful);
        let confirmed = self.confirmed.map(|at| now.saturating_duration_since(at));
        failed && confirmed.is_some_and(|ago| ago >= AWAY)
    }

    /// Waits for a future. Meanwhile removes instances whose grace ends, and publishes a view that
    /// becomes stale.
    pub(super) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let sleep = sleep_until_some(self.deadline());
            tokio::select! {
                biased;
                value = &mut future => return value,
                () = sleep => {
                    // The last instance may have been removed, because its grace has ended.
                    if self.settle.tick(Instant::now()) && self.settle.set().is_empty() {
                        self.set_listed(self.without_instances);
                    }
                    self.publish();
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let stale = self
            .confirmed
            .and_then(|at| at.checked_add(self.stale_after))
            .filter(|at| *at > Instant::now());
        self.settle.deadline().into_iter().chain(stale).min()
    }

    /// Takes a reply. Returns whether it was applied.
    pub(super) fn list(&mut self, listing: Listing) -> bool {
        let now = Instant::now();
        let exists = listing.exists;
        let doubt = listing.doubt.clone();
        let empty = listing.instances.is_empty();
        if self.was_away(now) {
            self.settle.returned(now);
        }
        let applied = self.settle.offer(listing, now);
        self.log_rejected();
        if !applied {
            let why = doubt.unwrap_or_else(|| "the empty guard is set".to_owned());
            let message = format!("an empty list is held back: {why}");
            let known = self.error.as_ref().map(RegistryError::kind) == Some(ErrorKind::Doubtful);
            if !known {
                let error = RegistryError::new(ErrorKind::Doubtful, message);
                self.fail(error, 1);
            } else {
                self.publish();
            }
            return false;
        }
        self.without_instances = if exists || !empty {
            ViewState::Empty
        } else {
            ViewState::Missing
        };
        self.set_listed(if self.settle.set().is_empty() {
            self.without_instances
        } else {
            ViewState::Live
        });
        self.confirm();
        true
    }

    /// Sets the state that the listing means, and logs it if it is another one.
    fn set_listed(&mut self, listed: ViewState) {
        if self.listed == listed {
            return;
        }
        self.listed = listed;
        match listed {
            ViewState::Missing => tracing::info!("the registry knows no such service"),
            ViewState::Empty => tracing::info!("no instance of the service may serve"),
            _ => tracing::info!(instances = self.settle.set().len(), "instances are listed"),
        }
    }

    /// Takes a state that the registry could not confirm. The error that follows makes it stale. Without
    /// an instance it is no better than none.
    pub(super) fn unconfirmed(&mut self, listing: Listing) {
        if !listing.instances.is_empty() && self.settle.offer(listing, Instant::now()) {
            self.log_rejected();
            self.without_instances = ViewState::Empty;
        }
    }

    /// Logs the records that are left out and that the last published view does not name.
    fn log_rejected(&self) {
        let known = Arc::clone(&self.cell.borrow().rejected);
        if !Arc::ptr_eq(&known, self.settle.rejected()) {
            let known: HashSet<_> = known.iter().collect();
            let listed = self.settle.rejected().iter();
            let mut new = listed.filter(|rejected| !known.contains(rejected));
            for rejected in new.by_ref().take(MOST_LOGGED) {
                tracing::warn!("{rejected}");
            }
            match new.count() {
                0 => {}
                more => tracing::warn!("{more} more records left out"),
            }
        }
    }

    pub(super) fn confirm(&mut self) {
        if self.settle.is_holding() {
            return;
        }
        self.confirmed = Some(Instant::now());
        self.warned.succeeded();
        if self.error.take().is_some() {
            tracing::info!("the registry answers again");
        }
        self.publish();
    }

    pub(super) fn fail(&mut self, error: RegistryError, failures: u32) {
        let error = error.about(self.backend, self.service);
        if !self.warned.is_new(&error) {
            tracing::debug!(failures, error = %error.to_chain(), "the registry fails again");
        } else if self.listed == ViewState::Pending {
            tracing::warn!(failures, error = %error.to_chain(), "no list yet, trying again");
        } else {
            tracing::warn!(failures, error = %error.to_chain(), "keeping the last good set");
        }
        self.error = Some(error);
        self.publish();
    }

    fn state(&self) -> ViewState {
        match self.confirmed {
            None if self.error.is_some() && !self.settle.set().is_empty() => ViewState::Stale,
            None => ViewState::Pending,
            Some(_) if self.error.is_some() => ViewState::Stale,
            Some(at) if at.elapsed() >= self.stale_after => ViewState::Stale,
            Some(_) => self.listed,
        }
    }

    /// Publishes the current state.
    fn publish(&self) {
        let view = View {
            instances: self.settle.set().clone(),
            withheld: Arc::clone(self.settle.withheld()),
            rejected: Arc::clone(self.settle.rejected()),
            state: self.state(),
            error: self.error.clone(),
            confirmed: self.confirmed,
            parts: Arc::default(),
        };
        view.publish(self.cell, self.relayed);
    }
}
