//! Tests on real Consul agents.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
#[cfg(feature = "consulrs")]
mod consulrs;
mod faults;
mod grpc_health;
mod harness;
mod index;
mod kit;
mod pace;
mod registration;
mod scene;
mod transports;
