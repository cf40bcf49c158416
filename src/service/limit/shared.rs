//! What all clones of a limit share.

use std::sync::{
    Arc, Mutex, TryLockError,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{
    gradient::{Gradient, Rules, Sample},
    permits::Permits,
};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) permits: Arc<Permits>,
    /// Never waited for: a call that finds it locked leaves its sample out.
    gradient: Mutex<Gradient>,
    /// The service was overloaded, and the limit has not shrunk for it yet. Relaxed, like the next: hints
    /// that publish nothing.
    overloaded: AtomicBool,
    /// Changed under the lock, read without.
    limit: AtomicU32,
    in_flight: AtomicU32,
}

impl Shared {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            permits: Arc::new(Permits::new(rules.initial)),
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

    /// A call begins; returns how many are in flight with it.
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
            // Nothing within can panic, and a half-taken sample would do no harm.
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
            self.permits.change(from, to);
        }
    }
}
