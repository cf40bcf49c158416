//! How a registry treats its backend.

use std::time::Duration;

#[cfg(doc)]
use super::{Registry, Watch};
use crate::{backoff::Backoff, catalog::EmptyGuard, error::ConfigError};

/// How changes are learned of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchMode {
    /// Keep a request open that the registry answers when something changes.
    #[default]
    Watch,
    /// Ask again and again, with this time between (± 10 % jitter), for places where a long request
    /// cannot be held.
    Poll(Duration),
}

impl WatchMode {
    /// Polling every 5 s.
    pub const POLL: Self = Self::Poll(Duration::from_secs(5));
}

/// How a [`Registry`] treats its backend. Every default has its reason in its setter.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    pub(super) mode: WatchMode,
    pub(super) stale_after: Duration,
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
            stale_after: Duration::from_secs(30),
            backoff: Backoff::known(50, 750),
            empty_guard: EmptyGuard::default(),
            removal_grace: Duration::ZERO,
            linger: Duration::ZERO,
            seed: None,
        }
    }
}

impl WatchSettings {
    /// How changes are learned of; [`WatchMode::Watch`] by default.
    #[must_use]
    pub fn mode(mut self, mode: WatchMode) -> Self {
        self.mode = mode;
        self
    }

    /// The age from which a copy that the registry did not confirm is reported stale; 30 s by
    /// default. It only changes what is reported: a stale set serves on. Must be longer than a
    /// backend takes to confirm an idle watch (Consul: 21.25 s by default).
    #[must_use]
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = age;
        self
    }

    /// The delay before a registry that failed is asked again; from 50 ms to 750 ms by default,
    /// with full jitter. The cap is this low because it bounds how long a healed registry goes
    /// unnoticed, and asking a local agent twice a second costs nothing; for many clients on remote
    /// servers raise it.
    /// What only people can mend (a refused request) is retried ten times as slowly.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What happens with a reply that would empty the set; see [`EmptyGuard`].
    #[must_use]
    pub fn empty_guard(mut self, guard: EmptyGuard) -> Self {
        self.empty_guard = guard;
        self
    }

    /// How long an instance stays after it is no longer listed; zero by default. With a grace, one
    /// that re-registers at once is not disturbed, and one that is gone gets requests for longer.
    #[must_use]
    pub fn removal_grace(mut self, grace: Duration) -> Self {
        self.removal_grace = grace;
        self
    }

    /// How long a watch goes on after its last [`Watch`] was dropped, while the [`Registry`] lives;
    /// zero by default. Consul holds a cancelled query's connection until its wait ends, so clients that
    /// often drop and repeat the same watch should let it linger.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Makes every jitter repeat itself, for tests; random by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let WatchMode::Poll(every) = self.mode {
            if every < Duration::from_millis(10) {
                return Err(ConfigError::new(
                    "mode",
                    format!("a poll every {every:?} is below 10 ms"),
                ));
            }
            if every > self.stale_after {
                return Err(ConfigError::new(
                    "mode",
                    format!(
                        "a poll every {every:?} lets each copy go stale, which is after {:?}",
                        self.stale_after
                    ),
                ));
            }
        }
        if self.stale_after.is_zero() {
            return Err(ConfigError::new("stale_after", "must be above zero"));
        }
        Ok(())
    }
}
