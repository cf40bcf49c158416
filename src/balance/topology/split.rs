//! Traffic split: each version gets an exact share, which can change while requests flow.
//!
//! ```text
//! Split::set ──▶ state ──▶ the driver makes a new plan ──▶ requests draw with the new shares
//!                  ▲
//! Split::check ────┘ the guard takes a share back
//! ```
//!
//! The documentation of [`Split`] explains how a version is drawn.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch as cell, time::Instant};

use super::{
    guard::{Guard, GuardWindow, Trip},
    hash,
};
use crate::{
    balance::pick::version_tally::VersionTally, error::ConfigError, instance::Instance, sync::lock,
    task::caught,
};

/// Identifies a version by a hash of its name, which is the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// Returns the version of this name.
    pub const fn new(name: &str) -> Self {
        Self(hash::bytes(name.as_bytes()))
    }

    #[cfg(feature = "_hyper")]
    pub(super) fn from_bytes(name: &[u8]) -> Self {
        Self(hash::bytes(name))
    }

    /// All versions that the shares do not name. No version has an empty name.
    pub(super) const REST: Self = Self::new("");

    pub(super) const fn id(self) -> u64 {
        self.0
    }
}

/// The shares of versions, relative to each other: `9` and `1` mean the same as `0.9` and `0.1`.
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::Shares;
///
/// let by_name = Shares::new().version("v1", 90.0).version("v2", 10.0);
/// let rest = Shares::canary("v2", 0.1); // all other versions together get 90 %
/// assert_eq!(rest.share("v2"), 0.1);
/// assert_eq!(by_name.share("v2"), 0.1);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    versions: BTreeMap<Arc<str>, f64>,
    rest: f64,
}

impl Shares {
    /// Creates an empty set of shares. A [`Split`] refuses it until a share is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates shares in which one version gets `share`, from 0 to 1, and all other versions together
    /// get the remainder.
    pub fn canary(version: impl Into<Arc<str>>, share: f64) -> Self {
        Self::new().version(version, share).rest(1.0 - share)
    }

    /// Sets the share of a version, at least 0. A version with share 0 gets only the requests that
    /// [wish](super::Wish::version) for it.
    #[must_use]
    pub fn version(mut self, version: impl Into<Arc<str>>, share: f64) -> Self {
        self.versions.insert(version.into(), share);
        self
    }

    /// Sets the share that all other versions, and endpoints without a version, get together; 0 by
    /// default.
    #[must_use]
    pub fn rest(mut self, share: f64) -> Self {
        self.rest = share;
        self
    }

    /// Returns the share of a version, from 0 to 1; 0 for a version that is not named.
    pub fn share(&self, version: &str) -> f64 {
        let share = self.versions.get(version).copied().unwrap_or(0.0);
        if share > 0.0 { share / self.sum() } else { 0.0 }
    }

    /// Returns the share of all versions that are not named, from 0 to 1.
    pub fn share_of_rest(&self) -> f64 {
        if self.rest > 0.0 {
            self.rest / self.sum()
        } else {
            0.0
        }
    }

    /// Returns the named versions with their shares, from 0 to 1.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        let sum = self.sum();
        let versions = self.versions.iter();
        versions.map(move |(name, share)| (&**name, if sum > 0.0 { share / sum } else { 0.0 }))
    }

    fn sum(&self) -> f64 {
        self.versions.values().sum::<f64>() + self.rest
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = |name: &str, share: f64| {
            if share >= 0.0 && share.is_finite() {
                return Ok(());
            }
            Err(ConfigError::new(
                "split.shares",
                format!("{share} of {name} must be a finite number from 0"),
            ))
        };
        for (name, share) in &self.versions {
            if name.is_empty() {
                return Err(ConfigError::new(
                    "split.shares",
                    "a version's name is empty",
                ));
            }
            check(&format!("version {name:?}"), *share)?;
        }
        check("the rest", self.rest)?;
        let sum = self.sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(ConfigError::new(
                "split.shares",
                format!("their sum, {sum}, must be finite and above 0"),
            ));
        }
        Ok(())
    }
}

/// Splits traffic between versions. It is a handle: clones share the state, and balancers follow each
/// change.
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
/// use tower_roster::balance::topology::{Guard, Shares, Split, Topology};
///
/// let split = Split::new(Shares::canary("v2", 0.01))?
///     .sticky(true) // a user stays with a version
///     .guard(Guard::new("v2"))?;
/// let topology = Topology::new().split(split.clone());
///
/// // Later, while requests flow:
/// split.set(Shares::canary("v2", 0.1))?;
/// assert!(split.trip().is_none(), "the guard has not tripped");
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Split {
    by: VersionBy,
    sticky: bool,
    state: Arc<cell::Sender<SplitState>>,
    guarded: Option<Arc<Guarded>>,
}

/// Returns the version of an instance.
type VersionOf = dyn Fn(&Instance) -> Option<String> + Send + Sync;

#[derive(Clone)]
enum VersionBy {
    Metadata(Arc<str>),
    Fn(Arc<VersionOf>),
}

