//! What hyper reads of a response before and after its body, and how it tells that this was too little.

use std::{error::Error as _, io};

/// Several times what servers of usual settings send: 8 KiB is the limit of many of them for what they
/// receive, and 64 KiB that of common proxies.
pub(crate) const HEADER_SIZE: u32 = 256 << 10;

/// Enough for one field for each cookie of a domain (RFC 6265 asks for 50), many times over.
pub(crate) const HEADER_FIELDS: usize = 512;

/// How many bytes of a head hyper reads over HTTP/2 at least. A larger head resets its stream, or ends
/// its connection, with an error that has other causes, too; and larger trailers are cut off without an
/// error. So hyper reads more than the limit, and the size is checked afterwards. Not much more: it is
/// the size in memory, and compression makes little of it on the wire.
#[cfg(any(feature = "http2", feature = "tonic"))]
const HTTP2_READS: u32 = 1 << 20;

/// How many bytes of a head hyper has to read over HTTP/2.
#[cfg(any(feature = "http2", feature = "tonic"))]
pub(crate) fn http2_reads(limit: u32) -> u32 {
    limit.saturating_mul(4).max(HTTP2_READS)
}

/// Whether hyper refused a head over HTTP/1 because of its limits. Its text tells, because hyper has
/// `is_parse_too_large` only together with its server.
pub(crate) fn is_head_too_large(error: &hyper::Error) -> bool {
    error.is_parse() && error.to_string() == "message head is too large"
}

/// Whether hyper refused trailers over HTTP/1 because of its limits. Its text tells, because nothing
/// else distinguishes this error from others of a body in chunks.
pub(crate) fn are_trailers_too_large(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref());
    source.is_some_and(|error: &io::Error| {
        error.kind() == io::ErrorKind::InvalidData
            && matches!(
                error.to_string().as_str(),
                "chunk trailers bytes over limit" | "chunk trailers count overflow"
            )
    })
}

/// The size of fields received over HTTP/2, as RFC 9113, section 6.5.2, counts it: 32 bytes for each
/// field beside its text.
#[cfg(feature = "http")]
#[inline]
pub(crate) fn size(fields: &http::HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum()
}

#[cfg(all(test, any(feature = "http2", feature = "tonic")))]
mod tests {
    use super::*;

    #[test]
    fn over_http2_little_more_is_read_than_the_limit() {
        for (limit, reads) in [
            (1_000, 1 << 20),
            (HEADER_SIZE, 1 << 20),
            (1 << 20, 4 << 20),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(http2_reads(limit), reads, "{limit}");
        }
    }
}
