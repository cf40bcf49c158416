//! How much of a response this client reads before its body, and in the trailers. Pure.

use http::HeaderMap;

use crate::classify::OverLimit;

/// Several times what servers of usual settings send: 8 KiB is the limit of many of them for what they
/// receive, and 64 KiB that of common proxies.
pub(super) const HEADER_SIZE: u32 = 256 << 10;

/// Enough for one field for each cookie of a domain (RFC 6265 asks for 50), many times over.
pub(super) const HEADER_FIELDS: usize = 512;

/// hyper's own limit. Up to it, reading a head allocates nothing.
pub(super) const FREE_FIELDS: usize = 100;

/// The most fields that hyper can take: it allocates for that many before it reads a head, and the map
/// of fields panics when it would hold more than 24,576 names.
const MOST_FIELDS: usize = 16_384;

/// The limits of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// In bytes.
    pub(super) size: u32,
    /// Of a head over HTTP/1.
    fields: usize,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            size: HEADER_SIZE,
            fields: HEADER_FIELDS,
        }
    }

    /// Sets how many fields a head over HTTP/1 may have.
    pub(super) fn fields(&mut self, fields: usize) {
        self.fields = fields.min(MOST_FIELDS);
    }

    /// The limits of a connection over HTTP/1 whose heads may have to be [read again](super::reread).
    /// `None` if that could change nothing.
    pub(super) fn fewer_fields(self) -> Option<Self> {
        let fields = FREE_FIELDS;
        (self.fields > fields).then_some(Self { fields, ..self })
    }

    /// Sets the limits of a connection over HTTP/1.
    pub(super) fn http1(self) -> hyper::client::conn::http1::Builder {
        // hyper's own limit of its buffer, which the head must fit into.
        const BUFFER: usize = 400 << 10;
        let mut builder = hyper::client::conn::http1::Builder::new();
        let size = self.size as usize;
        builder.max_header_size(size);
        // Setting the same number makes hyper fill its buffers.
        if self.fields != FREE_FIELDS {
            builder.max_headers(self.fields);
        }
        if size > BUFFER {
            builder.max_buf_size(size);
        }
        builder
    }

    /// The error of a head that exceeds them over HTTP/1. hyper does not tell which.
    pub(super) fn exceeded(self) -> OverLimit {
        let Self { size, fields } = self;
        OverLimit::new(format!(
            "the head of the response has more than {fields} fields (max_header_fields) or {size} \
             bytes (max_header_size)"
        ))
    }

    /// The limit for hyper over HTTP/2, which resets a stream for other reasons, too, and cuts off
    /// trailers without a word. So it reads more, and [`check`](Self::check) tells the reason.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(super) fn http2(self) -> u32 {
        self.size.saturating_mul(4)
    }
}

/// Whether hyper refused a head over HTTP/1 because of its limits. Its text tells, because hyper has
/// `is_parse_too_large` only together with its server.
pub(super) fn is_too_large(error: &hyper::Error) -> bool {
    error.is_parse() && error.to_string() == "message head is too large"
}

/// Checks the size of fields received over HTTP/2, as RFC 9113, section 6.5.2, counts it: 32 bytes for
/// each field beside its text.
#[inline]
pub(super) fn check(fields: &HeaderMap, limit: u32, what: &str) -> Result<(), OverLimit> {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    if sizes.sum::<usize>() <= limit as usize {
        return Ok(());
    }
    let text = format!("{what} more than {limit} bytes (max_header_size)");
    Err(OverLimit::new(text))
}
