//! Parses Consul's replies leniently, and converts them into instances.
//!
//! Consul stores any data that a service registers: any port, any text as an address, null instead of a
//! list. So every field that is not required may be absent or null. An unusable record is rejected, and
//! the others are still used.
//!
//! After a change of one instance, Consul sends all of them. So a reply is first split into its
//! elements, which costs less than half of parsing them. Only elements whose bytes were not in the
//! previous reply are parsed; the others keep their `Arc`.

mod catalog;
mod decode;
mod entry;
mod meaning;
#[cfg(test)]
mod tests;

pub(super) use self::catalog::names;
pub use self::{
    decode::{Decoded, Decoder, Witness},
    entry::HealthEntry,
};

/// Parses a whole reply into its structure. Benches use it as the lower bound of the cost of decoding.
///
/// # Errors
/// When the reply is not a list of entries.
pub fn parse(body: &[u8]) -> Result<Vec<HealthEntry<'_>>, serde_json::Error> {
    serde_json::from_slice(body)
}
