//! Shares the connections that an agent accepts among the watches of one registry.
//!
//! A blocking query occupies a connection for its whole wait, and an agent accepts 200 connections from
//! one address (`http_max_conns_per_client`). Measured on 1.8.7: it accepts any further connection and
//! closes it within a millisecond, without a byte; newer versions respond with 429. Repeated requests
//! then cost more than they bring, and registrations of the same process get no connection.
//!
//! ```text
//!          ┌─ a place is free ──▶ blocks: sees a change at once ──┐
//! watch ───┤                                                      ├──▶ again
//!          └─ none in a round ──▶ reads: sees earlier changes ────┘
//! ```
//!
//! So there is a limited number of *places* for blocking queries. A watch that gets no place within a
//! [round](ROUND) reads without blocking, on one of a few *lanes*, and waits for a place again. While
//! watches wait, a place is held for one round only, so that they take turns. Every refused connection
//! reduces the number of places. So it follows the number of connections that the agent accepts,
//! whatever else uses them.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    error::{ErrorKind, RegistryError},
    permits::{Permit, Permits},
    registry::{
        pace::{Limit, Pace},
        redact::Cause,
    },
    sync::lock,
};

/// How long a watch waits for a place before it reads, and how long a place is held while others wait.
/// It is a sixth of the 30 s after which a set without confirmation is stale, and so long that 500
/// watches cost 1 % of a core.
pub(super) const ROUND: Duration = Duration::from_secs(5);

/// The limit for reads without a place, of all watches together: 100 a second. With more watches than
/// can read within a round, the rounds become longer, but the load stays the same. 3,000 watches are
/// still confirmed within 30 s.
const LOOKS: Limit = Limit::new(8, Duration::from_millis(10));

/// How long a blocking query waits for open reads to finish. Arbitrary: ten times what a read takes.
const LANE_WITHIN: Duration = Duration::from_millis(100);

/// The number of simultaneous requests that do not block. Arbitrary: an agent responds to them in
/// milliseconds, so 500 first reads take a fraction of a second.
const LANES: usize = 8;

/// With fewer blocking queries than this, a broken connection does not count as refused.
const FEWEST: usize = 8;

/// If more queries than this block and their number grows, each blocks for one round only, until all
/// watches have sent a query and it is clear whether there are too many. Arbitrary: few processes watch
/// so many services, and it leaves most of a small limit to later watches.
const MANY: usize = 32;

/// The longest time within which a refused connection breaks. Measured: below 1 ms; 500 ms allows for a
/// busy machine. A query that breaks because its agent ends is usually older.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

/// The time without a refusal after which an eighth more places is tried, because other processes of the
/// machine may have ended. Arbitrary: rare enough that the refusals cost nothing.
const WIDEN_AFTER: Duration = Duration::from_secs(600);

/// Shares the connections; one for each registry.
pub(super) struct Turns {
    agent: Arc<str>,
    places: Arc<Permits>,
    lanes: Semaphore,
    state: Mutex<TurnsState>,
}

struct TurnsState {
    /// The current number of places, and the configured one.
    granted: usize,
    most: usize,
    /// The largest number of blocking queries that the agent was found to accept.
    ceiling: usize,
    /// The largest number of queries that blocked at the same time, and when it was reached.
    peak: usize,
    peak_at: Instant,
    /// The number of queries that block now.
    held: usize,
    refused_at: Option<Instant>,
    /// When a watch last found no free place.
    crowded_at: Option<Instant>,
    warned: bool,
    looks: Pace,
}

/// The permission to block.
pub(super) struct QueryPlace<'a> {
    turns: &'a Turns,
    _permit: Permit,
}

