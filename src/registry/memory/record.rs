//! What the registry knows of one instance, and where it stands in its history.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::instance::{Instance, Status};

/// Heartbeats that an instance promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Beat {
    pub(in crate::registry) interval: Duration,
    /// How long after the last one it expires.
    pub(in crate::registry) ttl: Duration,
}

impl Beat {
    pub(in crate::registry) fn every(interval: Duration, max_failures: NonZeroU32) -> Self {
        let ttl = interval.saturating_mul(max_failures.get());
        Self { interval, ttl }
    }

    pub(in crate::registry) fn within(ttl: Duration, max_failures: NonZeroU32) -> Self {
        let interval = ttl / max_failures.get();
        Self { interval, ttl }
    }
}

/// A check that the registry makes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct RecordCheck {
    /// The path to request; without one, connecting is the check.
    pub(in crate::registry) path: Option<String>,
    pub(in crate::registry) interval: Duration,
    pub(in crate::registry) timeout: Duration,
    pub(in crate::registry) max_failures: NonZeroU32,
    /// How long a critical instance is kept; `None` is for ever.
    pub(in crate::registry) reap_after: Option<Duration>,
}

/// What holds for registrations that do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::registry) struct Defaults {
    pub(in crate::registry) max_failures: NonZeroU32,
    pub(in crate::registry) check_interval: Duration,
    pub(in crate::registry) check_timeout: Duration,
}

/// One lost heartbeat is no failure yet, and two may be a burst of lost packets.
const MAX_FAILURES: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

impl Default for Defaults {
    fn default() -> Self {
        Self {
            max_failures: MAX_FAILURES,
            // As `Health::http` has them.
            check_interval: Duration::from_secs(10),
            check_timeout: Duration::from_secs(2),
        }
    }
}

/// A registration as it arrives.
#[derive(Clone, Debug)]
pub(in crate::registry) struct NewRecord {
    pub(in crate::registry) instance: Instance,
    pub(in crate::registry) beat: Option<Beat>,
    pub(in crate::registry) check: Option<Arc<RecordCheck>>,
    /// Who registers: an equal one makes a registration an update of the same incarnation.
    pub(in crate::registry) session: Option<Arc<str>>,
}

/// A registration as it is held.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Record {
    /// With the status that the check left it.
    pub(in crate::registry) instance: Arc<Instance>,
    pub(in crate::registry) beat: Option<Beat>,
    pub(in crate::registry) check: Option<Arc<RecordCheck>>,
    pub(in crate::registry) session: Option<Arc<str>>,
    /// The status that it registered with.
    pub(in crate::registry) announced: Status,
    /// Unix time in milliseconds.
    pub(in crate::registry) last_heartbeat: u64,
    /// Tells this registration from every other, for the task that checks it.
    pub(super) serial: u64,
    pub(super) failures: u32,
    /// When it is removed, unless something comes in between.
    pub(super) expires: Option<Instant>,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::registry) struct Now {
    pub(in crate::registry) at: Instant,
    pub(in crate::registry) unix_ms: u64,
}

/// A point in the history of one start of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Position {
    pub(in crate::registry) epoch: u64,
    pub(in crate::registry) index: u64,
}

/// Why a name stands for no instance.
#[cfg(feature = "rest")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Unresolved {
    Unknown,
    Several,
}

/// What is held of a service.
#[derive(Debug)]
pub(in crate::registry) struct Lookup<T = Record> {
    pub(in crate::registry) position: Position,
    pub(in crate::registry) exists: bool,
    pub(in crate::registry) records: Vec<T>,
}

impl Record {
    /// Whether a registration says nothing new, apart from being a sign of life.
    pub(super) fn is_renewed_by(&self, new: &NewRecord) -> bool {
        let Instance {
            key,
            service,
            address,
            weight,
            zone,
            status,
            tags,
            metadata,
            generation: _,
        } = &new.instance;
        let known = &*self.instance;
        // The status is compared with the announced one: that of a check is the registry's own.
        (known.key == *key && known.service == *service && known.address == *address)
            && (known.weight == *weight && known.zone == *zone && self.announced == *status)
            && (known.tags == *tags && known.metadata == *metadata)
            && (self.beat == new.beat && self.check == new.check)
    }
}
