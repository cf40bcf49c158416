//! The balancer.

pub mod policy;
mod state;
