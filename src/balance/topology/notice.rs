//! Conditions of a plan that an operator should know.

use std::{fmt, sync::Arc};

/// A condition of the current plan that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// A version has a share but no available endpoint. The other versions get its share.
    NoVersion {
        /// The version; `None` for all versions that the shares do not name.
        version: Option<Arc<str>>,
    },
    /// The default subset has no endpoint, so requests whose own subset is missing fail.
    NoSubset,
    /// The caller's own zone has no available endpoint.
    NoLocal {
        /// The caller's zone.
        zone: Arc<str>,
    },
    /// Every endpoint is ejected, and all are used anyway; see
    /// [`Topology::panic`](super::Topology::panic).
    Panic,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVersion {
                version: Some(version),
            } => {
                write!(
                    f,
                    "version {version:?} has a share and no available endpoint"
                )
            }
            Self::NoVersion { version: None } => {
                f.write_str("the rest has a share and no available endpoint")
            }
            Self::NoSubset => f.write_str("the default subset has no endpoint"),
            Self::NoLocal { zone } => write!(f, "zone {zone:?} has no available endpoint"),
            Self::Panic => f.write_str("every endpoint is ejected, so all are used"),
        }
    }
}
