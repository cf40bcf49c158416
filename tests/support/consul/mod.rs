//! Real Consul agents: found, started, spoken to, broken and stopped.

mod agent;
mod api;
mod cluster;

pub use agent::{Agent, AgentBuilder};
pub use cluster::{Cluster, ClusterBuilder};

use std::path::PathBuf;

/// `$CONSUL_BIN`, else `consul` on PATH, else where `tests/run.sh` unpacks it.
pub fn binary() -> Option<PathBuf> {
    super::binary("CONSUL_BIN", "consul", "consul/usr/bin")
}
