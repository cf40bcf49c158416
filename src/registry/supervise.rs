//! Drives any source for ever: pace, backoff, last good set, staleness, and an end with the last
//! handle.
//!
//! One task for each distinct query. It never gives up and never ends on an error, because the end
//! of a watch is what left the clients of other libraries deaf; it ends when nobody listens, and
//! whatever request is open then is dropped with it.
//!
//! ```text
//!          ┌──────────── ok ─────────────┐
//!          ▼                             │
//! read() ──┴─▶ Listing ──▶ next() ──▶ Listing | Unchanged
//!   ▲  ▲          │           │
//!   │  │          │           ├── Resync ──▶ read() at once
//!   │  └─ held ───┘           │
//!   └───── backoff ◀── error ─┘
//! ```

use std::{
    collections::HashSet,
    future::Future,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use rand::rngs::SmallRng;
use tokio::{
    runtime::Handle,
    sync::watch as cell,
    time::{Instant, sleep_until},
};

use super::{Answer, Mode, Query, Settings, Shared, Source, State, View, pace::Pace};
use crate::{
    backoff::{after, jittered},
    catalog::{Listing, Settle},
    error::{Error, ErrorKind},
    rng::small_rng,
    task::{fenced, first_of, sleep_until_some},
};

/// While an empty reply is held back, the registry is asked this often whether it stands.
const HELD_RECHECK: Duration = Duration::from_millis(500);

/// No registry may silence a client for longer than this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What a supervising task works for.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) query: Query,
    pub(super) settings: Settings,
    pub(super) backend: Arc<str>,
    pub(super) registry: Weak<Shared>,
    pub(super) alive: cell::Receiver<()>,
}

