//! The settings of a traffic split.

use std::{borrow::Cow, fmt, sync::Arc};

#[cfg(doc)]
use super::Split;
use super::{guard::Guard, shares::Shares};
use crate::{error::ConfigError, instance::Instance, task::caught};

/// Splits traffic between versions: the settings, of which each balancer makes a [`Split`] of its own.
///
/// A canary starts with 1 % of the traffic, then gets 10, 50 and 100 %. The share must not depend on the
/// number of the canary's instances, on load or on weights, and must hold even for one request per
/// minute. So each request first draws its version, at random or by the hash of its key, and then an
/// endpoint of that version.
///
/// A *sticky* split draws by weighted rendezvous hashing: each version has the score
/// `−ln(hash(key, version)) / share`, and the lowest score wins. This gives the exact shares. When one
/// share changes, keys move only to or from that version: a user that has the canary at 10 % also has it
/// at 50 %.
///
/// When a version has no available endpoint, the other versions with a share get its share in
/// proportion, and a [`Notice`](super::Notice) reports it. When no version with a share has an available
/// endpoint, the versions without a share serve, unless [`Topology::panic`](super::Topology::panic) is
/// off.
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::{Guard, Shares, SplitSettings, Topology};
///
/// let split = SplitSettings::new(Shares::canary("v2", 0.01))
///     .sticky(true) // a user stays with a version
///     .guard(Guard::new("v2"));
/// let topology = Topology::new().split(split);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SplitSettings {
    pub(super) shares: Shares,
    pub(super) by: VersionBy,
    pub(super) sticky: bool,
    pub(super) guard: Option<Guard>,
}

impl SplitSettings {
    /// Creates a split by the metadata `version`, at random and without a guard.
    pub fn new(shares: Shares) -> Self {
        Self {
            shares,
            by: VersionBy::Metadata("version".into()),
            sticky: false,
            guard: None,
        }
    }

    /// Sets the metadata that holds the version of an endpoint; `version` by default. An empty value
    /// counts as absent.
    #[must_use]
    pub fn by_metadata(mut self, name: impl Into<Arc<str>>) -> Self {
        self.by = VersionBy::Metadata(name.into());
        self
    }

    /// Takes the version of an endpoint from a closure instead, for example from a tag. When the closure
    /// panics, the endpoint has no version.
    #[must_use]
    pub fn by_fn(
        mut self,
        version: impl Fn(&Instance) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.by = VersionBy::Fn(Arc::new(version));
        self
    }

    /// Sets whether requests with equal [keys](super::Wish::key) get the same version; off by default.
    /// Requests without a key draw at random. When a few keys have many requests, the shares of
    /// *requests* differ from the shares of keys.
    #[must_use]
    pub fn sticky(mut self, sticky: bool) -> Self {
        self.sticky = sticky;
        self
    }

    /// Sets a guard that takes a version's share back; none by default.
    #[must_use]
    pub fn guard(mut self, guard: impl Into<Option<Guard>>) -> Self {
        self.guard = guard.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.shares.check()?;
        self.guard.as_ref().map_or(Ok(()), Guard::check)
    }
}

/// Returns the version of an instance.
type VersionOf = dyn Fn(&Instance) -> Option<String> + Send + Sync;

#[derive(Clone)]
pub(super) enum VersionBy {
    Metadata(Arc<str>),
    Fn(Arc<VersionOf>),
}

impl VersionBy {
    /// The version of an instance.
    pub(super) fn version<'a>(&self, instance: &'a Instance) -> Option<Cow<'a, str>> {
        let version = match self {
            VersionBy::Metadata(name) => instance
                .metadata
                .get(&**name)
                .map(|name| Cow::Borrowed(name.as_str())),
            VersionBy::Fn(version) => {
                let found = caught(|| version(instance));
                if found.is_none() {
                    tracing::warn!(endpoint = %instance.key, "the closure for versions panicked");
                }
                found.flatten().map(Cow::Owned)
            }
        };
        version.filter(|name| !name.is_empty())
    }
}

impl PartialEq for VersionBy {
    /// Two closures are equal if they are the same one.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Metadata(one), Self::Metadata(other)) => one == other,
            (Self::Fn(one), Self::Fn(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl fmt::Debug for VersionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata(name) => f.debug_tuple("Metadata").field(name).finish(),
            Self::Fn(_) => f.write_str("Fn"),
        }
    }
}
