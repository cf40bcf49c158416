//! The balancer.

pub mod policy;
mod state;
pub mod topology;
