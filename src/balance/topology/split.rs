//! Traffic split: each version gets an exact share, which can change while requests flow.
//!
//! ```text
//! Split::set ──▶ state ──▶ the driver makes a new plan ──▶ requests draw with the new shares
//!                  ▲
//! Split::check ────┘ the guard takes a share back
//! ```
//!
//! The documentation of [`SplitSettings`] explains how a version is drawn.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch as cell, time::Instant};

use super::{
    guard::{Guard, GuardWindow, Trip},
    hash,
    shares::Shares,
    split_settings::{SplitSettings, VersionBy},
};
use crate::{
    balance::pick::version_tally::VersionTally, error::ConfigError, instance::Instance, sync::lock,
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

/// The traffic split of a balancer. It is a handle: clones share the state, and balancers follow each
/// change. [`SplitSettings`] explains how requests are divided.
///
/// [`BalanceHandle::split`](crate::balance::BalanceHandle::split) returns the split of a balancer. A split
/// that [`SplitSettings::build`] makes, given to
/// [`Topology::shared_split`](super::Topology::shared_split), is one for several balancers: its shares hold
/// for all of them, and its guard judges the requests of all.
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::{Guard, Shares, SplitSettings, Topology};
///
/// let split = SplitSettings::new(Shares::canary("v2", 0.01))
///     .guard(Guard::new("v2"))
///     .build()?;
/// let topology = Topology::new().shared_split(split.clone());
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

// Here and not in the file of the settings, which must not depend on this one.
impl SplitSettings {
    /// Makes a split that several balancers share, by
    /// [`Topology::shared_split`](super::Topology::shared_split).
    ///
    /// # Errors
    /// Returns an error when a share is negative or not finite, a name is empty, all shares are 0, or a
    /// setting of the guard is out of range.
    pub fn build(&self) -> Result<Split, ConfigError> {
        self.check()?;
        Ok(Split::of(self))
    }
}

impl Split {
    /// Makes a split of settings that were checked.
    pub(super) fn of(settings: &SplitSettings) -> Self {
        let guarded = settings.guard.clone().map(|guard| {
            Arc::new(Guarded {
                guard,
                canary: Arc::default(),
                baseline: Arc::default(),
                window: Mutex::default(),
            })
        });
        Self {
            by: settings.by.clone(),
            sticky: settings.sticky,
            state: Arc::new(cell::Sender::new(SplitState {
                shares: settings.shares.clone(),
                epoch: 0,
                trip: None,
            })),
            guarded,
        }
    }

    /// Sets the shares, and discards the counts and the trip of the guard.
    ///
    /// # Errors
    /// Returns an error when a share is negative or not finite, a name is empty, or all shares are 0. Then
    /// nothing changes.
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
        self.by.version(instance)
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
            state.shares.take(version);
            state.epoch += 1;
            state.trip = Some(trip.clone());
            true
        });
        tripped.then_some(trip)
    }
}

impl_debug!(Split: |this|
    by = this.by,
    sticky = this.sticky,
    state = *this.state.borrow(),
    guard = this.guarded.as_deref().map(|guarded| &guarded.guard),
);

#[cfg(test)]
mod tests;
