//! Subsets by metadata: the part of the endpoints that a request asks for.
//!
//! *Selectors*, which are lists of metadata names, define the subsets: with the selector
//! `["stage", "model"]`, each pair of values that occurs makes one subset. A request names its subset by
//! a hash of names and values, which needs no allocation. The subset is looked up in a sorted list, so a
//! request costs about the same with two subsets and with a thousand. The idea and the three rules for a
//! missing subset are those of Envoy's [subset load balancer].
//!
//! [subset load balancer]: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/subsets

use super::hash;
use crate::{error::ConfigError, instance::Instance};

/// Identifies a subset: the endpoints whose metadata contains each of these pairs of name and value.
///
/// The order of the pairs does not matter. The value is the same in every process.
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::Subset;
///
/// const BETA: Subset = Subset::new("stage", "beta");
/// assert_eq!(
///     BETA.and("model", "large"),
///     Subset::new("model", "large").and("stage", "beta"),
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subset(u64);

impl Subset {
    /// Creates the subset of endpoints whose metadata `name` is `value`.
    pub const fn new(name: &str, value: &str) -> Self {
        Self::from_bytes(name, value.as_bytes())
    }

    /// Creates a subset from a value that need not be text, such as the value of a header.
    pub const fn from_bytes(name: &str, value: &[u8]) -> Self {
        Self(hash::pair(name.as_bytes(), value))
    }

    /// Returns the part of this subset whose metadata `name` is `value`.
    #[must_use]
    pub const fn and(self, name: &str, value: &str) -> Self {
        self.with(Self::new(name, value))
    }

    /// Returns the endpoints that are also in the subset `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        // A sum of mixed hashes does not depend on the order.
        Self(self.0.wrapping_add(other.0))
    }
}

/// Where a request goes when its subset is unknown or has no available endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Otherwise {
    /// To any endpoint, as without a wish for a subset. This is the default.
    #[default]
    Any,
    /// To this subset. When this subset is also missing, the request fails.
    Subset(Subset),
    /// To no endpoint: the request fails.
    Fail,
}

/// Defines the subsets that requests may ask for.
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::{Otherwise, Subset, Subsets, Topology};
///
/// let subsets = Subsets::by(["stage"]) // requests may ask for a stage,
///     .and_by(["stage", "model"]) // or for a stage and a model
///     .otherwise(Otherwise::Subset(Subset::new("stage", "prod")));
/// let topology = Topology::new().subsets(subsets);
/// # topology.shares(&[], &Default::default())?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsets {
    selectors: Vec<Vec<String>>,
    pub(super) otherwise: Otherwise,
}

impl Subsets {
    /// Defines one subset for each combination of values that these metadata names have. An endpoint
    /// that lacks one of the names, or has an empty value for it, is in none of these subsets.
    pub fn by<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            selectors: vec![names.into_iter().map(Into::into).collect()],
            otherwise: Otherwise::default(),
        }
    }

    /// Adds the subsets of other names.
    #[must_use]
    pub fn and_by<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.selectors
            .push(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets where a request goes when its subset is missing; [`Otherwise::Any`] by default.
    #[must_use]
    pub fn otherwise(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for selector in &self.selectors {
            let mut names: Vec<_> = selector.iter().collect();
            names.sort_unstable();
            names.dedup();
            if names.is_empty() || names.len() < selector.len() || names[0].is_empty() {
                return Err(ConfigError::new(
                    "subsets.by",
                    format!("{selector:?} must be one or more different names, none of them empty"),
                ));
            }
        }
        Ok(())
    }

    /// The subsets that an instance is in.
    pub(super) fn of<'a>(&'a self, instance: &'a Instance) -> impl Iterator<Item = Subset> + 'a {
        self.selectors.iter().filter_map(|selector| {
            let pairs = selector.iter().map(|name| {
                let value = instance.metadata.get(name)?;
                (!value.is_empty()).then(|| Subset::new(name, value))
            });
            // `None` when one of the values is missing, and for a selector without names.
            pairs.reduce(|a, b| Some(a?.with(b?))).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance::new("web", "1", "127.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn an_instance_belongs_to_the_subsets_whose_names_it_has() {
        let subsets = Subsets::by(["stage"]).and_by(["stage", "model"]);
        let of = |instance: Instance| subsets.of(&instance).collect::<Vec<_>>();
        assert!(of(instance()).is_empty());
        assert!(of(instance().meta("model", "large")).is_empty());
        assert!(of(instance().meta("stage", "")).is_empty());
        let beta = Subset::new("stage", "beta");
        assert_eq!(of(instance().meta("stage", "beta")), [beta]);
        assert_eq!(
            of(instance().meta("stage", "beta").meta("model", "large")),
            [beta, beta.and("model", "large")]
        );
    }

    #[test]
    fn selectors_without_usable_names_are_refused() {
        let none: [&str; 0] = [];
        for subsets in [
            Subsets::by(none),
            Subsets::by([""]),
            Subsets::by(["a", "a"]),
        ] {
            let error = subsets.check().unwrap_err();
            assert_eq!(error.field(), "subsets.by");
        }
        assert!(Subsets::by(["a", "b"]).check().is_ok());
    }

    #[test]
    fn a_hundred_thousand_subsets_have_different_names() {
        let names = (0..100_000).map(|i| {
            Subset::new("stage", &(i / 100).to_string()).and("model", &(i % 100).to_string())
        });
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 100_000);
    }
}
