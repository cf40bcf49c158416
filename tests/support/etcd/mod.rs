//! Real etcd servers: found, started, spoken to, broken and stopped.

pub mod api;
mod server;

pub use api::{decode, encode};
pub use server::{Etcd, EtcdBuilder, EtcdCluster};

use std::path::PathBuf;

/// `$ETCD_BIN`, else `etcd` on PATH, else where `tests/run.sh` unpacks it.
pub fn binary() -> Option<PathBuf> {
    super::binary("ETCD_BIN", "etcd", "etcd-server/usr/bin")
}
