//! The example programs as people run them: real processes, their flags, their output, their exit
//! codes, on a real Consul and on the other registries by changing the URL alone.

#[path = "../support/mod.rs"]
mod support;

mod call;
mod command_line;
mod demo;
mod faults;
mod kit;
mod register;
mod registries;
mod registry;
mod resilience;
mod serve;
mod servers;
mod watch;
