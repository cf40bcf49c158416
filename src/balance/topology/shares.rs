//! The shares of the versions of a traffic split.

use std::{collections::BTreeMap, sync::Arc};

#[cfg(doc)]
use super::Split;
use crate::error::ConfigError;

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

    /// Takes the share of a version.
    pub(super) fn take(&mut self, version: &str) {
        self.versions.insert(version.into(), 0.0);
    }

    fn sum(&self) -> f64 {
        self.versions.values().sum::<f64>() + self.rest
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
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
