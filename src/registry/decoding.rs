//! Bounds on the work that a reply of a registry causes, beside its size.
//!
//! A reply of few bytes may cause much work: compressed text expands to a thousand times its size, and
//! two bytes make a record. So the expansion and the number of records are bounded, too. What remains is
//! up to a second of work for the longest reply, and a registry sends it at any time. A program must not
//! notice that: above a small size, the work is done on a thread for blocking work, so that no timer of
//! the program is late.

#[cfg(feature = "_transport")]
use std::io::{self, Read as _};
use std::{future::pending, panic::resume_unwind};

#[cfg(feature = "_transport")]
use bytes::Bytes;
#[cfg(any(feature = "consul", feature = "rest"))]
use serde::{
    Deserializer as _,
    de::{Error as _, SeqAccess, Visitor},
};
#[cfg(any(feature = "consul", feature = "rest"))]
use serde_json::value::RawValue;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// The most records of one reply, by default. The longest reply has room for about as many usual ones.
pub(super) const MOST_RECORDS: usize = 100_000;

/// The longest record, in bytes. Those that Consul itself limits have at most 40 KiB of metadata and a few
/// of everything else.
#[cfg(feature = "rest")]
pub(super) const LONGEST_RECORD: usize = 256 << 10;

/// The largest reply that is decoded on the thread of the task, in bytes. Measured: 17 ms for a MiB, so
/// 2 ms; a thread for blocking work costs 20 µs more.
const INLINE: usize = 128 << 10;

/// How many times its size a compressed reply may expand to. Measured: 20 to 30 for lists of instances
/// that differ in their ids and ports only; 1,032 is the most that the format can.
#[cfg(feature = "_transport")]
const EXPANSION: usize = 200;

/// Up to which size a compressed reply may expand, whatever its own size is.
#[cfg(feature = "_transport")]
const EXPANDED: usize = 1 << 20;

/// How many replies are decoded at a time beside the threads of the program, so that they leave it some
/// cores. Arbitrary.
static THREADS: Semaphore = Semaphore::const_new(2);

/// Does `work` on a reply of `bytes` bytes, on a thread for blocking work if it is large.
///
/// If the returned future is dropped, the work still ends.
pub(super) async fn decoded<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= INLINE {
        return work();
    }
    let permit = THREADS.acquire().await;
    let done = spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    });
    match done.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is shutting down, and drops this task too.
            Err(_) => pending().await,
        },
    }
}

/// Why a compressed reply cannot be used.
#[cfg(feature = "_transport")]
#[derive(Debug)]
pub(super) enum GunzipError {
    /// It is not valid gzip.
    Invalid(io::Error),
    /// It is longer than accepted.
    TooLong,
    /// It is so long that it must be malicious.
    Expands,
}

/// Decompresses a reply of at most `longest` bytes.
#[cfg(feature = "_transport")]
pub(super) fn gunzip(packed: &[u8], longest: usize) -> Result<Bytes, GunzipError> {
    let expanded = packed.len().saturating_mul(EXPANSION).max(EXPANDED);
    let most = longest.min(expanded);
    let mut plain = Vec::new();
    // One byte more than the limit shows whether the text exceeds it.
    flate2::read::MultiGzDecoder::new(packed)
        .take(most as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(GunzipError::Invalid)?;
    match plain.len() > most {
        true if most < longest => Err(GunzipError::Expands),
        true => Err(GunzipError::TooLong),
        false => Ok(plain.into()),
    }
}

/// Splits a JSON array into at most `most` elements, which costs less than half of parsing them.
///
/// # Errors
/// When it is no JSON array, or has more elements.
#[cfg(any(feature = "consul", feature = "rest"))]
pub(super) fn elements(list: &[u8], most: usize) -> Result<Vec<&RawValue>, serde_json::Error> {
    struct Elements(usize);
    impl<'de> Visitor<'de> for Elements {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                if elements.len() == self.0 {
                    let many = format!("more than {} records", self.0);
                    return Err(A::Error::custom(many));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
    let mut list = serde_json::Deserializer::from_slice(list);
    let elements = list.deserialize_seq(Elements(most))?;
    list.end()?;
    Ok(elements)
}

#[cfg(feature = "_transport")]
#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_expands_too_much_is_refused_and_lists_of_instances_never_are() {
        const LONG: usize = 64 << 20;
        let bomb = gzip(&b"[1,".repeat(LONG / 3));
        assert!(bomb.len() < 100_000);
        assert!(matches!(gunzip(&bomb, LONG), Err(GunzipError::Expands)));
        assert!(matches!(gunzip(&bomb, 1 << 20), Err(GunzipError::TooLong)));
        assert!(matches!(
            gunzip(&bomb[..99], LONG),
            Err(GunzipError::Invalid(_))
        ));
        let small = vec![b' '; EXPANDED];
        assert_eq!(gunzip(&gzip(&small), LONG).unwrap(), small);
        // The most that can be alike: all metadata that Consul permits.
        let meta: String = (0..64)
            .map(|n| format!("\"key-{n}\":\"{}\",", "v".repeat(512)))
            .collect();
        let list: String = (0..500)
            .map(|n| {
                format!("{{\"Service\":{{\"ID\":\"web-{n}\",\"Port\":{n},\"Meta\":{{{meta}}}}}}},")
            })
            .collect();
        let packed = gzip(list.as_bytes());
        assert!(
            gunzip(&packed, LONG).is_ok(),
            "{} times",
            list.len() / packed.len()
        );
    }

    #[cfg(any(feature = "consul", feature = "rest"))]
    #[test]
    fn a_list_is_split_into_no_more_elements_than_accepted() {
        let split = |list: &'static str, most| {
            let elements = elements(list.as_bytes(), most);
            elements.map(|all| all.iter().map(|one| one.get()).collect::<Vec<_>>())
        };
        assert_eq!(
            split("[1, {\"a\": [2]}]", 2).unwrap(),
            ["1", "{\"a\": [2]}"]
        );
        assert!(split("[]", 0).unwrap().is_empty());
        let error = split("[1,2,3]", 2).unwrap_err().to_string();
        assert!(error.contains("more than 2 records"), "{error}");
        for list in ["{}", "null", "[1", "[1][2]", ""] {
            split(list, 9).unwrap_err();
        }
    }
}
