//! Active health checks against real servers on loopback.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "http2")]
mod grpc;
#[cfg(feature = "http2")]
#[path = "../consul/grpc_health.rs"]
mod grpc_health;
mod http;
mod prober;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tls")]
mod tls;

use std::time::Duration;

use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, timeout};
use tower_roster::endpoint::check::{HealthCheck, Prober, Report};

/// Short, because this time is real.
const INTERVAL: Duration = Duration::from_millis(20);

/// Never waited for where all is well.
const PATIENCE: Duration = Duration::from_secs(20);

type Checked = Prober<&'static str>;

/// A prober with an endpoint on each of these ports.
fn prober(check: HealthCheck, ports: &[(&'static str, u16)]) -> Checked {
    let check = check.interval(INTERVAL);
    let mut prober = Prober::new(check, SmallRng::seed_from_u64(1)).unwrap();
    for (key, port) in ports {
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        prober.insert(*key, address, Instant::now());
    }
    prober
}

async fn next(prober: &mut Checked) -> Report<&'static str> {
    timeout(PATIENCE, prober.next()).await.expect("a report")
}

/// The reports until one that stands so, which is the last.
async fn until(prober: &mut Checked, wanted: fn(u32) -> bool) -> Vec<Report<&'static str>> {
    let mut reports = Vec::new();
    loop {
        let report = next(prober).await;
        let found = wanted(report.failures);
        reports.push(report);
        if found {
            return reports;
        }
        assert!(reports.len() < 1_000, "it never stands so: {reports:?}");
    }
}

fn failing(failures: u32) -> bool {
    failures > 0
}

fn passing(failures: u32) -> bool {
    failures == 0
}
