//! Makes random generators: a small one per task or clone, so that none is shared.

use rand::{SeedableRng, rngs::SmallRng};

/// Creates a generator. With a seed its sequence is always the same; without one it differs in each
/// process.
pub(crate) fn small_rng(seed: Option<u64>) -> SmallRng {
    match seed {
        Some(seed) => SmallRng::seed_from_u64(seed),
        None => SmallRng::from_rng(&mut rand::rng()),
    }
}
