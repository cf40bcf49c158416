//! 100,000 seeded mutations of good input for each decoder: nothing panics, and reading a reply by what
//! is left of the one before is reading it afresh. The twin of the targets in `fuzz/`, for every run.
#![allow(clippy::unwrap_used)]

mod consul;
mod etcd;
mod mutate;
mod record;
mod rest;
mod zookeeper;

/// How many inputs each test makes.
const INPUTS: u64 = 100_000;
