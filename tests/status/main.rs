//! The status page over real HTTP, and in a real browser: what it shows, what it refuses, what it costs.
#![allow(clippy::unwrap_used)]

mod browser;
mod content;
mod kit;
mod refusals;
mod streams;
#[path = "../support/mod.rs"]
mod support;
