//! Tests on real Consul agents.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "consulrs")]
mod consulrs;
mod faults;
mod grpc_health;
mod harness;
mod registration;
mod scene;
mod transports;
