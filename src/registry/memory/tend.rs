//! The task of a registry: it removes expired instances and starts the checks.
//!
//! It sleeps until the earliest deadline, whatever the number of instances, and starts with the first
//! instance. It holds a weak reference to the registry, so it and the checks end with the last handle.
//!
//! After its process was suspended, every deadline has passed at once, although the instances may be
//! alive. So a timer that is late by more than half of an instance's heartbeat interval gives that
//! instance one more interval. Each instance is compared with its own interval: every timer is late
//! beside an interval of a millisecond, and one such instance must not prolong all others for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch as cell,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{probe, shared::MemoryShared, store::Store};
use crate::{sync::lock, task::sleep_until_some};

/// How late a timer may be on a busy machine without a suspension. Arbitrary: well above a timer's
/// resolution of a millisecond, and well below a suspension.
const TIMELY: Duration = Duration::from_millis(20);

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
    let mut probes = Probes::default();
    loop {
        poke.mark_unchanged();
        let next = {
            let Some(shared) = registry.upgrade() else {
                return;
            };
            let mut store = shared.store();
            probes.follow(&store, &registry);
            if shared.faults.is_paused() {
                store.planned = None;
            } else {
                turn(&mut store, Instant::now());
            }
            let next = store.planned;
            drop(store);
            shared.changed(false);
            next
        };
        tokio::select! {
            poked = poke.changed() => if poked.is_err() { return },
            () = sleep_until_some(next) => {}
        }
    }
}

/// Removes expired instances, and plans the next deadline.
fn turn(store: &mut Store, now: Instant) {
    if let Some(planned) = store.planned {
        let late = now.saturating_duration_since(planned);
        let granted = if late > TIMELY {
            store.grant(now, late)
        } else {
            0
        };
        if granted > 0 {
            tracing::warn!(?late, granted, "woke late: instances get one more interval");
        }
    }
    for record in store.expire(now) {
        tracing::info!(
            service = %record.instance.service, id = record.instance.id(),
            "an instance expired"
        );
    }
    store.planned = store.next_deadline();
}

/// The running checks; dropping this aborts them.
#[derive(Default)]
struct Probes {
    tasks: JoinSet<()>,
    running: HashMap<Arc<str>, (u64, AbortHandle)>,
    /// The value of [`Store::checks`] when the checks were last updated.
    seen: u64,
}

impl Probes {
    /// Starts and aborts checks, so that each registration with a check has one.
    fn follow(&mut self, store: &Store, registry: &Weak<MemoryShared>) {
        while self.tasks.try_join_next().is_some() {}
        if self.seen == store.checks {
            return;
        }
        self.seen = store.checks;
        self.running.retain(|id, (serial, task)| {
            let stays = store
                .get(id)
                .is_some_and(|r| r.serial == *serial && r.check.is_some());
            if !stays {
                task.abort();
            }
            stays
        });
        for record in store.all() {
            let Some(check) = &record.check else { continue };
            let id: Arc<str> = record.instance.id().into();
            if self.running.contains_key(&id) {
                continue;
            }
            let job = probe::CheckJob {
                registry: Weak::clone(registry),
                id: Arc::clone(&id),
                serial: record.serial,
                address: record.instance.address.clone(),
                check: Arc::clone(check),
            };
            let task = self.tasks.spawn(probe::run(job));
            self.running.insert(id, (record.serial, task));
        }
    }
}
