//! The record of one instance, and positions in the history of the registry.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::Instant;

use crate::instance::{Instance, Status};

/// The heartbeats of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Beat {
    pub(in crate::registry) interval: Duration,
    /// How long after its last heartbeat the instance expires.
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

/// A check that the registry makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct RecordCheck {
    /// The path to request; `None` to open a connection only.
    pub(in crate::registry) path: Option<String>,
    pub(in crate::registry) interval: Duration,
    pub(in crate::registry) timeout: Duration,
    pub(in crate::registry) max_failures: NonZeroU32,
    /// How long a critical instance is kept; `None` for ever.
    pub(in crate::registry) reap_after: Option<Duration>,
    /// The address from which the registration came; `None` if it was made in this process.
    pub(in crate::registry) registrant: Option<IpAddr>,
}

impl RecordCheck {
    /// Returns when the first check is: at a random point of the first interval, so that instances which
    /// registered together are not checked together.
    pub(super) fn first_at(&self, now: Instant) -> Option<Instant> {
        let share: f64 = rand::rng().random();
        now.checked_add(self.interval.mul_f64(share))
    }
}

/// The values for registrations that set none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::registry) struct Defaults {
    pub(in crate::registry) max_failures: NonZeroU32,
    pub(in crate::registry) check_interval: Duration,
    pub(in crate::registry) check_timeout: Duration,
}

/// The default is 3: one lost heartbeat is no failure yet, and two may be a burst of lost packets.
const MAX_FAILURES: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

impl Default for Defaults {
    fn default() -> Self {
        Self {
            max_failures: MAX_FAILURES,
            // The values of `Health::http`.
            check_interval: Duration::from_secs(10),
            check_timeout: Duration::from_secs(2),
        }
    }
}

/// A registration as received.
#[derive(Clone, Debug)]
pub(in crate::registry) struct NewRecord {
    pub(in crate::registry) instance: Instance,
    pub(in crate::registry) beat: Option<Beat>,
    pub(in crate::registry) check: Option<Arc<RecordCheck>>,
    /// Identifies the registering process. A registration with the same session updates the same
    /// incarnation.
    pub(in crate::registry) session: Option<Arc<str>>,
}

/// A registration as stored.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Record {
    /// Has the status after the last check.
    pub(in crate::registry) instance: Arc<Instance>,
    pub(in crate::registry) beat: Option<Beat>,
    pub(in crate::registry) check: Option<Arc<RecordCheck>>,
    pub(in crate::registry) session: Option<Arc<str>>,
    /// The status in the registration.
    pub(in crate::registry) announced: Status,
    /// Unix time in milliseconds.
    pub(in crate::registry) last_heartbeat: u64,
    /// Identifies this registration, for the task that checks it.
    pub(super) serial: u64,
    /// See [`NewRecord::size`].
    pub(super) size: usize,
    pub(super) failures: u32,
    /// When the instance is removed, unless a heartbeat or a check postpones it.
    pub(super) expires: Option<Instant>,
    /// When it is checked next; `None` during a check.
    pub(super) check_at: Option<Instant>,
}

/// The current time of both clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::registry) struct Now {
    pub(in crate::registry) at: Instant,
    pub(in crate::registry) unix_ms: u64,
}

/// A position in the history of one start of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Position {
    pub(in crate::registry) epoch: u64,
    pub(in crate::registry) index: u64,
}

/// Why a name does not identify one instance.
#[cfg(feature = "rest")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Unresolved {
    Unknown,
    Several,
}

/// The records of a service.
#[derive(Debug)]
pub(in crate::registry) struct Lookup<T = Record> {
    pub(in crate::registry) position: Position,
    pub(in crate::registry) exists: bool,
    pub(in crate::registry) records: Vec<T>,
}

impl NewRecord {
    /// How many bytes it counts with: its texts, and 512 for the rest.
    pub(super) fn size(&self) -> usize {
        /// What a text costs beside its bytes, roughly.
        const TEXT: usize = 32;
        let Instance { tags, metadata, .. } = &self.instance;
        let tags = tags.iter().map(|tag| tag.len() + TEXT);
        let pairs = metadata.iter();
        let pairs = pairs.map(|(name, value)| name.len() + value.len() + 2 * TEXT);
        let path = self.check.as_ref().and_then(|check| check.path.as_ref());
        let texts = [
            self.instance.id().len(),
            self.instance.service.len(),
            self.instance.zone.as_deref().map_or(0, str::len),
            path.map_or(0, String::len),
            self.session.as_deref().map_or(0, str::len),
        ];
        512 + texts.iter().sum::<usize>() + tags.sum::<usize>() + pairs.sum::<usize>()
    }
}

impl Record {
    /// Whether a registration has the same data as this record, so that it only counts as a heartbeat.
    pub(super) fn is_renewed_by(&self, new: &NewRecord) -> bool {
        let known = Instance {
            // Compared with the registered status, because a check may have changed the current one.
            status: self.announced,
            generation: new.instance.generation,
            ..Instance::clone(&self.instance)
        };
        known == new.instance && self.beat == new.beat && self.check == new.check
    }
}