/// Starts the task of a watch; it ends when `cell` has no receiver left.
pub(super) fn spawn(
    runtime: &Handle,
    job: Job,
    mut sources: Vec<Box<dyn Source>>,
    cell: Arc<cell::Sender<View>>,
) {
    runtime.spawn(async move {
        let work = async {
            if sources.len() == 1 {
                if let Some(source) = sources.pop() {
                    supervise(source, &job, &cell, false).await;
                }
            } else {
                prefer(sources, &job, &cell).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = unused(&job, &cell) => {}
        }
        tracing::debug!(backend = %job.backend, service = %job.query.service(), "watch ended");
    });
}

/// Returns when nobody listens any more, after the watch has lingered.
async fn unused(job: &Job, cell: &Arc<cell::Sender<View>>) {
    loop {
        cell.closed().await;
        let mut alive = job.alive.clone();
        tokio::select! {
            () = tokio::time::sleep(job.settings.linger) => {}
            // Errs when the last registry handle is gone.
            _ = alive.changed() => {}
        }
        let Some(registry) = job.registry.upgrade() else {
            // One may have subscribed before the registry went.
            if cell.receiver_count() == 0 {
                return;
            }
            continue;
        };
        // A subscriber is added under the same lock.
        let mut watches = registry.watches();
        if cell.receiver_count() == 0 {
            watches.remove(&job.query);
            return;
        }
    }
}

/// Supervises several sources and publishes the first, in their order, that has instances.
async fn prefer(sources: Vec<Box<dyn Source>>, job: &Job, out: &cell::Sender<View>) {
    let mut views = Vec::new();
    let mut work = tokio::task::JoinSet::new();
    for source in sources {
        let (cell, view) = cell::channel(View::default());
        let job = job.clone();
        views.push(view);
        work.spawn(async move { supervise(source, &job, &cell, true).await });
    }
    loop {
        let chosen = choose(
            views
                .iter_mut()
                .map(|view| view.borrow_and_update().clone()),
        );
        show(out, chosen, false);
        // The set is dropped with this future, and its tasks with the set.
        first_of(views.iter_mut().map(changed)).await;
    }
}

/// Waits for a change; a source whose task is gone has none, and must not keep this loop busy.
async fn changed(view: &mut cell::Receiver<View>) {
    if view.changed().await.is_err() {
        std::future::pending().await
    }
}

/// The first view with instances; a view that is still awaited bars those after it.
fn choose(views: impl Iterator<Item = View>) -> View {
    let mut first = None;
    for view in views {
        let awaited = view.state == State::Pending && view.error.is_none();
        if awaited || !view.instances.is_empty() {
            return view;
        }
        first.get_or_insert(view);
    }
    first.unwrap_or_default()
}

/// Drives one source for ever. With `relayed`, `cell` leads to [`prefer`], which hears of mere
/// confirmations too, because the age of the view it shows is theirs.
async fn supervise(
    mut source: Box<dyn Source>,
    job: &Job,
    cell: &cell::Sender<View>,
    relayed: bool,
) {
    let Settings {
        mode,
        backoff,
        stale_after,
        empty_guard,
        removal_grace,
        seed,
        ..
    } = job.settings;
    let mut rng: SmallRng = small_rng(seed);
    let mut pace = Pace::new(source.limit(), Instant::now());
    let mut publisher = Publisher {
        cell,
        relayed,
        job,
        settle: Settle::new(empty_guard, removal_grace, job.query.passing_only),
        listed: State::Pending,
        without_instances: State::Missing,
        confirmed: None,
        error: None,
        stale_after,
    };
    let mut failures: u32 = 0;
    let mut read = true;
    loop {
        let start = pace.take(Instant::now());
        if start > Instant::now() {
            publisher.during(sleep_until(start)).await;
        }
        // Within the fence from its first line on: a panic need not wait for the first poll.
        let request = async {
            if read {
                source.read().await
            } else {
                source.next().await
            }
        };
        let answer = publisher
            .during(fenced(request))
            .await
            .unwrap_or_else(|| Err(job.error(ErrorKind::Internal, "the backend panicked")));
        read = mode != Mode::Watch;
        let pause = match answer {
            Ok(Answer::Resync) => {
                read = true;
                continue;
            }
            Ok(Answer::Unchanged) => {
                publisher.confirm();
                None
            }
            Ok(Answer::Listing(listing)) => {
                let applied = publisher.list(listing);
                read |= !applied;
                (!applied).then(|| jittered(HELD_RECHECK, 0.2, &mut rng))
            }
            Err(error) => {
                // The position in the registry's history is void after any error.
                read = true;
                failures = failures.saturating_add(1);
                let delay = match (error.kind(), error.retry_after()) {
                    // Not sooner than without it: zero is no request for a storm.
                    (_, Some(asked)) => jittered(asked.min(LONGEST_RETRY_AFTER), 0.1, &mut rng)
                        .max(backoff.delay(failures, &mut rng)),
                    (ErrorKind::Refused | ErrorKind::Invalid, None) => {
                        backoff.slower(10).delay(failures, &mut rng)
                    }
                    (ErrorKind::Limited, None) => backoff.slower(4).delay(failures, &mut rng),
                    _ => backoff.delay(failures, &mut rng),
                };
                publisher.fail(error, failures);
                let next = after(Instant::now(), delay);
                publisher.during(sleep_until(next)).await;
                continue;
            }
        };
        failures = 0;
        let pause = pause.or(match mode {
            Mode::Poll(every) => Some(jittered(every, 0.1, &mut rng)),
            Mode::Watch => None,
        });
        if let Some(pause) = pause {
            let next = after(Instant::now(), pause);
            publisher.during(sleep_until(next)).await;
        }
    }
}

impl Job {
    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        let service = Arc::clone(self.query.service());
        Error::new(kind, Arc::clone(&self.backend), service, message)
    }
}

/// Folds answers into the published view.
struct Publisher<'a> {
    cell: &'a cell::Sender<View>,
    relayed: bool,
    job: &'a Job,
    settle: Settle,
    /// What the last applied listing said, or `Pending`.
    listed: State,
    /// What it says once no instance of it is left: empty or missing.
    without_instances: State,
    confirmed: Option<Instant>,
    error: Option<Error>,
    stale_after: Duration,
}