impl Turns {
    pub(super) fn new(agent: Arc<str>, most: usize) -> Self {
        Self {
            agent,
            places: Arc::new(Permits::new(most)),
            lanes: Semaphore::new(LANES),
            state: Mutex::new(TurnsState {
                granted: most,
                most,
                ceiling: most,
                peak: 0,
                peak_at: Instant::now(),
                held: 0,
                refused_at: None,
                crowded_at: None,
                warned: false,
                looks: Pace::new(LOOKS, Instant::now()),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, TurnsState> {
        // The numbers are consistent wherever the holder of the lock could panic.
        lock(&self.state)
    }

    /// Waits for a place; `None` if the watch should read instead.
    pub(super) async fn place(&self) -> Option<QueryPlace<'_>> {
        // First waits behind queued reads: they need a connection for a moment, a blocking query for
        // long. The wait is bounded, because reads in a datacenter that does not respond must not delay
        // the queries of another.
        drop(timeout(LANE_WITHIN, self.lane()).await);
        if let Some(permit) = self.places.try_acquire() {
            return Some(self.hold(permit));
        }
        self.crowded(Instant::now());
        if let Ok(permit) = timeout(ROUND, Arc::clone(&self.places).acquire()).await {
            return Some(self.hold(permit));
        }
        let start = self.state().looks.take(Instant::now());
        sleep_until(start).await;
        None
    }

    fn hold(&self, permit: Permit) -> QueryPlace<'_> {
        let mut state = self.state();
        state.held += 1;
        if state.held > state.peak {
            state.peak = state.held;
            state.peak_at = Instant::now();
        }
        drop(state);
        QueryPlace {
            turns: self,
            _permit: permit,
        }
    }

    /// Waits for a lane, the permission for a request that does not block.
    pub(super) async fn lane(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.lanes.acquire().await.ok()
    }

    /// Returns whether a request that started at `began` failed because the agent accepts no more
    /// connections. If so, the number of places is reduced to the queries that still stand. `had_place` is
    /// set for a blocking query.
    pub(super) fn is_refused(
        &self,
        error: &RegistryError,
        began: Instant,
        had_place: bool,
    ) -> bool {
        let refused = match error.kind() {
            ErrorKind::Limited => error.retry_after().is_none(),
            ErrorKind::Unreachable => {
                began.elapsed() < REFUSED_WITHIN && is_closed_unanswered(error)
            }
            _ => false,
        };
        let mut state = self.state();
        if !refused || state.held < FEWEST {
            return false;
        }
        let now = Instant::now();
        state.refused_at = Some(now);
        // A read may be refused repeatedly, so only a refused blocking query reduces the number.
        let stand = state.held - usize::from(had_place);
        state.ceiling = state.ceiling.min(stand).max(FEWEST);
        // An eighth of the connections is left to reads, registrations and other processes.
        let granted = state.ceiling - state.ceiling / 8;
        let granted = granted.max(FEWEST).min(state.granted);
        self.places.change(state.granted, granted);
        state.granted = granted;
        drop(state);
        self.crowded(now);
        true
    }

    /// Records that there are more watches than places.
    fn crowded(&self, now: Instant) {
        let mut state = self.state();
        state.crowded_at = Some(now);
        let wider = state.refused_at.is_some_and(|at| at + WIDEN_AFTER < now);
        if wider && state.granted < state.most {
            state.refused_at = Some(now);
            let more = (1 + state.granted / 8).min(state.most - state.granted);
            self.places.change(state.granted, state.granted + more);
            state.granted += more;
            state.ceiling = state.most;
        }
        if std::mem::replace(&mut state.warned, true) {
            return;
        }
        let (granted, most) = (state.granted, state.most);
        tracing::warn!(
            agent = %self.agent, granted, most,
            "more watches than connections: they take turns, so that a change may be seen {ROUND:?} \
             later; see http_max_conns_per_client of the agent and `ConsulOptions::max_blocking`"
        );
    }
}

impl QueryPlace<'_> {
    /// Returns how long the query may block: `wait`, or one round if watches take turns.
    pub(super) fn wait(&self, wait: Duration) -> Duration {
        let state = self.turns.state();
        let crowded = state.crowded_at.is_some_and(|at| at.elapsed() <= 2 * ROUND);
        let grows = state.peak > MANY && state.peak_at.elapsed() < ROUND;
        if crowded || grows {
            wait.min(ROUND)
        } else {
            wait
        }
    }
}

impl Drop for QueryPlace<'_> {
    fn drop(&mut self) {
        self.turns.state().held -= 1;
    }
}

/// Whether the other side ended an established connection before it sent any part of a response.
fn is_closed_unanswered(error: &RegistryError) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Cause>());
    cause.is_some_and(Cause::is_hangup)
}

#[cfg(test)]
mod tests;
