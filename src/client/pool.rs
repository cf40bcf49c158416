//! The connections to one endpoint over HTTP/1 that can carry another request.
//!
//! ```text
//!          take: the last that is ready
//!   ┌───────────────────────────────────────── Idle ◀──────────────┐
//!   ▼                                           ▲  ready, or not yet│
//! request ── head of response ──▶ put ──────────┤                   │ settle
//!                                               └─▶ watched ────────┤
//!                                                                   ▼
//!                         a request that connects ◀── waiting requests come first
//! ```
//!
//! A connection is put back with the head of a response, although the body is still to come. hyper
//! reports for each connection whether it is ready for another request, so the end of the body
//! needs no signal: a request that looks for a connection skips those that are not ready.
//! hyper-util's pool starts a task for each response instead. Here a task is started only when a
//! request waits: a request that finds no connection starts to connect, and takes any connection
//! that becomes ready earlier.
//!
//! The connection used last is taken first, so that surplus connections age. A counter that
//! advances eight times within the idle timeout gives the age of a connection. A clock read for
//! each request would cost as much as the rest of the pool.
//!
//! A connection is idle from the end of its response on. If the request is still being uploaded then,
//! the connection is not ready, and the idle timeout closes it: the peer may never read the rest.

mod connection;

use self::connection::{Clock, until_ready};
pub(super) use self::connection::{Connecting, Connection};

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use http_body::Body;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};

use super::life::{LOOKS, Life, tick};
use crate::{error::BoxError, sync::lock};

/// How long the upload before an upgrade may take when there is no idle timeout; as long as its default.
const HANDED_OUT_WITHIN: Duration = Duration::from_secs(50);

pub(super) struct Pool<B> {
    state: Mutex<PoolState<B>>,
    /// The time between ticks; `None` when connections have no idle timeout.
    tick: Option<Duration>,
    max_idle: usize,
}

/// Locked for a moment only: no code waits or drops a connection while it holds the lock.
struct PoolState<B> {
    /// In the order of use, the last used at the end. Some may not be ready yet, and some may be
    /// closed.
    idle: Vec<Idle<B>>,
    waiting: VecDeque<oneshot::Sender<Connection<B>>>,
    now: u32,
    /// The task that ticks. It runs while any connection is idle.
    clock: Option<AbortHandle>,
    /// The tasks that own a connection until it is ready. They end with the pool. Made with the first
    /// of them, because most endpoints of a large service never have one.
    tasks: Option<JoinSet<()>>,
}

struct Idle<B> {
    connection: Connection<B>,
    since: u32,
}

impl<B> Pool<B> {
    /// Keeps up to `max_idle` connections, each until it has been idle for `idle_for`.
    pub(super) fn new(max_idle: usize, idle_for: Option<Duration>) -> Self {
        let none = idle_for == Some(Duration::ZERO);
        Self {
            state: Mutex::new(PoolState {
                idle: Vec::new(),
                waiting: VecDeque::new(),
                now: 0,
                clock: None,
                tasks: None,
            }),
            tick: idle_for.map(tick),
            max_idle: if none { 0 } else { max_idle },
        }
    }

    /// Takes a connection that is ready for a request, and can be upgraded if it must be.
    pub(super) fn take(&self, upgrades: bool) -> Option<Connection<B>> {
        let (mut over, mut clock) = (Vec::new(), Clock::default());
        let mut state = self.lock();
        for at in (0..state.idle.len()).rev() {
            let connection = &state.idle[at].connection;
            if connection.is_over(&mut clock) {
                over.push(state.idle.remove(at));
            } else if connection.sender.is_ready() && !(upgrades && connection.refusal.is_some()) {
                return Some(state.idle.remove(at).connection);
            }
        }
        drop(state);
        None
    }

