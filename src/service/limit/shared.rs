//! What all clones of a limit share.

use std::sync::{
    Arc, Mutex, TryLockError,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::gradient::{Gradient, LimitRules, Sample};
use crate::permits::Permits;

#[derive(Debug)]
pub(super) struct LimitShared {
    pub(super) permits: Arc<Permits>,
    /// No call waits for this lock: a call that finds it locked skips its sample.
    gradient: Mutex<Gradient>,
    /// Whether the service was overloaded since the limit last shrank for it. Relaxed, like the
    /// next two: hints that publish no other memory.
    overloaded: AtomicBool,
    /// Written under the lock, read without it.
    limit: AtomicU32,
    in_flight: AtomicU32,
}

impl LimitShared {
    pub(super) fn new(rules: LimitRules) -> Self {
        Self {
            permits: Arc::new(Permits::new(rules.initial as usize)),
            gradient: Mutex::new(Gradient::new(rules, Instant::now())),
            overloaded: AtomicBool::new(false),
            limit: AtomicU32::new(rules.initial),
            in_flight: AtomicU32::new(0),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Counts a call; returns how many are in flight with it.
    pub(super) fn begin(&self) -> u32 {
        self.in_flight.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn sample(&self, sample: Sample, now: Instant) {
        self.estimate(Some(sample), now);
    }

    pub(super) fn overloaded(&self, now: Instant) {
        self.overloaded.store(true, Relaxed);
        self.estimate(None, now);
    }

    fn estimate(&self, sample: Option<Sample>, now: Instant) {
        let mut gradient = match self.gradient.try_lock() {
            Ok(gradient) => gradient,
            // No code that holds the lock panics, and a sample that is half added would do no harm.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(sample) = sample {
            gradient.sample(sample);
        }
        let overloaded = self.overloaded.swap(false, Relaxed);
        if !gradient.turn(overloaded, now) && overloaded {
            self.overloaded.store(true, Relaxed);
        }
        let (from, to) = (self.limit(), gradient.limit());
        if from != to {
            tracing::trace!(from, to, "adaptive limit");
            self.limit.store(to, Relaxed);
            self.permits.change(from as usize, to as usize);
        }
    }
}
