//! Failfast through `Service`, under a paused clock.
#![allow(clippy::unwrap_used)]

mod failfast;
