//! Clients by their plain types: one service, and many by the names in URIs, over real HTTP servers.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "config")]
mod config;
#[cfg(feature = "tls")]
mod encrypted;
mod http_service;
mod kit;
mod large;
mod router;
