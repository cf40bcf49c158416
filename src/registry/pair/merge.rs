//! The union of two registries.

use super::{both::both, rule::Rule};
use crate::{error::ConfigError, registry::Registry};

/// The union of two registries, for the time of a migration from one to the other.
///
/// It makes a [`Registry`] with the instances of both. The guide
/// [`docs::migration`](crate::docs::migration) tells how to move a fleet with it.
///
/// - **Identity is the address.** An instance that both list counts once, whatever its ids are, and one
///   that moves from the first to the second keeps its connection. So the [`Key`](crate::instance::Key)s are
///   addresses; [`View::parts`](super::super::View::parts) has the ids. A host name and the IP address behind
///   it are two addresses: register the same text in both.
/// - **The first registry's record wins**, with its weight, zone, tags and metadata, also while that
///   registry cannot be reached. Two exceptions: an instance in maintenance in either registry gets no
///   traffic, and a record that is unhealthy yields to one that may serve, because a process that sends its
///   heartbeats to the second registry only is unhealthy in the first.
/// - **Each keeps its last good set.** A registry that cannot be reached makes the view
///   [stale](super::super::ViewState::Stale), with its error, and its instances serve on. The view is empty or
///   missing only if both say so.
/// - The first set waits for both, for at most 1 s. One that fails or takes longer is added when it answers.
/// - A service name or an instance that either cannot hold is refused, with the reason.
/// - [`register`](Registry::register) registers in both. The first and the second are still usable by
///   themselves, for example to register in one of them only.
///
/// # Examples
/// ```
/// use tower_roster::registry::{self, Merge, fixed::Fixed};
///
/// let old = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
/// let new = registry::connect("fixed:10.0.0.2:80,10.0.0.3:80")?;
/// let both = Merge::new(old, new).build()?;
///
/// // The same by URL:
/// let both = registry::connect("merge:fixed:10.0.0.1:80|fixed:10.0.0.2:80")?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing before it is built"]
pub struct Merge {
    first: Registry,
    second: Registry,
}

impl Merge {
    /// Takes the two registries. The records of the first win.
    pub fn new(first: Registry, second: Registry) -> Self {
        Self { first, second }
    }

    /// Makes the registry. It sends nothing yet.
    ///
    /// # Errors
    /// When both are the same registry.
    pub fn build(self) -> Result<Registry, ConfigError> {
        both("merge", [self.first, self.second], Rule::Merge)
    }
}
