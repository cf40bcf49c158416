//! The builder of an embedded registry.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

#[cfg(doc)]
use super::Memory;
use super::{
    persist,
    record::Defaults,
    shared::{self, MemoryShared},
    store::Store,
};
use crate::error::{ConfigError, RegistryError, check_range};

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryBuilder {
    defaults: Defaults,
    persist: Option<PathBuf>,
}

impl MemoryBuilder {
    /// Sets how many heartbeats in a row may be missed, or checks fail; 3 by default. With 1, a single
    /// lost packet removes an instance. With a large number, dead instances stay for long.
    #[must_use]
    pub fn max_failures(mut self, failures: NonZeroU32) -> Self {
        self.defaults.max_failures = failures;
        self
    }

    /// Sets the interval between checks of an instance whose registration sets none; 10 s by default, at
    /// least 1 ms. Only registrations over REST can omit it; an
    /// [`Announcement`](crate::registry::Announcement) always sets it.
    #[must_use]
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.defaults.check_interval = interval;
        self
    }

    /// Sets the timeout of a check of an instance whose registration sets none; 2 s by default, at least
    /// 1 ms.
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.check_timeout = timeout;
        self
    }

    /// Restores the state from this file, if it exists, and saves changes to it, so that a restart loses
    /// no registration; no file by default.
    ///
    /// The state is saved in the background; changes during a save are saved together by the next one.
    /// Registering and deregistering wait for the save. A failed save is logged, and the registry
    /// continues. Two registries must not share a file.
    #[must_use]
    pub fn persist(mut self, path: impl Into<PathBuf>) -> Self {
        self.persist = Some(path.into());
        self
    }

    /// Creates the state that [`Memory`] handles share.
    pub(super) fn open(self) -> Result<Arc<MemoryShared>, RegistryError> {
        self.validate()?;
        let store = match &self.persist {
            None => Store::new(),
            Some(path) => persist::read(path, true, self.defaults, shared::now())?,
        };
        let name = "memory".into();
        Ok(MemoryShared::new(name, self.defaults, store, self.persist))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let Defaults {
            check_interval,
            check_timeout,
            ..
        } = self.defaults;
        for (field, time) in [
            ("memory.check_interval", check_interval),
            ("memory.check_timeout", check_timeout),
        ] {
            check_range(field, time, Duration::from_millis(1)..)?;
        }
        Ok(())
    }
}
