//! Tests on real Consul agents.
// To this lint a helper of a test is no test.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod harness;
mod index;
mod kit;
mod life;
mod modes;
mod pace;
mod rules;
mod set;
#[cfg(feature = "tls")]
mod tls;