    /// Drops the connections that get no further requests.
    pub(super) fn sweep(&self) {
        let mut clock = Clock::default();
        let mut state = self.lock();
        let idle = mem::take(&mut state.idle).into_iter();
        let (over, kept) = idle.partition(|idle| idle.connection.is_over(&mut clock));
        state.idle = kept;
        drop(state);
        let _: Vec<_> = over;
    }

    /// Closes the connection with this life if it is idle since before the last tick. Returns whether it was.
    pub(super) fn close_idle(&self, life: &Weak<Life>) -> bool {
        let mut state = self.lock();
        let now = state.now;
        let at = state.idle.iter().position(|Idle { connection, since }| {
            let is_it = Arc::as_ptr(&connection.life) == life.as_ptr();
            is_it && *since != now && connection.sender.is_ready()
        });
        let idle = at.map(|at| state.idle.remove(at));
        drop(state);
        idle.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, PoolState<B>> {
        lock(&self.state)
    }
}

impl<B> Pool<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    /// Puts a connection back after the head of its response. It need not be ready yet.
    pub(super) fn put(self: &Arc<Self>, connection: Connection<B>) {
        if self.max_idle == 0 || connection.is_spent() {
            return;
        }
        if connection.sender.is_ready() {
            return self.hand_on(connection);
        }
        let mut state = self.lock();
        if state.waiting.is_empty() && self.max_idle == usize::MAX {
            self.keep(&mut state, connection);
        } else {
            self.watch(&mut state, connection);
        }
    }

    /// Holds a connection that is being upgraded until hyper hands it out, which ends hyper's task. A
    /// request that is still being uploaded delays that, up to the idle timeout: the peer may never
    /// read the rest.
    pub(super) fn release(&self, connection: Connection<B>) {
        let tick = self.tick.unwrap_or_else(|| tick(HANDED_OUT_WITHIN));
        match Handle::try_current() {
            // Not one of the tasks of the pool: an upgraded connection outlives its endpoint.
            Ok(runtime) => drop(runtime.spawn(until_ready(connection, Some(tick)))),
            Err(_) => connection.life.leave(),
        }
    }

    /// Gives a ready connection to a waiting request, or keeps it.
    fn settle(self: &Arc<Self>, connection: Connection<B>) {
        if !connection.is_over(&mut Clock::default()) {
            self.hand_on(connection);
        }
    }

