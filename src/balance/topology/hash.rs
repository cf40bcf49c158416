//! A hash that is the same in every process, on every machine and in every release.
//!
//! The hashers of the standard library promise none of that. This is FNV-1a over the bytes, followed by
//! the finaliser of SplitMix64, because FNV alone spreads short texts badly over the high bits. It can
//! run at compile time and needs no state. It does not resist an attacker who chooses texts that
//! collide. It is for names, where equal hashes gain nothing: whoever chooses a name could choose the other
//! name itself. For keys of requests there is [`hash_key`](crate::balance::policy::hash_key), and for keys of
//! endpoints [`hash_id`](crate::balance::pick::hash::hash_id).

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

pub(crate) use crate::balance::pick::hash::mix;

/// Hashes bytes.
pub(crate) const fn bytes(text: &[u8]) -> u64 {
    mix(fold(OFFSET, text))
}

/// Hashes a name and a value, as a pair: `("ab", "c")` differs from `("a", "bc")`.
pub(crate) const fn pair(name: &[u8], value: &[u8]) -> u64 {
    // 0xff occurs in no UTF-8, so it cannot be part of a name.
    mix(fold(fold(fold(OFFSET, name), &[0xff]), value))
}

/// A number above 0 and at most 1, uniformly distributed when the hash is.
pub(crate) fn unit(hash: u64) -> f64 {
    ((hash >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// A map whose keys are hashes and are not hashed again.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Hashed>>;

/// A hasher that returns the hash that is written to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(fold(self.0, bytes));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    /// Called with the variant of an `Option` key.
    fn write_isize(&mut self, variant: isize) {
        self.0 ^= variant as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

const fn fold(mut hash: u64, text: &[u8]) -> u64 {
    let mut i = 0;
    while i < text.len() {
        hash = (hash ^ text[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_what_they_were_in_every_release() {
        // A change of these values would move users of a sticky split to another version and change
        // every client's part.
        assert_eq!(bytes(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(
            fold(OFFSET, b"foobar"),
            0x8594_4171_f739_67e8,
            "FNV-1a's own vector"
        );
        assert_eq!(
            mix(0),
            0xe220_a839_7b1d_cdaf,
            "SplitMix64's first number for seed 0"
        );
        assert_ne!(pair(b"ab", b"c"), pair(b"a", b"bc"));
    }

    #[test]
    fn units_lie_above_zero_and_reach_one() {
        assert!(unit(0) > 0.0);
        assert_eq!(unit(u64::MAX), 1.0);
    }
}
