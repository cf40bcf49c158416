//! Adaptive limit and failfast through `Service`, under a paused clock.
#![allow(clippy::unwrap_used)]

mod adaptive;
mod failfast;
