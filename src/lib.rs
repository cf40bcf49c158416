//! Client-side load balancing and service discovery for `tower`.

pub mod backoff;
pub mod catalog;
#[cfg(feature = "http")]
pub mod client;
#[cfg(feature = "_hyper")]
mod connect;
pub mod discover;
pub mod endpoint;
pub mod error;
pub mod instance;
pub mod registry;
mod rng;

pub use self::{
    backoff::Backoff,
    error::{BoxError, ConfigError, Error},
    instance::Instance,
    registry::Registry,
};
