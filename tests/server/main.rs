//! Announced servers: when they are registered, how they leave, and at which address they are reached. Over the
//! embedded registry; `tests/programs` runs real servers over a real Consul.
#![allow(clippy::unwrap_used)]

mod address;
mod life;
mod readiness;
