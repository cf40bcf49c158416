//! A second registry in reserve.

use std::time::Duration;

use super::{
    both::both,
    rule::{Rule, Times},
};
use crate::{
    error::{ConfigError, check_range},
    registry::Registry,
};

/// The longest time of a setting: a day. Arbitrary: a longer one would be a mistake in the unit.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A second registry that is used while the first has nothing or is gone.
///
/// ```text
///         the first lists nothing, or confirms nothing, for `after`; the second has instances
///        ┌─────────────────────────────────────────────────────────────────────────────────┐
///        │                                                                                 ▼
///  first in use ◀── the first confirms instances for `back_after`, or the second fails ── second in use
/// ```
///
/// It makes a [`Registry`] with the instances of one of the two. Both are watched all the time, so nothing
/// has to be read when they change places. [`ViewPart::is_used`](super::super::ViewPart::is_used) says which
/// one is in use.
///
/// - **A registry that is gone is not a service that is gone**: for the time of [`after`](Self::after) the
///   last good set of the first serves. It serves on for as long as the second has nothing better.
/// - Without instances in either, the state is that of the registry that most likely hides some.
/// - Identity is the address, as for [`Merge`](super::Merge): an instance that both list keeps its
///   connection when the two change places.
/// - A service name or an instance that either cannot hold is refused, with the reason.
/// - [`register`](Registry::register) registers in both. Where the second takes no registrations, as a
///   `fixed:` list, register in the first.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::registry::{self, Failover};
///
/// let here = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
/// let there = registry::connect("fixed:10.1.0.1:80")?;
/// let registry = Failover::new(here, there)
///     .after(Duration::from_secs(5))
///     .back_after(Duration::from_secs(60))
///     .build()?;
///
/// // The same by URL:
/// let registry = registry::connect(
///     "failover:fixed:10.0.0.1:80,10.0.0.2:80|fixed:10.1.0.1:80|after=5s&back_after=1m",
/// )?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing before it is built"]
pub struct Failover {
    first: Registry,
    second: Registry,
    times: Times,
}

impl Failover {
    /// Takes the two registries. The second is used while the first has nothing or is gone.
    pub fn new(first: Registry, second: Registry) -> Self {
        Self {
            first,
            second,
            times: Times::default(),
        }
    }

    /// Sets how long the first must list nothing, or confirm nothing, before the second is used; from zero
    /// to a day, 10 s by default: restarts and elections of a registry take less, and the last good set serves
    /// meanwhile. Zero uses the second at once, also for the moment until the first has answered.
    pub fn after(mut self, time: Duration) -> Self {
        self.times.after = time;
        self
    }

    /// Sets how long the first must confirm instances without a break before it is used again; from zero to
    /// a day, 30 s by default: three times [`after`](Self::after), so that a registry that comes and goes does
    /// not move all traffic each time. If the second fails or lists nothing, the first is used at once.
    pub fn back_after(mut self, time: Duration) -> Self {
        self.times.back_after = time;
        self
    }

    /// Makes the registry. It sends nothing yet.
    ///
    /// # Errors
    /// When a setting is out of its range, or both are the same registry.
    pub fn build(self) -> Result<Registry, ConfigError> {
        let Times { after, back_after } = self.times;
        check_range("failover.after", after, ..=LONGEST)?;
        check_range("failover.back_after", back_after, ..=LONGEST)?;
        let halves = [self.first, self.second];
        both("failover", halves, Rule::Failover(self.times))
    }
}