impl Publisher<'_> {
    /// Waits for a future, and does meanwhile what becomes due.
    async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let due = self.deadline();
            let sleep = sleep_until_some(due);
            tokio::select! {
                biased;
                value = &mut future => return value,
                () = sleep => {
                    // The last of the instances that had a grace may have left.
                    if self.settle.tick(Instant::now()) && self.settle.set().is_empty() {
                        self.listed = self.without_instances;
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

    /// Takes a reply; returns whether it was applied.
    fn list(&mut self, listing: Listing) -> bool {
        let now = Instant::now();
        let exists = listing.exists;
        let doubt = listing.doubt.clone();
        let empty = listing.instances.is_empty();
        if !self.settle.offer(listing, now) {
            let why = doubt.unwrap_or_else(|| "the empty guard is set".to_owned());
            let message = format!("an empty list is held back: {why}");
            let known = self.error.as_ref().map(Error::kind) == Some(ErrorKind::Doubtful);
            if !known {
                self.fail(self.job.error(ErrorKind::Doubtful, message), 1);
            }
            return false;
        }
        let known = Arc::clone(&self.cell.borrow().rejected);
        if !Arc::ptr_eq(&known, self.settle.rejected()) {
            let known: HashSet<_> = known.iter().collect();
            let new = self.settle.rejected().iter();
            for rejected in new.filter(|rejected| !known.contains(rejected)) {
                tracing::warn!(
                    backend = %self.job.backend, service = %self.job.query.service(), "{rejected}"
                );
            }
        }
        self.without_instances = if exists || !empty {
            State::Empty
        } else {
            State::Missing
        };
        self.listed = if self.settle.set().is_empty() {
            self.without_instances
        } else {
            State::Live
        };
        self.confirm();
        true
    }

    fn confirm(&mut self) {
        if self.settle.is_holding() {
            return;
        }
        self.confirmed = Some(Instant::now());
        if self.error.take().is_some() {
            tracing::info!(
                backend = %self.job.backend, service = %self.job.query.service(),
                "the registry answers again"
            );
        }
        self.publish();
    }

    fn fail(&mut self, error: Error, failures: u32) {
        let repeated = self
            .error
            .as_ref()
            .is_some_and(|known| known.to_chain() == error.to_chain());
        if repeated {
            tracing::debug!(failures, error = %error.to_chain(), "the registry fails again");
        } else {
            tracing::warn!(failures, error = %error.to_chain(), "keeping the last good set");
            self.error = Some(error);
        }
        self.publish();
    }

    fn state(&self) -> State {
        match self.confirmed {
            None => State::Pending,
            Some(_) if self.error.is_some() => State::Stale,
            Some(at) if at.elapsed() >= self.stale_after => State::Stale,
            Some(_) => self.listed,
        }
    }

    /// Shows the present state.
    fn publish(&self) {
        let view = View {
            instances: self.settle.set().clone(),
            withheld: Arc::clone(self.settle.withheld()),
            rejected: Arc::clone(self.settle.rejected()),
            state: self.state(),
            error: self.error.clone(),
            confirmed: self.confirmed,
        };
        show(self.cell, view, self.relayed);
    }
}

/// Shows a view. Watchers are woken only when it differs from what they saw by more than its age,
/// unless they are to hear of each confirmation.
fn show(cell: &cell::Sender<View>, new: View, always: bool) {
    cell.send_if_modified(|view| {
        let same_error = match (&view.error, &new.error) {
            (None, None) => true,
            (Some(a), Some(b)) => a.is_same(b),
            _ => false,
        };
        let same = view.state == new.state
            && same_error
            && view.instances.is_same(&new.instances)
            && Arc::ptr_eq(&view.withheld, &new.withheld)
            && Arc::ptr_eq(&view.rejected, &new.rejected);
        if same {
            view.confirmed = new.confirmed;
        } else {
            *view = new;
        }
        always || !same
    });
}
