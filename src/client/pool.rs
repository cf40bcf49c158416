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

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use http_body::Body;
use hyper::client::conn::http1::SendRequest;
use tokio::{runtime::Handle, sync::oneshot, task::AbortHandle};

use crate::error::BoxError;

/// Ticks for which a connection may be idle. More ticks would wake the processor more often; fewer
/// would close connections long before their timeout.
const LIFE: u32 = 8;

/// The shortest tick, whatever idle timeout is set.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) struct Pool<B> {
    state: Mutex<State<B>>,
    /// The time between ticks; `None` when connections have no idle timeout.
    tick: Option<Duration>,
    max_idle: usize,
}

/// Locked for a moment only: no code waits or drops a connection while it holds the lock.
struct State<B> {
    /// In the order of use, the last used at the end. Some may not be ready yet, and some may be
    /// closed.
    idle: Vec<Idle<B>>,
    waiting: VecDeque<oneshot::Sender<SendRequest<B>>>,
    now: u32,
    /// The task that ticks. It runs while any connection is idle.
    clock: Option<AbortHandle>,
}

struct Idle<B> {
    sender: SendRequest<B>,
    since: u32,
}

/// A connection that is being established.
pub(super) type Connecting<B> =
    Pin<Box<dyn Future<Output = Result<SendRequest<B>, BoxError>> + Send>>;

impl<B> Pool<B> {
    /// Keeps up to `max_idle` connections, each until it has been idle for `idle_for`.
    pub(super) fn new(max_idle: usize, idle_for: Option<Duration>) -> Self {
        let none = idle_for.is_some_and(|time| time.is_zero());
        Self {
            state: Mutex::new(State {
                idle: Vec::new(),
                waiting: VecDeque::new(),
                now: 0,
                clock: None,
            }),
            tick: idle_for.map(|time| (time / LIFE).max(SHORTEST)),
            max_idle: if none { 0 } else { max_idle },
        }
    }

    /// Takes a connection that is ready for a request.
    pub(super) fn take(&self) -> Option<SendRequest<B>> {
        let mut closed = Vec::new();
        let mut state = self.lock();
        for at in (0..state.idle.len()).rev() {
            let sender = &state.idle[at].sender;
            if sender.is_ready() {
                return Some(state.idle.remove(at).sender);
            }
            if sender.is_closed() {
                closed.push(state.idle.remove(at));
            }
        }
        drop(state);
        None
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // No code that holds the lock panics half-way, so a poisoned lock is used as it is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Pool<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    /// Puts a connection back after the head of its response. It need not be ready yet.
    pub(super) fn put(self: &Arc<Self>, sender: SendRequest<B>) {
        if self.max_idle == 0 || sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            return self.settle(sender);
        }
        let mut state = self.lock();
        if state.waiting.is_empty() && self.max_idle == usize::MAX {
            self.keep(&mut state, sender);
        } else {
            drop(state);
            self.watch(sender);
        }
    }

    /// Gives a ready connection to a waiting request, or keeps it.
    fn settle(self: &Arc<Self>, mut sender: SendRequest<B>) {
        let mut state = self.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(sender) {
                Ok(()) => return,
                Err(back) => sender = back,
            }
        }
        let mut closed = None;
        if state.idle.len() >= self.max_idle {
            let at = state.idle.iter().position(|idle| idle.sender.is_closed());
            closed = at.map(|at| state.idle.remove(at));
        }
        if state.idle.len() < self.max_idle {
            self.keep(&mut state, sender);
            drop(state);
        } else {
            drop(state);
            drop(sender);
        }
        drop(closed);
    }

    fn keep(self: &Arc<Self>, state: &mut State<B>, sender: SendRequest<B>) {
        let since = state.now;
        state.idle.push(Idle { sender, since });
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

    /// Settles a connection when it becomes ready.
    fn watch(self: &Arc<Self>, mut sender: SendRequest<B>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                if let Some(pool) = pool.upgrade() {
                    pool.settle(sender);
                }
            }
        });
    }

    /// Waits for a connection: for the one being established, or for one that becomes ready
    /// earlier. Returns whether the connection was used before.
    pub(super) async fn wait(
        self: &Arc<Self>,
        mut connecting: Connecting<B>,
    ) -> Result<(SendRequest<B>, bool), BoxError> {
        let mut ticket = self.queue();
        if let Ok(sender) = ticket.receiver.try_recv() {
            return Ok((sender, true));
        }
        tokio::select! {
            biased;
            Ok(sender) = &mut ticket.receiver => {
                // The new connection is still completed, because a later request will use it.
                let pool = Arc::downgrade(self);
                tokio::spawn(async move {
                    if let Ok(sender) = connecting.await {
                        if let Some(pool) = pool.upgrade() {
                            pool.settle(sender);
                        }
                    }
                });
                Ok((sender, true))
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
        let busy = mem::take(&mut state.idle);
        drop(state);
        busy.into_iter().for_each(|busy| self.put(busy.sender));
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
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for mut idle in mem::take(&mut state.idle) {
            if !idle.sender.is_ready() && !idle.sender.is_closed() {
                // Its response has not ended. It starts to age after that, up to a tick too early.
                idle.since = now;
                kept.push(idle);
            } else if idle.sender.is_closed() || now.wrapping_sub(idle.since) >= LIFE {
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

/// A place in the queue. A connection that was handed to it and not taken goes back to the pool.
struct Ticket<'a, B: Body + Send + 'static>
where
    B::Data: Send,
{
    pool: &'a Arc<Pool<B>>,
    receiver: oneshot::Receiver<SendRequest<B>>,
}

impl<B: Body + Send + 'static> Drop for Ticket<'_, B>
where
    B::Data: Send,
{
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(sender) = self.receiver.try_recv() {
            self.pool.settle(sender);
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

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("idle", &self.lock().idle.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
