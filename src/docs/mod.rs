//! Longer chapters: reasons, costs, history.

#[doc = include_str!("defaults.md")]
pub mod defaults {}

#[doc = include_str!("migration.md")]
pub mod migration {}

#[doc = include_str!("faults.md")]
pub mod faults {}

#[cfg(feature = "metrics")]
#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("registry.md")]
pub mod registry {}

#[doc = include_str!("../../CHANGELOG.md")]
pub mod changelog {}
