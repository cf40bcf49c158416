//! Runs the checks of all endpoints of a set.

use std::{
    collections::HashMap,
    future::poll_fn,
    hash::Hash,
    sync::Arc,
    task::{Context, Poll},
};

use rand::{RngExt, rngs::SmallRng};
use tokio::{
    task::{AbortHandle, Id, JoinSet},
    time::Instant,
};

use super::{error::CheckError, exchange::Exchange, record::CheckRecord, settings::HealthCheck};
use crate::{
    backoff::{after, jittered},
    endpoint::schedule::{Due, Schedule},
    error::ConfigError,
    instance::Address,
    task::Timer,
};

/// The result of a check.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report<K> {
    /// The endpoint that was checked.
    pub key: K,
    /// The result of this one check.
    pub result: Result<(), CheckError>,
    /// Number of failed checks since the endpoint last counted as healthy; 0 while it does.
    pub failures: u32,
}

/// Checks the endpoints of a set repeatedly.
///
/// It makes progress while its owner awaits [`next`](Self::next). Checks in progress are tasks, which also
/// run in between. They end when the prober is dropped or their endpoint is removed.
pub struct Prober<K> {
    exchange: Arc<Exchange>,
    rng: SmallRng,
    endpoints: HashMap<K, Watched>,
    due: Schedule<K>,
    running: JoinSet<Result<(), CheckError>>,
    /// The endpoints of the running tasks.
    tasks: HashMap<Id, K>,
    timer: Timer,
}

struct Watched {
    address: Address,
    record: CheckRecord,
    phase: CheckPhase,
}

enum CheckPhase {
    Waiting(Due),
    Running(AbortHandle),
}

impl<K: Clone + Eq + Hash> Prober<K> {
    /// A prober without endpoints.
    ///
    /// # Errors
    /// When a setting is out of range, when the path or the host is not valid in a request, or when a
    /// feature that the check needs is not compiled in.
    pub fn new(check: HealthCheck, rng: SmallRng) -> Result<Self, ConfigError> {
        check.check()?;
        Ok(Self::from_checked(check, rng))
    }

    pub(crate) fn from_checked(check: HealthCheck, rng: SmallRng) -> Self {
        Self {
            exchange: Arc::new(Exchange::new(check)),
            rng,
            endpoints: HashMap::new(),
            due: Schedule::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            timer: Timer::default(),
        }
    }

    /// Checks an endpoint from now on. The first check is at a random point of the first interval. A known
    /// endpoint keeps its state and its schedule, unless its address changed: checks of the old address
    /// prove nothing about the new one.
    pub fn insert(&mut self, key: K, address: Address, now: Instant) {
        if self
            .endpoints
            .get(&key)
            .is_some_and(|known| known.address == address)
        {
            return;
        }
        self.remove(&key);
        let share: f64 = self.rng.random();
        let at = after(now, self.exchange.check.interval.mul_f64(share));
        let phase = CheckPhase::Waiting(self.due.add(at, key.clone()));
        let watched = Watched {
            address,
            record: CheckRecord::default(),
            phase,
        };
        self.endpoints.insert(key, watched);
    }

    /// Stops checking an endpoint.
    pub fn remove(&mut self, key: &K) {
        match self.endpoints.remove(key).map(|watched| watched.phase) {
            Some(CheckPhase::Waiting(due)) => self.due.remove(due),
            Some(CheckPhase::Running(task)) => {
                self.tasks.remove(&task.id());
                task.abort();
            }
            None => {}
        }
    }

    /// The number of endpoints.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there are no endpoints.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Waits for the result of the next check. Never returns while there are no endpoints.
    ///
    /// # Panics
    /// When called outside of a tokio runtime with time and I/O.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: checks continue, and their results wait.
    pub async fn next(&mut self) -> Report<K> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the result of the next check.
    ///
    /// # Panics
    /// As [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Report<K>> {
        loop {
            while let Poll::Ready(Some(ended)) = self.running.poll_join_next_with_id(cx) {
                let (id, result) = match ended {
                    Ok(ended) => ended,
                    Err(error) => (error.id(), Err(CheckError::Lost)),
                };
                // Removed endpoints have no entry here.
                if let Some(report) = self.tasks.remove(&id).and_then(|key| self.end(key, result)) {
                    return Poll::Ready(report);
                }
            }
            let started = self.start_due(Instant::now());
            if self.poll_timer(cx).is_pending() && !started {
                return Poll::Pending;
            }
        }
    }

    /// Starts the checks that are due, up to the limit of concurrency. Returns whether it started any; then
    /// the tasks must be polled again.
    fn start_due(&mut self, now: Instant) -> bool {
        let mut started = false;
        while self.running.len() < self.exchange.check.concurrency {
            let Some(key) = self.due.pop(now) else {
                break;
            };
            let Some(watched) = self.endpoints.get_mut(&key) else {
                continue;
            };
            let (exchange, address) = (Arc::clone(&self.exchange), watched.address.clone());
            let task = self
                .running
                .spawn(async move { exchange.run(&address).await });
            self.tasks.insert(task.id(), key);
            watched.phase = CheckPhase::Running(task);
            started = true;
        }
        started
    }

    /// Waits for the next due check. At the limit of concurrency, the end of another check wakes the task.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.running.len() >= self.exchange.check.concurrency {
            return Poll::Pending;
        }
        self.timer.poll(self.due.next(), cx)
    }

    fn end(&mut self, key: K, result: Result<(), CheckError>) -> Option<Report<K>> {
        let watched = self.endpoints.get_mut(&key)?;
        let settings = &self.exchange.check;
        let interval = jittered(settings.interval, settings.jitter, &mut self.rng);
        let due = self.due.add(after(Instant::now(), interval), key.clone());
        watched.phase = CheckPhase::Waiting(due);
        let failures = watched.record.note(result.is_ok(), settings);
        Some(Report {
            key,
            result,
            failures,
        })
    }
}

impl_debug!([K] Prober<K>: |this|
    check = this.exchange.check,
    endpoints = this.endpoints.len(),
    running = this.running.len(),
);
