//! Middleware around a balancer, and around any other service.

pub mod retry;
