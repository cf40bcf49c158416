//! From a watched service to endpoints that requests go to: tower's own balancer over our
//! `Discover`, with mocks under a paused clock and with real HTTP servers on loopback.
#![allow(clippy::unwrap_used)]

mod changes;
mod connections;
#[cfg(feature = "http2")]
mod ends;
mod flood;
#[cfg(feature = "http2")]
mod frames;
mod framing;
mod http;
mod interop;
mod life;
mod limits;
mod load;
mod over_limit;
mod raw;
mod scripted;
mod server;
#[cfg(feature = "tls")]
mod tls;
