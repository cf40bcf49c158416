//! What ends a connection.
//!
//! The task of a connection is hyper's, and it ends by itself only when both directions are done: a
//! request body that never ends, or a peer that reads nothing, keeps it for ever. So each connection
//! has owners, and its task is aborted when the last one lets go of it:
//!
//! ```text
//! the pool (HTTP/1) or the line (HTTP/2) ──┐
//! a request that waits for its response  ──┼──▶ Arc<Life> ──abort──▶ task of the connection
//! the body of a response                 ──┘
//! ```
//! An endpoint that is dropped drops its pool. So its idle connections close at once, and each of the
//! others at the end of the response that it carries.
//!
//! A connection that carries nothing when the pool or the line lets go of it ends *in order*: its task tells
//! the peer, by the `close_notify` of TLS and the `GOAWAY` of HTTP/2, and is aborted only if that takes too
//! long. One that still carries a response then is aborted at the end of it, without a word to the peer.
//!
//! A connection that has reached its greatest age is replaced: when a new one stands, the old one is
//! *retired*, which means that it gets no further requests. So a host name that moved to another address
//! is followed, and one that cannot be resolved for a while costs no connection. One that is idle then is
//! closed instead, and so is one whose server has come to choose the other version of HTTP.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::RngExt;
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{backoff::NEVER, rng::small_rng};

/// How often an idle connection is looked at within its idle timeout. More often would wake the
/// processor more often; less often would close connections long before their timeout.
pub(super) const LOOKS: u32 = 8;

/// The shortest time between two looks, whatever idle timeout is set.
const SHORTEST: Duration = Duration::from_millis(1);

/// The time between two looks at idle connections.
pub(super) fn tick(idle_timeout: Duration) -> Duration {
    (idle_timeout / LOOKS).max(SHORTEST)
}

/// How long a connection may take to tell its peer that it ends. Arbitrary: a few round trips, in which
/// one lost packet is sent again.
const IN_ORDER_WITHIN: Duration = Duration::from_secs(1);

/// The least greatest age. A shorter one would do little else than handshakes, and one of zero would do
/// them without a pause.
const YOUNGEST: Duration = Duration::from_secs(1);

/// The age at which a connection is replaced: a share of the greatest age, which differs, so that
/// connections that were made together are not replaced together.
pub(super) fn age(greatest: Duration) -> Duration {
    let share = small_rng(None).random_range(0.8..=1.0);
    greatest.clamp(YOUNGEST, NEVER).mul_f64(share)
}

/// After how much time a failed replacement is tried again.
pub(super) fn again(greatest: Duration) -> Duration {
    (greatest.min(NEVER) / 20).max(Duration::from_secs(1))
}

/// Aborts the task of a connection when it is dropped.
pub(super) struct Life {
    task: AbortHandle,
    /// The runtime of the task: the one that drops the last owner may have no timer, or end.
    runtime: Handle,
    /// The task that closes the connection when it is idle, for a connection that has its own.
    clock: OnceLock<AbortHandle>,
    /// The task that replaces it.
    renewal: OnceLock<AbortHandle>,
    /// Whether it was replaced. Relaxed: a hint that publishes no other memory.
    retired: AtomicBool,
    /// Relaxed: whoever sets it owns this life, and gives it up after that. The count of owners, whose
    /// last decrement synchronizes with the others, carries the flag to the destructor.
    upgraded: AtomicBool,
    /// Whether the connection carries nothing. Relaxed, as `upgraded`.
    in_order: AtomicBool,
}

impl Life {
    /// # Panics
    /// Outside of the runtime of the task.
    pub(super) fn new(task: AbortHandle) -> Arc<Self> {
        Arc::new(Self {
            task,
            runtime: Handle::current(),
            clock: OnceLock::new(),
            renewal: OnceLock::new(),
            retired: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            in_order: AtomicBool::new(false),
        })
    }

    /// Makes the task `clock` end with the connection.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(super) fn set_clock(&self, clock: AbortHandle) {
        if let Err(second) = self.clock.set(clock) {
            second.abort();
        }
    }

    /// Makes the task `renewal` end with the connection.
    pub(super) fn set_renewal(&self, renewal: AbortHandle) {
        if let Err(second) = self.renewal.set(renewal) {
            second.abort();
        }
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Whether another owner uses the connection: a request or the body of a response.
    pub(super) fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    /// Leaves the connection to the caller that upgraded it. With HTTP/2 its tunnel is the only stream of
    /// the connection, which ends with it.
    pub(super) fn leave(&self) {
        self.upgraded.store(true, Relaxed);
    }

    /// Lets the task of the connection end by itself, for a while. For the owner that also drops the
    /// sender of requests, which tells the task that it is over.
    pub(super) fn end_in_order(&self) {
        self.in_order.store(true, Relaxed);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        for timer in [&self.clock, &self.renewal] {
            if let Some(timer) = timer.get() {
                timer.abort();
            }
        }
        if *self.upgraded.get_mut() {
            return;
        }
        let task = Aborts(self.task.clone());
        if *self.in_order.get_mut() {
            self.runtime.spawn(async move {
                let _task = task;
                tokio::time::sleep(IN_ORDER_WITHIN).await;
            });
        }
    }
}

/// Aborts a task when it is dropped: also when a runtime ends that was to wait for it.
struct Aborts(AbortHandle);

impl Drop for Aborts {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{runtime::Builder, time::timeout};

    use super::*;

    /// The last owner of an idle connection is dropped by each of these.
    #[test]
    fn an_idle_connection_ends_whatever_drops_its_last_owner() {
        let nothing = |life| drop(life);
        let another_runtime = |life| {
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async { drop(life) });
        };
        for by in [nothing, another_runtime] {
            let mut builder = Builder::new_current_thread();
            let runtime = builder.enable_time().start_paused(true).build();
            let runtime = runtime.expect("a runtime");
            let (task, life) = runtime.block_on(async {
                let task = tokio::spawn(pending::<()>());
                let life = Life::new(task.abort_handle());
                (task, life)
            });
            life.end_in_order();
            by(life);
            let ended = runtime.block_on(async { timeout(2 * IN_ORDER_WITHIN, task).await });
            let ended = ended
                .expect("in time")
                .expect_err("it never ends by itself");
            assert!(ended.is_cancelled());
        }
    }
}
