//! Which failures of a series were warned of, so that each reason is logged once.

use crate::error::{ErrorKind, RegistryError};

/// The kinds of failure that were warned of since the last success.
///
/// Not only the last kind: a registry with several agents may fail for two reasons in turn, and each
/// attempt would be a warning then.
#[derive(Debug, Default)]
pub(super) struct Warned(Vec<ErrorKind>);

impl Warned {
    /// Notes a failure. Returns whether it is the first of its kind since the last success.
    ///
    /// Failures to reach the registry are one kind: a registry that goes away first breaks a connection,
    /// and then refuses the next one, or does not respond.
    pub(super) fn is_new(&mut self, error: &RegistryError) -> bool {
        let kind = if error.is_unreachable() {
            ErrorKind::Unreachable
        } else {
            error.kind()
        };
        let new = !self.0.contains(&kind);
        if new {
            self.0.push(kind);
        }
        new
    }

    /// Ends the series of failures.
    pub(super) fn succeeded(&mut self) {
        self.0.clear();
    }
}
