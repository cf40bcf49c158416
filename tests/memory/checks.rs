//! Checks that the registry makes itself, against listeners on loopback.

use std::num::NonZeroU32;

use serde_json::json;
use tokio::net::TcpListener;
use tower_roster::{
    error::ErrorKind,
    instance::Status,
    registry::{
        Registry,
        memory::{MemoryBuilder, MemoryLimits},
    },
};

use super::*;

pub(super) const INTERVAL: Duration = Duration::from_millis(20);

/// Takes checks with a short interval.
pub(super) fn hurried() -> MemoryBuilder {
    let limits = MemoryLimits::new().least_check_interval(SECOND / 1_000);
    Memory::builder().limits(limits.checks_per_sec(10_000))
}

pub(super) fn checked(id: &str, port: u16, health: Health) -> Announcement {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Announcement::new(Instance::new("web", id, address)).health(health)
}

#[tokio::test]
async fn an_instance_that_stays_away_is_removed_after_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let memory = hurried().max_failures(NonZeroU32::MIN).build().unwrap();
    let tcp = Health::Tcp {
        interval: INTERVAL,
        timeout: SECOND,
    };
    let announcement = checked("a", port, tcp).reap_after(Some(INTERVAL * 3));
    memory.register(announcement).unwrap();
    let mut watch = registry(&memory).watch("web").unwrap();
    for _ in 0..3 {
        listener.accept().await.unwrap();
        assert_eq!(memory.instances("web")[0].status, Status::Passing);
    }
    drop(listener);
    watch.wait_for(|v| !v.withheld.is_empty()).await.unwrap();
    let gone = watch.wait_for(|v| v.withheld.is_empty() && v.instances.is_empty());
    tokio::time::timeout(SECOND * 10, gone)
        .await
        .unwrap()
        .unwrap();
    assert!(memory.instances("web").is_empty());
}

#[tokio::test]
async fn checks_end_with_the_registration() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let memory = hurried().build().unwrap();
    let tcp = Health::Tcp {
        interval: INTERVAL,
        timeout: SECOND,
    };
    memory.register(checked("a", port, tcp)).unwrap();
    listener.accept().await.unwrap();
    memory.deregister("a");
    // At most one check was under way.
    let mut more = 0;
    while tokio::time::timeout(INTERVAL * 10, listener.accept())
        .await
        .is_ok()
    {
        more += 1;
    }
    assert!(more <= 1, "{more} checks after the end");
}

#[tokio::test]
async fn what_cannot_be_checked_is_refused_with_the_cause() {
    let registry = Registry::new(Memory::new());
    for (health, cause) in [
        (Health::grpc(""), "no gRPC checks"),
        (Health::http("http://10.0.0.1/health"), "requests a path"),
        (Health::http("/a b"), "requests a path"),
        (Health::Ttl(Duration::ZERO), "TTL"),
        (
            Health::Tcp {
                interval: SECOND / 2,
                timeout: SECOND,
            },
            "interval",
        ),
        (
            Health::Tcp {
                interval: SECOND,
                timeout: SECOND * 61,
            },
            "timeout",
        ),
    ] {
        let error = registry
            .register(Announcement::new(instance("a")).health(health))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(cause), "{error}");
    }
}

#[tokio::test]
async fn all_checks_together_keep_to_their_rate_and_number() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = MemoryLimits::new().checks_per_sec(50).checks_at_once(4);
    let memory = Memory::builder()
        .limits(limits.least_check_interval(INTERVAL))
        .build()
        .unwrap();
    for id in 0..100 {
        // 100 instances would be 5,000 checks a second.
        let tcp = Health::Tcp {
            interval: INTERVAL,
            timeout: SECOND,
        };
        memory
            .register(checked(&id.to_string(), port, tcp))
            .unwrap();
    }
    let start = std::time::Instant::now();
    let (mut made, mut busiest) = (0_u32, 0);
    let mut second = [0_u32; 3];
    while let Ok(accepted) = tokio::time::timeout(SECOND, listener.accept()).await {
        drop(accepted);
        let at = start.elapsed().as_secs() as usize;
        let Some(count) = second.get_mut(at) else {
            break;
        };
        *count += 1;
        made += 1;
        busiest = busiest.max(*count);
    }
    assert!(busiest <= 55, "{second:?} checks a second");
    assert!(made >= 75, "{second:?}: all are checked by and by");
}

#[tokio::test]
async fn checks_that_hang_occupy_no_more_than_their_places() {
    // It accepts, and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = MemoryLimits::new().checks_per_sec(10_000).checks_at_once(3);
    let memory = Memory::builder()
        .limits(limits.least_check_interval(INTERVAL))
        .build()
        .unwrap();
    for id in 0..20 {
        let http = Health::Http {
            target: "/".to_owned(),
            interval: INTERVAL,
            timeout: SECOND * 60,
        };
        memory
            .register(checked(&id.to_string(), port, http))
            .unwrap();
    }
    let mut held = Vec::new();
    while let Ok(accepted) = tokio::time::timeout(INTERVAL * 20, listener.accept()).await {
        held.push(accepted.unwrap());
    }
    assert_eq!(held.len(), 3);
    // One that ends makes room for the next.
    held.pop();
    tokio::time::timeout(SECOND * 10, listener.accept())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_name_is_checked_at_the_addresses_that_may_be_checked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let memory = hurried().build().unwrap();
    let tcp = Health::Tcp {
        interval: INTERVAL,
        timeout: SECOND,
    };
    let address = format!("localhost:{port}").parse().unwrap();
    let named = Announcement::new(Instance::new("web", "a", address)).health(tcp.clone());
    memory.register(named).unwrap();
    tokio::time::timeout(SECOND * 10, listener.accept())
        .await
        .unwrap()
        .unwrap();
    for never in ["169.254.169.254:80", "[fe80::1]:80"] {
        let instance = Instance::new("web", "b", never.parse().unwrap());
        let announcement = Announcement::new(instance).health(tcp.clone());
        let error = memory.register(announcement).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{never}");
    }
}

/// A name may lead anywhere, also to what only this machine can reach.
#[tokio::test]
async fn a_name_that_leads_elsewhere_is_never_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    // As a client on another machine registers it over HTTP.
    let check = json!({
        "interval": 20, "timeout": 1_000, "maxFailures": 1, "registrant": "192.0.2.1"
    });
    let state = json!({"index": 1, "instances": [{
        "serviceId": "a", "serviceName": "web", "host": "localhost", "port": port, "healthCheck": check
    }]});
    std::fs::write(&path, state.to_string()).unwrap();
    let memory = Memory::load(&path).unwrap();
    let mut watch = registry(&memory).watch("web").unwrap();
    watch.wait_for(|v| !v.withheld.is_empty()).await.unwrap();
    let connected = tokio::time::timeout(INTERVAL * 10, listener.accept()).await;
    assert!(connected.is_err(), "the check fails without a connection");
    drop((memory, watch));

    let limits = MemoryLimits::new().check_network("127.0.0.0/8".parse().unwrap());
    let memory = Memory::builder().limits(limits).persist(&path);
    let memory = memory.build().unwrap();
    tokio::time::timeout(SECOND * 10, listener.accept())
        .await
        .expect("the network is allowed")
        .unwrap();
    drop(memory);
}
