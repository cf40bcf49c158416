//! Settings of an embedded registry.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Memory, Shared,
    persist::{self, Saver},
    shared,
    store::Store,
};
use crate::error::{ConfigError, Error};

/// What holds for registrations that do not say.
#[derive(Clone, Copy, Debug)]
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

/// Configures a [`Memory`].
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{num::NonZeroU32, time::Duration};
/// use tower_roster::registry::memory::Memory;
///
/// let memory = Memory::builder()
///     .max_failures(NonZeroU32::MIN)
///     .check_interval(Duration::from_secs(1))
///     .build()?;
/// # drop(memory);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    defaults: Defaults,
    persist: Option<PathBuf>,
}

impl Builder {
    /// Sets how many heartbeats may be missing, or checks fail, in a row; 3 by default. With 1 a single
    /// lost packet takes an instance out; a large number keeps dead ones.
    #[must_use]
    pub fn max_failures(mut self, failures: NonZeroU32) -> Self {
        self.defaults.max_failures = failures;
        self
    }

    /// Sets the time between checks of an instance that does not say (over REST; an
    /// [`Announcement`](crate::registry::Announcement) always does); 10 s by default, at least 1 ms.
    #[must_use]
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.defaults.check_interval = interval;
        self
    }

    /// Sets how long a check of an instance that does not say may take; 2 s by default, at least 1 ms.
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.check_timeout = timeout;
        self
    }

    /// Restores the state from this file, when it is there, and saves it there after changes, so that a
    /// restart loses no registration; no file by default.
    ///
    /// Saving happens in the background, and what changes meanwhile is saved together; registering and
    /// deregistering wait for it. A save that fails is logged and the registry goes on. Two registries
    /// must not share a file.
    #[must_use]
    pub fn persist(mut self, path: impl Into<PathBuf>) -> Self {
        self.persist = Some(path.into());
        self
    }

    /// Creates the registry.
    ///
    /// # Errors
    /// When a setting is out of its range, or the file of [`persist`](Self::persist) is there and
    /// cannot be read as a saved state; it is left as it is.
    pub fn build(self) -> Result<Memory, Error> {
        self.validate()?;
        let (store, saver) = match self.persist {
            None => (Store::new(), None),
            Some(path) => {
                let store = persist::read(&path, true, self.defaults, shared::now())?;
                let saver = Saver::new(path, store.position());
                (store, Some(saver))
            }
        };
        let shared = Shared::new("memory".into(), self.defaults, store, saver);
        Ok(Memory::over(shared))
    }

    pub(super) fn load(self, path: &Path) -> Result<Memory, Error> {
        let store = persist::read(path, false, self.defaults, shared::now())?;
        let shared = Shared::new("memory".into(), self.defaults, store, None);
        Ok(Memory::over(shared))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let Defaults {
            check_interval,
            check_timeout,
            ..
        } = self.defaults;
        for (field, time) in [
            ("check_interval", check_interval),
            ("check_timeout", check_timeout),
        ] {
            if time < Duration::from_millis(1) {
                return Err(ConfigError::new(field, format!("{time:?} is below 1 ms")));
            }
        }
        Ok(())
    }
}
