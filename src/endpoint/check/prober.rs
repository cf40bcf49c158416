//! Makes the checks of all endpoints of a set.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::{Future, poll_fn},
    hash::Hash,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rand::{RngExt, rngs::SmallRng};
use tokio::{
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    error::CheckError,
    exchange,
    settings::Checks,
    standing::{Record, Standing},
};
use crate::{
    backoff::{after, jittered},
    instance::Address,
};

/// What a check found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report<K> {
    /// Whose check it was.
    pub key: K,
    /// The result of this one check.
    pub result: Result<(), CheckError>,
    /// Where the endpoint stands with it.
    pub standing: Standing,
}

/// Checks the endpoints of a set, again and again.
///
/// It is driven by whoever awaits [`next`](Self::next) and makes no progress otherwise, but for the
/// checks under way, which are tasks. Dropping it, or removing an endpoint, ends those.
pub struct Prober<K> {
    checks: Arc<Checks>,
    rng: SmallRng,
    endpoints: HashMap<K, Watched>,
    due: BTreeMap<(Instant, u64), K>,
    running: JoinSet<Result<(), CheckError>>,
    /// Whose checks those are.
    tasks: HashMap<Id, K>,
    timer: Option<Pin<Box<Sleep>>>,
    serial: u64,
}

struct Watched {
    address: Address,
    record: Record,
    phase: Phase,
}

enum Phase {
    Waiting((Instant, u64)),
    Running(AbortHandle),
}

impl<K: Clone + Eq + Hash> Prober<K> {
    /// A prober without endpoints.
    pub fn new(checks: Checks, rng: SmallRng) -> Self {
        Self {
            checks: Arc::new(checks),
            rng,
            endpoints: HashMap::new(),
            due: BTreeMap::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            timer: None,
            serial: 0,
        }
    }

    /// Checks an endpoint from now on, first at a random point of the first interval. One that is known
    /// keeps its standing and its schedule, unless its address changed: what was found out there says
    /// nothing about the new one.
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
        let at = after(now, self.checks.interval.mul_f64(share));
        let phase = Phase::Waiting(self.schedule(key.clone(), at));
        let watched = Watched {
            address,
            record: Record::default(),
            phase,
        };
        self.endpoints.insert(key, watched);
    }

    /// Checks an endpoint no more.
    pub fn remove(&mut self, key: &K) {
        match self.endpoints.remove(key).map(|watched| watched.phase) {
            Some(Phase::Waiting(due)) => _ = self.due.remove(&due),
            Some(Phase::Running(task)) => {
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

    /// Waits for the result of the next check; for ever while there are no endpoints.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and I/O.
    ///
    /// # Cancel safety
    /// Nothing is lost: checks go on, and their results wait.
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
                // Removed endpoints have no task here.
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

    /// Starts what is due, as far as there is room. Says whether anything was, because a new task is
    /// to be polled for.
    fn start_due(&mut self, now: Instant) -> bool {
        let mut started = false;
        while self.running.len() < self.checks.concurrency {
            let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= now) else {
                break;
            };
            let key = first.remove();
            let Some(watched) = self.endpoints.get_mut(&key) else {
                continue;
            };
            let (checks, address) = (Arc::clone(&self.checks), watched.address.clone());
            let task = self
                .running
                .spawn(async move { exchange::run(&checks, &address).await });
            self.tasks.insert(task.id(), key);
            watched.phase = Phase::Running(task);
            started = true;
        }
        started
    }

    /// Waits for the next check to be due. Where there is no room for it, the end of another will wake.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.running.len() >= self.checks.concurrency {
            return Poll::Pending;
        }
        let Some(((at, _), _)) = self.due.first_key_value() else {
            return Poll::Pending;
        };
        match &mut self.timer {
            Some(timer) if timer.deadline() == *at => {}
            Some(timer) => timer.as_mut().reset(*at),
            None => self.timer = Some(Box::pin(sleep_until(*at))),
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn end(&mut self, key: K, result: Result<(), CheckError>) -> Option<Report<K>> {
        let interval = jittered(self.checks.interval, self.checks.jitter, &mut self.rng);
        let due = self.schedule(key.clone(), after(Instant::now(), interval));
        let Some(watched) = self.endpoints.get_mut(&key) else {
            self.due.remove(&due);
            return None;
        };
        watched.phase = Phase::Waiting(due);
        let (max_failures, passes) = (self.checks.max_failures, self.checks.passes);
        let standing = watched.record.note(result.is_ok(), max_failures, passes);
        Some(Report {
            key,
            result,
            standing,
        })
    }

    fn schedule(&mut self, key: K, at: Instant) -> (Instant, u64) {
        self.serial += 1;
        let due = (at, self.serial);
        self.due.insert(due, key);
        due
    }
}

impl<K> fmt::Debug for Prober<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("checks", &self.checks)
            .field("endpoints", &self.endpoints.len())
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}
