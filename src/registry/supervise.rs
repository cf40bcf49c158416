//! Drives a source for as long as its watch has handles: pace, backoff, last good set, staleness.
//!
//! One task runs for each distinct query. It never ends because of an error: in other libraries, clients
//! whose watch had ended that way got no more changes. It ends when no handle is left; an open request
//! is dropped with it.
//!
//! ```text
//!          ┌──────────── ok ─────────────┐
//!          ▼                             │
//! read() ──┴─▶ Listing ──▶ next() ──▶ Listing | Unchanged
//!   ▲  ▲          │           │
//!   │  │          │           ├── Resync, or an endpoint fails and it polls ──▶ read() at once
//!   │  └─ held ───┘           │
//!   └───── backoff ◀── error ─┘
//! ```

use std::{sync::Arc, time::Duration};

use rand::rngs::SmallRng;
use tokio::{
    sync::{Notify, watch as cell},
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use super::{
    contract::{Answer, Source},
    pace::Pace,
    publisher::Publisher,
    query::Query,
    settings::{WatchMode, WatchSettings},
    view::{View, ViewState},
};
use crate::{
    backoff::{after, hinted, jittered},
    error::{ErrorKind, RegistryError},
    rng::small_rng,
    task::{fenced, first_of},
};

/// The time between requests while an empty reply is held back. It is below the 2 s within which a set
/// must be correct again after a fault.
const HELD_RECHECK: Duration = Duration::from_millis(500);

/// The longest `Retry-After` that is obeyed, so that a registry cannot stop a client for long. The pause is
/// up to half as long again, because [`hinted`] adds to it.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The parameters of a supervising task.
#[derive(Clone)]
pub(super) struct WatchJob {
    pub(super) query: Query,
    pub(super) settings: WatchSettings,
    pub(super) backend: Arc<str>,
    /// Asks for another look at the registry.
    pub(super) again: Arc<Notify>,
}

/// Drives the sources of one backend for ever, and publishes to `cell`.
pub(super) async fn all(
    mut sources: Vec<Box<dyn Source>>,
    job: &WatchJob,
    cell: &cell::Sender<View>,
) {
    match sources.len() {
        1 => {
            if let Some(source) = sources.pop() {
                supervise(source, job, cell, false).await;
            }
        }
        _ => prefer(sources, job, cell).await,
    }
}

/// Supervises several sources, and publishes the first of them, in their order, that has instances.
/// If none has, it publishes the view of [`choose`].
async fn prefer(sources: Vec<Box<dyn Source>>, job: &WatchJob, out: &cell::Sender<View>) {
    let mut views = Vec::new();
    let mut work = tokio::task::JoinSet::new();
    for source in sources {
        let (cell, view) = cell::channel(View::default());
        let job = job.clone();
        views.push(view);
        let source = async move { supervise(source, &job, &cell, true).await };
        work.spawn(source.in_current_span());
    }
    loop {
        let chosen = choose(
            views
                .iter_mut()
                .map(|view| view.borrow_and_update().clone()),
        );
        chosen.publish(out, false);
        // Dropping this future drops the set, which aborts its tasks.
        first_of(views.iter_mut().map(changed)).await;
    }
}

/// Waits for a change. A source whose task has ended has no more changes, and must not keep the loop
/// busy.
async fn changed(view: &mut cell::Receiver<View>) {
    if view.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Returns the first view with instances. A pending view without an error also ends the search: a later
/// source must not be used before that one has responded.
///
/// Without instances, it returns the view that most likely hides some. If a source cannot be reached, then
/// it is not known that the service has no instances, whatever the others list.
fn choose(views: impl Iterator<Item = View>) -> View {
    let mut without: Vec<View> = Vec::new();
    for view in views {
        let awaited = view.state == ViewState::Pending && view.error.is_none();
        if awaited || !view.instances.is_empty() {
            return view;
        }
        without.push(view);
    }
    let likeliest = without
        .into_iter()
        .min_by_key(|view| view.state.rank(view.error.is_some()));
    likeliest.unwrap_or_default()
}

/// The error for a panic of a backend.
pub(super) fn panicked() -> RegistryError {
    RegistryError::new(ErrorKind::Internal, "the backend panicked")
}

/// Drives one source for ever. If `relayed`, `cell` leads to [`prefer`]. It is then notified of
/// confirmations too, because the view that it publishes has their age.
async fn supervise(
    mut source: Box<dyn Source>,
    job: &WatchJob,
    cell: &cell::Sender<View>,
    relayed: bool,
) {
    let WatchSettings {
        mode,
        backoff,
        seed,
        stale_after,
        ..
    } = job.settings;
    let mut rng: SmallRng = small_rng(seed);
    let mut pace = Pace::new(source.limit(), Instant::now());
    let stale_after = stale_after.unwrap_or_else(|| source.stale_after());
    let (query, backend) = (&job.query, &job.backend);
    let publisher = Publisher::new(query, backend, &job.settings, stale_after, cell, relayed);
    let mut publisher = publisher.expires(source.expires());
    let mut failures: u32 = 0;
    let mut read = true;
    loop {
        let start = pace.take(Instant::now());
        if start > Instant::now() {
            publisher.during(sleep_until(start)).await;
        }
        // Inside of the fence from the first line, because a backend may panic before it returns a
        // future.
        let request = async {
            if read {
                return source.read().await;
            }
            let polls = source.polls();
            tokio::select! {
                biased;
                answer = source.next() => answer,
                () = job.again.notified(), if polls => Ok(Answer::Resync),
            }
        };
        let answer = publisher.during(fenced(request)).await;
        let answer = match answer.unwrap_or_else(|| Err(panicked())) {
            Ok(Answer::Unconfirmed(listing, why)) => {
                publisher.unconfirmed(listing);
                Err(why)
            }
            Ok(Answer::Listing(listing)) => Ok(Some(listing)),
            Ok(Answer::Unchanged) => Ok(None),
            Ok(Answer::Resync) => {
                read = true;
                continue;
            }
            Err(error) => Err(error),
        };
        read = mode != WatchMode::Watch;
        let pause = match answer {
            Ok(None) => {
                publisher.confirm();
                None
            }
            Ok(Some(listing)) => {
                let applied = publisher.list(listing);
                read |= !applied;
                (!applied).then(|| jittered(HELD_RECHECK, 0.2, &mut rng))
            }
            Err(error) => {
                // After any error the position in the registry's history is void.
                read = true;
                failures = failures.saturating_add(1);
                let delay = match (error.kind(), error.retry_after()) {
                    // At least the usual backoff: a `Retry-After` of zero must not cause a flood of
                    // requests.
                    (_, Some(asked)) => {
                        let own = backoff.delay(failures, &mut rng);
                        hinted(asked.min(LONGEST_RETRY_AFTER), own, &mut rng)
                    }
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
            WatchMode::Poll(every) => Some(jittered(every, 0.1, &mut rng)),
            WatchMode::Watch => None,
        });
        if let Some(pause) = pause {
            let next = after(Instant::now(), pause);
            let again = async {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = job.again.notified(), if mode != WatchMode::Watch => {}
                }
            };
            publisher.during(again).await;
        }
    }
}
