//! Where randomness comes from: one small generator per task or clone, never a shared one.

use rand::{SeedableRng, rngs::SmallRng};

/// A generator that repeats itself for a given seed and differs in every process without one.
pub(crate) fn small_rng(seed: Option<u64>) -> SmallRng {
    match seed {
        Some(seed) => SmallRng::seed_from_u64(seed),
        None => SmallRng::from_rng(&mut rand::rng()),
    }
}
