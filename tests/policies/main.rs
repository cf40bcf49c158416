//! What every policy promises: its shares, what it makes of load and latency, who owns a key.
//!
//! Everything runs on a clock of the test's own, and on seeded randomness.
#![allow(clippy::unwrap_used)]

mod bad;
mod hashing;
mod latency;
mod requests;
mod shares;
mod world;

use rand::{SeedableRng, rngs::SmallRng};
use tower_roster::balance::policy::{AnyPolicy, NAMES, by_name};

const SEED: u64 = 0x5EED;

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(SEED)
}

/// All policies that go by weights, by their names.
fn weighted() -> impl Iterator<Item = (&'static str, AnyPolicy)> {
    let names = NAMES
        .iter()
        .filter(|name| !["round-robin", "random"].contains(name));
    names.map(|name| (*name, by_name(name).unwrap()))
}

/// All policies.
fn all() -> impl Iterator<Item = (&'static str, AnyPolicy)> {
    NAMES.iter().map(|name| (*name, by_name(name).unwrap()))
}

/// Whether a count is the expected one, by 1 % or by four standard deviations of a fair draw.
#[track_caller]
fn assert_share(count: u64, total: u64, share: f64, what: &str) {
    let (total, count) = (total as f64, count as f64);
    let expected = total * share;
    let allowed = (expected * 0.01)
        .max(4.0 * (expected * (1.0 - share)).sqrt())
        .max(1.0);
    assert!(
        (count - expected).abs() <= allowed,
        "{what}: {count} instead of {expected} ± {allowed}, seed {SEED:#x}"
    );
}

fn dues(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}
