//! Sending requests again: every reason to do it and not to, with a scripted service under a paused
//! clock; the replay of request bodies; another endpoint first.
#![allow(clippy::unwrap_used)]

mod cancel;
mod delays;
mod elsewhere;
#[cfg(feature = "http")]
mod http;
mod kit;
#[cfg(feature = "http")]
mod replay;
mod stops;
