//! Where traffic may go, seen from outside: the shares that a topology gives a list of instances.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "memory")]
mod canary;
#[cfg(feature = "memory")]
mod fleet;
mod handles;
#[cfg(feature = "memory")]
mod kit;
mod subsetting;

use std::{num::NonZeroUsize, sync::Arc};

use tower_roster::Instance;

fn web(id: impl Into<Arc<str>>) -> Instance {
    Instance::new("web", id, "127.0.0.1:80".parse().unwrap())
}

fn size(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap()
}
