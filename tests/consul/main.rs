//! Tests on real Consul agents.

#[path = "../support/mod.rs"]
mod support;

mod grpc_health;
mod harness;
mod registration;
mod scene;
