//! Middleware around a balancer, and around any other service.

pub mod hedge;
pub mod retry;
