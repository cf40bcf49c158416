//! Real Consul agents: found, started, spoken to, broken and stopped.

mod agent;
mod api;
mod cluster;

pub use agent::{Agent, AgentBuilder};
pub use cluster::{Cluster, ClusterBuilder};

use std::{env, path::PathBuf};

/// `$CONSUL_BIN`, else `consul` on PATH, else where `tests/run.sh` unpacks it.
pub fn binary() -> Option<PathBuf> {
    if let Some(bin) = env::var_os("CONSUL_BIN").filter(|bin| !bin.is_empty()) {
        let bin = PathBuf::from(bin);
        // A wrong setting must not look like a machine without a server.
        assert!(bin.is_file(), "CONSUL_BIN names no file: {}", bin.display());
        return Some(bin);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/servers/consul/usr/bin");
    env::split_paths(&path)
        .chain([unpacked])
        .map(|dir| dir.join("consul"))
        .find(|bin| bin.is_file())
}
