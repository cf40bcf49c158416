//! The connections to one endpoint over HTTP/1 that may carry a next request.
//!
//! ```text
//!          take: the last that is ready
//!   ┌───────────────────────────────────────── Idle ◀──────────────┐
//!   ▼                                           ▲  ready, or not yet│
//! request ── head of the answer ──▶ put ────────┤                   │ settle
//!                                               └─▶ watched ────────┤
//!                                                                   ▼
//!                         a request that connects ◀── who waits comes first
//! ```
//!
//! A connection is put back with the head of an answer, when its body is still to come. hyper says of
//! each whether it is ready for more, so nobody needs to be told when that body has ended: who looks for
//! a connection passes over those that are not ready. hyper-util's pool starts a task for each answer
//! instead. Here that is done only where someone waits: a request that found nothing connects, and takes
//! what becomes ready before that.
//!
//! The last used is the first taken, so that what is not needed ages. A clock that ticks eight times in
//! the time that a connection may be idle says how old it is, since reading a real one for each request
//! would cost as much as all the rest.

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

/// Ticks for which a connection may be idle. More would wake the processor more often; fewer would
/// close connections long before their time.
const LIFE: u32 = 8;

/// No clock ticks faster, whatever time is asked for.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) struct Pool<B> {
    state: Mutex<State<B>>,
    /// Until the next tick; none when nothing ages.
    tick: Option<Duration>,
    max_idle: usize,
}

/// Locked for a moment: nobody waits or drops a connection within.
struct State<B> {
    /// The last used at the end. Some are not ready yet, and some may have been closed by now.
    idle: Vec<Idle<B>>,
    waiting: VecDeque<oneshot::Sender<SendRequest<B>>>,
    now: u32,
    /// Runs while anything is idle.
    clock: Option<AbortHandle>,
}

struct Idle<B> {
    sender: SendRequest<B>,
    since: u32,
}

/// Establishes a connection.
pub(super) type Connecting<B> =
    Pin<Box<dyn Future<Output = Result<SendRequest<B>, BoxError>> + Send>>;

impl<B> Pool<B> {
    /// Keeps up to `max_idle` connections, each until it was idle for `idle_for`.
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
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Pool<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    /// Puts a connection back that has answered. It need not be ready yet.
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

    /// Finds a place for a connection that is ready.
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
        // It ended with its runtime, if that is gone.
        let stands = state.clock.as_ref().is_none_or(AbortHandle::is_finished);
        if let (true, Some(tick)) = (stands, self.tick) {
            // Who gives up a place in the queue may do so outside any runtime; the next starts it.
            if let Ok(runtime) = Handle::try_current() {
                let clock = runtime.spawn(tick_on(Arc::downgrade(self), tick));
                state.clock = Some(clock.abort_handle());
            }
        }
    }

    /// Settles a connection when it is ready.
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

    /// Waits for a connection: the one that is being made, or one that becomes ready before. Says
    /// whether it was used before.
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
                // It was wanted, and will be.
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
        // The first have waited longest, so the queue grows by no more than comes while one connects.
        // To look through all of it each time would make a burst cost its square.
        while state
            .waiting
            .front()
            .is_some_and(oneshot::Sender::is_closed)
        {
            state.waiting.pop_front();
        }
        state.waiting.push_back(sender);
        // Nobody would tell when they are ready.
        let busy = mem::take(&mut state.idle);
        drop(state);
        busy.into_iter().for_each(|busy| self.put(busy.sender));
        Ticket {
            pool: self,
            receiver,
        }
    }

    /// Lets time pass, and says whether anything is left that ages.
    fn age(&self) -> bool {
        let mut state = self.lock();
        state.now = state.now.wrapping_add(1);
        let now = state.now;
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for mut idle in mem::take(&mut state.idle) {
            if !idle.sender.is_ready() && !idle.sender.is_closed() {
                // Its answer still comes; when that ends, some of this tick may have passed.
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

/// A place in the queue. What was handed to it and not taken goes back.
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
