//! Changes bytes as fuzzers do: by chance, and by what tends to matter.

use rand::{Rng, RngExt, rngs::SmallRng};

/// What parsers stumble over.
const TOKENS: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "65536",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "\\u0000",
    "\\ud800",
    "\u{202e}",
    "\u{feff}",
    "..",
    "%2f",
    "%00",
    "&",
    "=",
    "\r\n",
    "::ffff:0.0.0.0",
    "[::]",
];

/// Makes another input of a good one, by one to three changes.
pub(crate) fn mutate(good: &[u8], rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..40)).min(bytes.len());
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let token = TOKENS[rng.random_range(0..TOKENS.len())];
                drop(bytes.splice(at..end, token.bytes()));
            }
            3 => {
                // Something that stands elsewhere: keys and values change places.
                let from = rng.random_range(0..=bytes.len());
                let to = (from + rng.random_range(0..40)).min(bytes.len());
                let part = bytes[from..to].to_vec();
                drop(bytes.splice(at..end, part));
            }
            4 => bytes.truncate(at),
            _ => bytes.insert(at, rng.next_u32() as u8),
        }
    }
    bytes
}
