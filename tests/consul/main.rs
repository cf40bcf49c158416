//! Tests on real Consul agents.

#[path = "../support/mod.rs"]
mod support;

mod harness;
