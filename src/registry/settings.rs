//! Settings of the watches and registrations of a registry.

use std::time::Duration;

use super::contract::STALE_AFTER;
#[cfg(doc)]
use super::{Registry, Source, Watch};
use crate::{
    backoff::Backoff,
    catalog::EmptyGuard,
    error::{ConfigError, check_range},
};

/// How a watch learns of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchMode {
    /// Keeps a request open; the registry responds when something changes.
    #[default]
    Watch,
    /// Sends a request at this interval (± 10 % jitter), for networks in which a request cannot stay
    /// open for long.
    Poll(Duration),
}

impl WatchMode {
    /// Polling every 5 s.
    pub const POLL: Self = Self::Poll(Duration::from_secs(5));
}

/// Settings of the watches and registrations of a [`Registry`]. Each setter states its default and the
/// reason for it.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchSettings {
    pub(super) mode: WatchMode,
    pub(super) stale_after: Option<Duration>,
    pub(super) backoff: Backoff,
    pub(super) empty_guard: EmptyGuard,
    pub(super) removal_grace: Duration,
    pub(super) linger: Duration,
    pub(super) seed: Option<u64>,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            mode: WatchMode::Watch,
            stale_after: None,
            backoff: Backoff::known(50, 750),
            empty_guard: EmptyGuard::default(),
            removal_grace: Duration::ZERO,
            linger: Duration::ZERO,
            seed: None,
        }
    }
}

impl WatchSettings {
    /// Sets how a watch learns of changes; [`WatchMode::Watch`] by default.
    #[must_use]
    pub fn mode(mut self, mode: WatchMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the age from which a set without confirmation is reported as stale. By default each backend
    /// says how long it takes to confirm an idle watch, and it is at least 30 s (see
    /// [`Source::stale_after`]). It changes only the report: a stale set stays in use.
    #[must_use]
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = Some(age);
        self
    }

    /// Sets the delay before another request to a registry that failed. By default it grows from 50 ms
    /// to 750 ms, with full jitter. The cap is low because it is the longest time that a recovered
    /// registry goes unnoticed, and two requests a second to a local agent cost almost nothing. Raise it
    /// for many clients of remote servers.
    ///
    /// After a refused request, which only a person can fix, the delays are ten times as long.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets what happens with a reply that would empty the set; [`EmptyGuard::HoldDoubtful`] with 120 s
    /// by default.
    #[must_use]
    pub fn empty_guard(mut self, guard: EmptyGuard) -> Self {
        self.empty_guard = guard;
        self
    }

    /// Sets how long an instance stays in the set after it is no longer listed; zero by default. With a
    /// grace, an instance that registers again soon is not interrupted. In exchange, an instance that is
    /// gone gets requests for longer.
    #[must_use]
    pub fn removal_grace(mut self, grace: Duration) -> Self {
        self.removal_grace = grace;
        self
    }

    /// Sets how long a watch continues after its last [`Watch`] was dropped, while the [`Registry`]
    /// lives; zero by default. Consul holds the connection of a cancelled query until its wait ends, so
    /// clients that often drop and repeat a watch should set it.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets the seed of every jitter, so that tests repeat; random by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let stale_after = self.stale_after.unwrap_or(STALE_AFTER);
        check_range("watch.stale_after", stale_after, Duration::from_nanos(1)..)?;
        if let WatchMode::Poll(every) = self.mode {
            check_range("watch.mode", every, Duration::from_millis(10)..)?;
            // Each copy would go stale before the next poll.
            check_range("watch.mode", every, ..=stale_after)?;
        }
        Ok(())
    }
}
