//! Health checks of servers that tonic generated.

use std::{future::poll_fn, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, timeout};
use tower_roster::endpoint::check::{HealthCheck, Prober};

use crate::server::Server;

#[tokio::test]
async fn a_server_without_a_health_service_passes() {
    let server = Server::start().await;
    let check = HealthCheck::grpc("greeter").interval(Duration::from_millis(20));
    let mut prober = Prober::new(check, SmallRng::seed_from_u64(1)).unwrap();
    prober.insert("a", server.instance().address, Instant::now());
    for _ in 0..2 {
        let report = poll_fn(|cx| prober.poll_next(cx));
        let report = timeout(Duration::from_secs(20), report).await.unwrap();
        report.result.expect("gRFC A17: it is healthy");
    }
    assert!(server.calls() >= 2, "it was asked");
}
