//! Who is checked when, and how many at a time.

use std::{collections::BTreeMap, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tower_roster::endpoint::check::{HealthCheck, Prober};

use super::{
    INTERVAL, next, prober,
    support::{RawServer, Script, eventually},
};

#[tokio::test]
async fn without_endpoints_it_waits() {
    let mut prober = prober(HealthCheck::tcp(), &[]);
    assert!(timeout(INTERVAL, prober.next()).await.is_err());
}

#[tokio::test]
async fn each_endpoint_is_checked_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let keys = ["a", "b", "c", "d"];
    let mut prober = prober(HealthCheck::tcp(), &keys.map(|key| (key, port)));
    assert_eq!(prober.len(), 4);
    let mut checks = BTreeMap::new();
    while checks.len() < 4 || checks.values().any(|n| *n < 5) {
        *checks.entry(next(&mut prober).await.key).or_insert(0) += 1;
    }
}

#[tokio::test]
async fn no_more_checks_run_at_a_time_than_may() {
    let server = RawServer::play([Script::new().hang()]).await;
    let check = HealthCheck::http("/").concurrency(3).timeout(INTERVAL * 5);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut prober = prober(check, &keys.map(|key| (key, server.addr().port())));
    let mut seen = BTreeMap::new();
    while seen.len() < keys.len() {
        let report = next(&mut prober).await;
        assert!(report.result.is_err());
        seen.insert(report.key, ());
        // One more may have been accepted while the client's close is still on its way.
        assert!(server.open() <= 6, "{} at a time", server.open());
    }
}

#[tokio::test]
async fn removing_an_endpoint_ends_its_check_and_so_does_dropping_the_prober() {
    let server = RawServer::play([Script::new().hang()]).await;
    let check = HealthCheck::http("/").timeout(Duration::from_secs(600));
    let ports = ["a", "b"].map(|key| (key, server.addr().port()));
    let mut prober = prober(check, &ports);
    let both = eventually(super::PATIENCE, "two checks under way", || async {
        let asked = server.requests().len();
        if asked == 2 { Ok(()) } else { Err(asked) }
    });
    tokio::select! {
        report = prober.next() => panic!("{report:?}"),
        () = both => {}
    }
    prober.remove(&"a");
    eventually(super::PATIENCE, "one connection", || async {
        let open = server.open();
        if open == 1 { Ok(()) } else { Err(open) }
    })
    .await;
    drop(prober);
    eventually(super::PATIENCE, "no connection", || async {
        server.open() == 0
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_keeps_its_standing_until_its_address_changes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = |port| format!("127.0.0.1:{port}").parse().unwrap();
    let checks = HealthCheck::tcp().interval(INTERVAL).passes(3);
    let checks = checks.max_failures(1);
    let mut prober = Prober::new(checks, SmallRng::seed_from_u64(1)).unwrap();
    // Nothing listens on port 1 of this address.
    prober.insert("a", "127.0.0.2:1".parse().unwrap(), Instant::now());
    let failures = next(&mut prober).await.failures;
    assert_eq!(failures, 1);
    prober.insert("a", "127.0.0.2:1".parse().unwrap(), Instant::now());
    let failures = next(&mut prober).await.failures;
    assert_eq!(failures, 2);
    prober.insert("a", address(port), Instant::now());
    assert_eq!(next(&mut prober).await.failures, 0);
    assert_eq!(prober.len(), 1);
}

#[tokio::test]
async fn a_dropped_wait_loses_no_result() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut prober = prober(HealthCheck::tcp(), &[("a", port)]);
    for _ in 0..200 {
        if timeout(INTERVAL / 10, prober.next()).await.is_ok() {
            return;
        }
    }
    panic!("no check survived its waits");
}
