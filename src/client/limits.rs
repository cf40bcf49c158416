//! How much of a response this client reads before its body, and in the trailers. Pure.

use http::HeaderMap;

use crate::{
    classify::OverLimit,
    connect::limits::{self, HEADER_FIELDS, HEADER_SIZE},
};

/// hyper's own limit. Up to it, reading a head allocates nothing.
pub(super) const FREE_FIELDS: u16 = 100;

/// The most fields that hyper can take: it allocates for that many before it reads a head, and the map
/// of fields panics when it would hold more than 24,576 names.
const MOST_FIELDS: usize = 16_384;

/// The limits of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// In bytes.
    pub(super) size: u32,
    /// Of a head over HTTP/1. At most [`MOST_FIELDS`].
    fields: u16,
    spoken: Spoken,
}

/// What an endpoint speaks. hyper checks the limits over HTTP/1, and this client over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    #[cfg(feature = "http2")]
    Http2,
    #[cfg(feature = "tonic")]
    Grpc,
}

impl Limits {
    pub(super) fn new() -> Self {
        let mut limits = Self {
            size: HEADER_SIZE,
            fields: 0,
            spoken: Spoken::Http1,
        };
        limits.fields(HEADER_FIELDS);
        limits
    }

    #[cfg(any(feature = "http2", feature = "tonic"))]
    pub(super) fn of(self, spoken: Spoken) -> Self {
        Self { spoken, ..self }
    }

    /// Sets how many fields a head over HTTP/1 may have.
    pub(super) fn fields(&mut self, fields: usize) {
        self.fields = u16::try_from(fields.min(MOST_FIELDS)).expect("the greatest number fits");
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
            builder.max_headers(self.fields.into());
        }
        if size > BUFFER {
            builder.max_buf_size(size);
        }
        builder
    }

    /// The error of a head that exceeds them over HTTP/1, if this is why hyper failed.
    pub(super) fn head_over_http1(self, error: &hyper::Error) -> Option<OverLimit> {
        let Self { size, fields, .. } = self;
        limits::is_head_too_large(error).then(|| {
            // hyper does not tell which limit it is.
            OverLimit::new(format!(
                "the head of the response has more than {fields} fields (max_header_fields) or \
                 {size} bytes (max_header_size)"
            ))
        })
    }

    /// The error of a head that came before its request was sent in full, on a connection with
    /// [`fewer_fields`](Self::fewer_fields).
    pub(super) fn unsent(self) -> OverLimit {
        let Self { fields, .. } = self;
        OverLimit::new(format!(
            "the head of the response has more than {FREE_FIELDS} fields, and came before the request \
             was sent in full; new connections to the endpoint take {fields} (max_header_fields)"
        ))
    }

    /// The error of trailers that exceed them over HTTP/1, if this is why hyper failed. It names no
    /// number of fields, because that depends on the connection: only a head is read again with more.
    pub(super) fn trailers_over_http1(self, error: &hyper::Error) -> Option<OverLimit> {
        let size = self.size;
        limits::are_trailers_too_large(error).then(|| {
            OverLimit::new(format!(
                "the trailers of the response have too many fields, or more than {size} bytes \
                 (max_header_size)"
            ))
        })
    }

    /// Checks a head received over HTTP/2.
    #[cfg(any(feature = "http2", feature = "tonic"))]
    #[inline]
    pub(super) fn check_head(self, fields: &HeaderMap) -> Result<(), OverLimit> {
        self.check(fields, "the head of the response has")
    }

    /// Checks trailers. hyper has checked those over HTTP/1.
    #[inline]
    pub(super) fn check_trailers(self, fields: &HeaderMap) -> Result<(), OverLimit> {
        if self.spoken == Spoken::Http1 {
            return Ok(());
        }
        self.check(fields, "the trailers of the response have")
    }

    #[inline]
    fn check(self, fields: &HeaderMap, what: &str) -> Result<(), OverLimit> {
        let limit = self.size;
        if limits::size(fields) <= limit as usize {
            return Ok(());
        }
        Err(OverLimit::new(format!(
            "{what} more than {limit} bytes (max_header_size)"
        )))
    }

    #[cfg(feature = "tonic")]
    pub(super) fn is_grpc(self) -> bool {
        self.spoken == Spoken::Grpc
    }
}

/// The status of a call whose response exceeds a limit, as in other gRPC clients.
#[cfg(feature = "tonic")]
pub(super) fn exhausted(error: OverLimit) -> tonic::Status {
    let mut status = tonic::Status::resource_exhausted(error.to_string());
    status.set_source(std::sync::Arc::new(error));
    status
}
