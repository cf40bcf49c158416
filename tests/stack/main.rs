//! The whole stack and each of its layers alone, over real HTTP servers on loopback: what callers
//! notice of servers that fail, refuse, hang, overload, or are of another version or zone.
#![allow(clippy::unwrap_used)]

mod breaker;
mod checks;
mod faults;
mod kit;
mod layers;
#[path = "../support/log.rs"]
mod log;
mod monitor;
mod places;
#[cfg(feature = "http2")]
mod refused;
#[cfg(feature = "http2")]
#[path = "../support/refusing.rs"]
mod refusing;
mod reported;
mod served;
mod split;
mod template;
mod time;
