//! The balancer from outside: discovery, services and policies that misbehave, what operators do,
//! cancellation, and random and concurrent use against a naive model. The clock is paused.
#![allow(clippy::unwrap_used)]

mod all_ejected;
mod cancel;
mod cost;
mod costly;
mod discovery;
mod drained;
mod guard;
mod handle;
#[cfg(feature = "http")]
mod http;
mod kit;
#[path = "../support/log.rs"]
mod log;
mod logs;
mod model;
mod model_topology;
mod moved;
mod outage;
mod panics;
mod policy;
mod reasons;
mod registries;
mod registry;
mod services;
mod slow_start;
mod state;
mod stress;
mod topology;
mod trial;
