//! Answers of a registry that exceed the limits of its client.

use std::error::Error;

use hyper_util::client::legacy;

use crate::{
    connect::limits::{self, HEADER_FIELDS, HEADER_SIZE},
    error::{ErrorKind, RegistryError, causes},
};

/// Whether hyper refused the head of an answer because of the limits.
pub(super) fn is_head_too_large(error: &legacy::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref());
    source.is_some_and(limits::is_head_too_large)
}

/// The same of the trailers, by an error of [`Whole`](crate::connect::Whole).
pub(super) fn are_trailers_too_large(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| {
        let error = error.downcast_ref();
        error.is_some_and(limits::are_trailers_too_large)
    })
}

/// hyper does not tell which limit it is. The limits are those of endpoints by default.
pub(super) fn too_large(what: &str) -> RegistryError {
    let limits = format!("more than {HEADER_FIELDS} fields or {HEADER_SIZE} bytes");
    let message = format!("{what} of an answer has {limits}");
    RegistryError::new(ErrorKind::Malformed, message)
}
