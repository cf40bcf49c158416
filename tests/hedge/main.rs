//! Sending slow requests a second time: with a scripted service under a paused clock.
#![allow(clippy::unwrap_used)]

mod attempts;
#[cfg(feature = "http")]
mod http;
#[path = "../retry/kit.rs"]
mod kit;
mod layers;
mod measured;
mod race;
