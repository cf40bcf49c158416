//! Checks that the registry makes itself, against listeners on loopback.

use std::num::NonZeroU32;

use tokio::net::TcpListener;
use tower_roster::{error::ErrorKind, instance::Status, registry::Registry};

use super::*;

pub(super) const INTERVAL: Duration = Duration::from_millis(20);

pub(super) fn checked(id: &str, port: u16, health: Health) -> Announcement {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Announcement::new(Instance::new("web", id, address)).health(health)
}

#[tokio::test]
async fn an_instance_that_stays_away_is_removed_after_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let memory = Memory::builder()
        .max_failures(NonZeroU32::MIN)
        .build()
        .unwrap();
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
    let memory = Memory::new();
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
    ] {
        let error = registry
            .register(Announcement::new(instance("a")).health(health))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(cause), "{error}");
    }
}
