//! Tests on real Consul agents.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod grpc_health;
mod harness;
mod index;
mod kit;
mod pace;
mod registration;
mod scene;
