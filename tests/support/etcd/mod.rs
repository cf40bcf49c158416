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

/// etcd 3.5, for the tests that name a difference: `$ETCD_35_BIN`, else where `tests/run.sh` unpacks it.
pub fn binary_35() -> Option<PathBuf> {
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("target/servers/etcd-server-3.5/usr/bin/etcd");
    let named = std::env::var_os("ETCD_35_BIN").filter(|bin| !bin.is_empty());
    named
        .map(PathBuf::from)
        .or(Some(unpacked))
        .filter(|bin| bin.is_file())
}