    fn hand_on(self: &Arc<Self>, mut connection: Connection<B>) {
        let mut state = self.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(connection) {
                Ok(()) => return,
                Err(back) => connection = back,
            }
        }
        let mut closed = None;
        if state.idle.len() >= self.max_idle {
            let (mut idle, mut clock) = (state.idle.iter(), Clock::default());
            let at = idle.position(|idle| idle.connection.is_over(&mut clock));
            closed = at.map(|at| state.idle.remove(at));
        }
        if state.idle.len() < self.max_idle {
            self.keep(&mut state, connection);
            drop(state);
        } else {
            drop(state);
            drop(connection);
        }
        drop(closed);
    }

    fn keep(self: &Arc<Self>, state: &mut PoolState<B>, connection: Connection<B>) {
        let since = state.now;
        state.idle.push(Idle { connection, since });
        self.start_clock(state);
    }

    fn start_clock(self: &Arc<Self>, state: &mut PoolState<B>) {
        // The task ends with its runtime, so it may have to be started again.
        let stands = state.clock.as_ref().is_none_or(AbortHandle::is_finished);
        if let (true, Some(tick)) = (stands, self.tick) {
            // A request that leaves the queue may be dropped outside of a runtime. The next one
            // starts the task.
            if let Ok(runtime) = Handle::try_current() {
                let clock = runtime.spawn(tick_on(Arc::downgrade(self), tick));
                state.clock = Some(clock.abort_handle());
            }
        }
    }

    /// Settles a connection when it becomes ready. Gives it up when it is old before.
    fn watch(self: &Arc<Self>, state: &mut PoolState<B>, connection: Connection<B>) {
        let (pool, tick) = (Arc::downgrade(self), self.tick);
        state.spawn(async move {
            let Some(connection) = until_ready(connection, tick).await else {
                return;
            };
            if let Some(pool) = pool.upgrade() {
                pool.settle(connection);
            }
        });
    }

    /// Waits for a connection: for the one being established, or for one that becomes ready
    /// earlier. Returns whether the connection was used before.
    pub(super) async fn wait(
        self: &Arc<Self>,
        mut connecting: Connecting<B>,
    ) -> Result<(Connection<B>, bool), BoxError> {
        let mut ticket = self.queue();
        if let Ok(connection) = ticket.receiver.try_recv() {
            return Ok((connection, true));
        }
        tokio::select! {
            biased;
            Ok(connection) = &mut ticket.receiver => {
                // The new connection is still completed, because a later request will use it.
                let pool = Arc::downgrade(self);
                self.lock().spawn(async move {
                    if let Ok(connection) = connecting.await
                        && let Some(pool) = pool.upgrade() {
                            pool.settle(connection);
                        }
                });
                Ok((connection, true))
            }
            made = &mut connecting => Ok((made?, false)),
        }
    }

    fn queue(self: &Arc<Self>) -> Ticket<'_, B> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        // Removes cancelled requests from the front only, where the oldest are. So the queue grows
        // by no more than the requests that come while one connects. Searching the whole queue each
        // time would make the cost of a burst quadratic.
        while state
            .waiting
            .front()
            .is_some_and(oneshot::Sender::is_closed)
        {
            state.waiting.pop_front();
        }
        state.waiting.push_back(sender);
        // Idle connections that are not ready must be watched now, because a request waits for
        // them.
        let (ready, busy) = mem::take(&mut state.idle)
            .into_iter()
            .partition::<Vec<_>, _>(|idle| idle.connection.sender.is_ready());
        busy.into_iter()
            .for_each(|idle| self.watch(&mut state, idle.connection));
        drop(state);
        ready
            .into_iter()
            .for_each(|idle| self.settle(idle.connection));
        Ticket {
            pool: self,
            receiver,
        }
    }

    /// Advances the counter and closes old connections. Returns whether any connection is left.
    fn age(&self) -> bool {
        let mut state = self.lock();
        state.now = state.now.wrapping_add(1);
        let now = state.now;
        let (mut kept, mut gone, mut clock) = (Vec::new(), Vec::new(), Clock::default());
        for mut idle in mem::take(&mut state.idle) {
            if idle.connection.is_busy() {
                // Its response has not ended. It starts to age after that, up to a tick too early.
                idle.since = now;
            }
            if idle.connection.is_over(&mut clock) || now.wrapping_sub(idle.since) >= LOOKS {
                gone.push(idle);
            } else {
                kept.push(idle);
            }
        }
        state.idle = kept;
        let any = !state.idle.is_empty();
        if !any {
            state.clock = None;
        }
        drop(state);
        any
    }
}

impl<B> PoolState<B> {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        // Tasks that have ended are removed.
        let tasks = self.tasks.get_or_insert_with(JoinSet::new);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// A place in the queue. A connection that was handed to it and not taken goes back to the pool.
struct Ticket<'a, B: Body + Send + 'static>
where
    B::Data: Send,
{
    pool: &'a Arc<Pool<B>>,
    receiver: oneshot::Receiver<Connection<B>>,
}

impl<B: Body + Send + 'static> Drop for Ticket<'_, B>
where
    B::Data: Send,
{
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(connection) = self.receiver.try_recv() {
            self.pool.settle(connection);
        }
    }
}

async fn tick_on<B>(pool: Weak<Pool<B>>, tick: Duration)
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    loop {
        tokio::time::sleep(tick).await;
        if !pool.upgrade().is_some_and(|pool| pool.age()) {
            return;
        }
    }
}

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        if let Some(clock) = &self.lock().clock {
            clock.abort();
        }
    }
}

impl_debug!([B] Pool<B>: |this| idle = this.lock().idle.len());

#[cfg(test)]
mod tests;
