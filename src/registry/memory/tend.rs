//! The task of a registry: it removes expired instances and starts the checks.
//!
//! It sleeps until the earliest deadline, whatever the number of instances, and starts with the first
//! instance. It holds a weak reference to the registry, so it and the checks end with the last handle.
//! Checks start in the order in which they are due, within the limits for all of them together.
//!
//! After its process was suspended, every deadline has passed at once, although the instances may be
//! alive. So a timer that is late by more than half of an instance's heartbeat interval gives that
//! instance one more interval. Each instance is compared with its own interval: every timer is late
//! beside an interval of a millisecond, and one such instance must not prolong all others for ever.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch as cell},
    task::{JoinSet, yield_now},
    time::Instant,
};

use super::{limits::MemoryLimits, probe, record::Record, shared::MemoryShared, store::Store};
use crate::{sync::lock, task::sleep_until_some};

/// How late a timer may be on a busy machine without a suspension. Arbitrary: well above a timer's
/// resolution of a millisecond, and well below a suspension.
const TIMELY: Duration = Duration::from_millis(20);

/// How many instances are removed without a break: about a millisecond under the lock.
const EXPIRED_AT_ONCE: usize = 1_000;

/// How far the starts of checks may be behind their rate and catch up. A timer is not exact.
const CATCH_UP: Duration = TIMELY;

impl MemoryShared {
    /// Starts the task if there are instances and it does not run. It may not have started because there
    /// was no runtime, or may have ended with its runtime.
    pub(super) fn tend(&self) {
        let idle = self.store().is_empty();
        let mut task = lock(&self.task);
        let runs = task.as_ref().is_some_and(|task| !task.is_finished());
        if idle || runs {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let work = tend(Weak::clone(&self.this), self.poke.subscribe());
            *task = Some(runtime.spawn(work).abort_handle());
        }
    }
}

async fn tend(registry: Weak<MemoryShared>, mut poke: cell::Receiver<()>) {
    let mut checks: Option<Checks> = None;
    loop {
        poke.mark_unchanged();
        let (next, more) = {
            let Some(shared) = registry.upgrade() else {
                return;
            };
            let mut store = shared.store();
            let now = Instant::now();
            let checks = checks.get_or_insert_with(|| {
                // Checks of an earlier task were cut off with it.
                store.plan_cut_off(now);
                Checks::new(&shared.limits)
            });
            let (turned, next) = if shared.faults.is_paused() {
                store.planned = None;
                (Turned::default(), None)
            } else {
                let turned = turn(&mut store, now);
                let check = checks.start(&mut store, &registry, now);
                (turned, store.planned.into_iter().chain(check).min())
            };
            drop(store);
            shared.changed(false);
            turned.log();
            (next, turned.more)
        };
        if more {
            // Others have their turn at the lock and at this thread.
            yield_now().await;
            continue;
        }
        let ended = async {
            match &mut checks {
                Some(checks) if !checks.running.is_empty() => {
                    drop(checks.running.join_next().await)
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            poked = poke.changed() => if poked.is_err() { return },
            () = sleep_until_some(next) => {}
            () = ended => {}
        }
    }
}

/// What a turn did. It is logged without the lock: the output of a program may be slow.
#[derive(Default)]
struct Turned {
    late: Duration,
    granted: usize,
    expired: Vec<Record>,
    /// Whether there may be further expired instances.
    more: bool,
}

impl Turned {
    fn log(&self) {
        let (late, granted) = (self.late, self.granted);
        if granted > 0 {
            tracing::warn!(?late, granted, "woke late: instances get one more interval");
        }
        for record in &self.expired {
            tracing::info!(
                service = ?record.instance.service, id = ?record.instance.id(),
                "an instance expired"
            );
        }
    }
}

/// Removes expired instances, and plans the next deadline.
fn turn(store: &mut Store, now: Instant) -> Turned {
    let planned = store.planned.unwrap_or(now);
    let late = now.saturating_duration_since(planned);
    let granted = if late > TIMELY {
        store.grant(now, late)
    } else {
        0
    };
    let expired = store.expire(now, EXPIRED_AT_ONCE);
    store.services.forget(now);
    let more = expired.len() == EXPIRED_AT_ONCE;
    // The next turn is at once, and late for none of those that are left.
    store.planned = store.next_deadline().filter(|_| !more);
    Turned {
        late,
        granted,
        expired,
        more,
    }
}

/// The checks that run; dropping this aborts them.
struct Checks {
    running: JoinSet<()>,
    slots: Arc<Semaphore>,
    /// The time between two starts.
    spacing: Duration,
    /// When the next check may start.
    next: Instant,
}

impl Checks {
    fn new(limits: &MemoryLimits) -> Self {
        Self {
            running: JoinSet::new(),
            slots: Arc::new(Semaphore::new(limits.checks_at_once)),
            spacing: Duration::from_secs(1) / limits.checks_per_sec.max(1),
            next: Instant::now(),
        }
    }

    /// Starts the checks whose turn it is. Returns when to call it again, if not before a running check
    /// has ended.
    fn start(
        &mut self,
        store: &mut Store,
        registry: &Weak<MemoryShared>,
        now: Instant,
    ) -> Option<Instant> {
        while self.running.try_join_next().is_some() {}
        loop {
            let at = store.next_check()?.max(self.next);
            if at > now {
                return Some(at);
            }
            let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
            let Some(record) = store.begin_check() else {
                continue;
            };
            let Some(check) = &record.check else {
                continue;
            };
            let behind = now.checked_sub(CATCH_UP).unwrap_or(now);
            self.next = self.next.max(behind) + self.spacing;
            self.running.spawn(probe::run(probe::CheckJob {
                registry: Weak::clone(registry),
                id: record.instance.id().into(),
                serial: record.serial,
                address: record.instance.address.clone(),
                check: Arc::clone(check),
                slot: Arc::new(slot),
            }));
        }
    }
}