#[derive(Clone, Debug)]
pub(super) struct SplitState {
    shares: Shares,
    /// Increases with each change, so that counts from before a change do not count after it.
    epoch: u64,
    trip: Option<Trip>,
}

/// The guard and the counts that it compares.
struct Guarded {
    guard: Guard,
    canary: Arc<VersionTally>,
    baseline: Arc<VersionTally>,
    /// Only drivers lock it, a few times per window; requests do not.
    window: Mutex<GuardWindow>,
}

impl Split {
    /// Creates a split by the metadata `version`, at random and without a guard.
    ///
    /// # Errors
    /// Returns an error when a share is negative or not finite, a name is empty, or all shares are 0.
    pub fn new(shares: Shares) -> Result<Self, ConfigError> {
        shares.check()?;
        Ok(Self {
            by: VersionBy::Metadata("version".into()),
            sticky: false,
            state: Arc::new(cell::Sender::new(SplitState {
                shares,
                epoch: 0,
                trip: None,
            })),
            guarded: None,
        })
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

    /// Adds a guard that takes a version's share back; none by default. Clones that were made before
    /// have no guard.
    ///
    /// # Errors
    /// Returns an error when a setting of the guard is out of range.
    pub fn guard(mut self, guard: Guard) -> Result<Self, ConfigError> {
        guard.check()?;
        self.guarded = Some(Arc::new(Guarded {
            guard,
            canary: Arc::default(),
            baseline: Arc::default(),
            window: Mutex::default(),
        }));
        Ok(self)
    }

    /// Sets the shares, and discards the counts and the trip of the guard.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new). Then nothing changes.
    pub fn set(&self, shares: Shares) -> Result<(), ConfigError> {
        shares.check()?;
        self.state.send_modify(|state| {
            *state = SplitState {
                shares,
                epoch: state.epoch + 1,
                trip: None,
            };
        });
        Ok(())
    }

    /// Returns the current shares. A version whose share the guard took back has share 0.
    pub fn shares(&self) -> Shares {
        self.state.borrow().shares.clone()
    }

    /// Returns why the guard took a share back, or `None` when it has not done so since the shares were
    /// set.
    pub fn trip(&self) -> Option<Trip> {
        self.state.borrow().trip.clone()
    }

    pub(super) fn is_sticky(&self) -> bool {
        self.sticky
    }

    pub(super) fn subscribe(&self) -> cell::Receiver<SplitState> {
        self.state.subscribe()
    }

    /// The version of an instance.
    pub(super) fn version<'a>(&self, instance: &'a Instance) -> Option<Cow<'a, str>> {
        let version = match &self.by {
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

    /// The counts of request outcomes: those of the canary, and those of all other versions. `None`
    /// without a guard.
    pub(crate) fn tallies(&self) -> Option<[Arc<VersionTally>; 2]> {
        let guarded = self.guarded.as_deref()?;
        Some([&guarded.canary, &guarded.baseline].map(Arc::clone))
    }

    /// Whether an instance has the version that the guard watches.
    pub(crate) fn is_canary(&self, instance: Option<&Instance>) -> bool {
        let version = instance.and_then(|instance| self.version(instance));
        let guarded = self.guarded.as_deref().map(|it| it.guard.version());
        version.is_some() && version.as_deref() == guarded
    }

    /// The guard's trip and its epoch, if it is after this epoch.
    pub(crate) fn trip_after(&self, epoch: u64) -> Option<(u64, Trip)> {
        let state = self.state.borrow();
        let trip = state.trip.as_ref().filter(|_| state.epoch > epoch)?;
        Some((state.epoch, trip.clone()))
    }

    /// The time between the guard's comparisons. `None` without a guard.
    pub(crate) fn look_every(&self) -> Option<Duration> {
        Some(self.guarded.as_deref()?.guard.look_every())
    }

    /// Lets the guard compare the counts. The driver must call it at least once per
    /// [`look_every`](Self::look_every). When the guard finds that the canary is worse, the canary's
    /// share is 0 when this returns.
    pub(crate) fn check(&self, now: Instant) -> Option<Trip> {
        let guarded = self.guarded.as_deref()?;
        let version = guarded.guard.version();
        let (epoch, share) = {
            let state = self.state.borrow();
            (state.epoch, state.shares.share(version))
        };
        let trip = lock(&guarded.window).look(
            &guarded.guard,
            epoch,
            share,
            &guarded.canary,
            &guarded.baseline,
            now,
        )?;
        // The canary has no share to take, or no other version could get it.
        if share <= 0.0 || share >= 1.0 {
            return None;
        }
        let tripped = self.state.send_if_modified(|state| {
            // The user set new shares while the guard compared the old ones.
            if state.epoch != epoch {
                return false;
            }
            state.shares.versions.insert(version.into(), 0.0);
            state.epoch += 1;
            state.trip = Some(trip.clone());
            true
        });
        tripped.then_some(trip)
    }
}

impl_debug!(Split: |this|
    sticky = this.sticky,
    state = *this.state.borrow(),
    guard = this.guarded.as_deref().map(|guarded| &guarded.guard),
);

#[cfg(test)]
mod tests;
