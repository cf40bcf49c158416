//! The builder of an embedded registry.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

#[cfg(doc)]
use super::Memory;
use super::{
    limits::MemoryLimits,
    persist::StateFile,
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
    limits: MemoryLimits,
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

    /// Sets the interval between checks of an instance whose registration sets none; 10 s by default,
    /// within [`MemoryLimits::least_check_interval`]. Only registrations over REST can omit it; an
    /// [`Announcement`](crate::registry::Announcement) always sets it.
    #[must_use]
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.defaults.check_interval = interval;
        self
    }

    /// Sets the timeout of a check of an instance whose registration sets none; 2 s by default, at least
    /// 1 ms, and within [`MemoryLimits::longest_check_timeout`].
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.check_timeout = timeout;
        self
    }

    /// Sets what clients can make it hold and do.
    #[must_use]
    pub fn limits(mut self, limits: MemoryLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Restores the state from this file, if it exists, and saves changes to it, so that a restart loses
    /// no registration; no file by default.
    ///
    /// The state is saved in the background; changes during a save and in the
    /// [pause](MemoryLimits::save_pause) after it are saved together by the next one. Registering and
    /// deregistering wait for the save, for at most 2 s. A failed save is logged and tried again, and the
    /// registry continues; over REST, the response to a registration says whether it is in the file.
    /// [`flush`](Memory::flush) saves at once.
    ///
    /// A file that does not exist at the start is not replaced if it appears later, for example because its
    /// folder is mounted late: it may be a state that was not read. Then nothing is saved until the registry
    /// is started again, or the file is moved away.
    ///
    /// A save replaces the file by a new one in the same folder, so a link is replaced, too. It keeps the
    /// mode of the file; a first file can be read by its owner only. The file `FILE.lock` beside it, which
    /// stays, keeps a second registry from using the same file.
    #[must_use]
    pub fn persist(mut self, path: impl Into<PathBuf>) -> Self {
        self.persist = Some(path.into());
        self
    }

    /// Creates the state that [`Memory`] handles share.
    pub(super) fn open(self) -> Result<Arc<MemoryShared>, RegistryError> {
        self.validate()?;
        let (store, file) = match self.persist {
            None => (Store::new(), None),
            Some(path) => {
                let file = StateFile::new(path)?;
                let store = file.read(self.defaults, shared::now())?;
                (store, Some(file))
            }
        };
        let (name, defaults) = ("memory".into(), self.defaults);
        Ok(MemoryShared::new(name, defaults, self.limits, store, file))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate()?;
        let Defaults {
            check_interval,
            check_timeout,
            ..
        } = self.defaults;
        let intervals = self.limits.least_check_interval..;
        check_range("memory.check_interval", check_interval, intervals)?;
        let timeouts = Duration::from_millis(1)..=self.limits.longest_check_timeout;
        check_range("memory.check_timeout", check_timeout, timeouts)
    }
}
