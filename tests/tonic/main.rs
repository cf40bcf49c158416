//! Clients that tonic generated, against servers that tonic generated, over connections on loopback.
#![allow(clippy::unwrap_used)]

mod calls;
mod channel;
mod connections;
mod deadline;
#[cfg(feature = "http2")]
mod health;
#[allow(clippy::all, unreachable_pub, missing_docs, missing_debug_implementations)]
#[rustfmt::skip]
mod greeter;
mod judged;
mod outcomes;
mod refused;
#[path = "../support/refusing.rs"]
mod refusing;
mod server;
mod stack;
mod status;
#[cfg(feature = "tls")]
mod tls;
