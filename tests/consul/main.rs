//! Tests on real Consul agents.
// To this lint a helper of a test is no test.
#![allow(clippy::unwrap_used)]

#[path = "../support/log.rs"]
mod log;
#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod balance;
#[cfg(feature = "consulrs")]
mod consulrs;
mod faults;
mod grpc_health;
mod harness;
mod index;
mod kit;
mod life;
mod many;
mod modes;
mod pace;
mod registration;
mod restart;
mod rules;
mod scene;
mod secrets;
mod set;
#[cfg(feature = "tls")]
mod tls;
mod transports;
mod work;
