//! A real Prometheus, and its tool that checks rules.

use std::path::PathBuf;

/// `$PROMETHEUS_BIN`, else `prometheus` on PATH, else where `tests/run.sh` unpacks it. `promtool` is beside it.
pub fn binary() -> Option<PathBuf> {
    super::binary("PROMETHEUS_BIN", "prometheus", "prometheus/usr/bin")
}
