//! Ejection and recovery: the parts together, as the balancer's driver uses them, with a clock and a
//! generator of the tests' own.
#![allow(clippy::unwrap_used)]

mod ejector;
mod invariants;
mod scene;
