//! Where traffic may go. (stub replaced at merge)
use std::fmt;

/// What a request wishes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Hash of its key.
    pub hash: Option<u64>,
    /// subset
    pub subset: Option<u64>,
}

/// Says what a request wishes.
pub trait Route<Request>: Send + Sync + 'static {
    /// What it wishes.
    fn route(&self, request: &Request) -> Wish;
}

impl<Request> Route<Request> for () {
    fn route(&self, _: &Request) -> Wish {
        Wish::default()
    }
}
/// x
pub(crate) fn _x(_: &dyn fmt::Debug) {}
