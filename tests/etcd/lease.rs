//! Registrations on a server that works.

use tower_roster::{
    error::ErrorKind,
    registry::{Registration, RegistrationEvent, ViewState},
};

use super::{
    support::{Etcd, FaultProxy, Rule, eventually, need_etcd},
    *,
};

async fn event(
    registration: &mut Registration,
    what: &str,
    mut condition: impl FnMut(&RegistrationEvent) -> bool,
) -> RegistrationEvent {
    let found = async {
        loop {
            let event = registration
                .event()
                .await
                .expect("the registration goes on");
            if condition(&event) {
                return event;
            }
        }
    };
    let found = tokio::time::timeout(LONG, found).await;
    found.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// ER1, ER9.
#[tokio::test]
async fn an_update_keeps_the_lease_and_a_key_always_has_one() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let mut registration = registry.register(instance("web", "a")).unwrap();
    registration.registered().await;
    let before = etcd.get("/services/web/a").await.unwrap();
    assert!(before["lease"].is_string(), "{before}");
    for weight in [2, 3] {
        let update = instance("web", "a").weight(weight);
        registration.update(update).await.unwrap();
        let now = etcd.get("/services/web/a").await.unwrap();
        assert_eq!(now["lease"], before["lease"]);
        assert_ne!(now["mod_revision"], before["mod_revision"]);
    }
    assert_eq!(etcd.leases().await.len(), 1);
    registration.deregister().await.unwrap();
    assert!(etcd.keys().await.is_empty());
    assert!(etcd.leases().await.is_empty(), "the lease is revoked");
}

/// The put reached etcd, and its answer was lost: the key is ours, and is not written again.
#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_found_again() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let proxy = FaultProxy::http(etcd.addr()).await;
    proxy.add(Rule::path("/v3/kv/txn").once().truncate(0));
    let registry = connect(&format!("etcd://{}", proxy.addr()));
    let mut registration = registry.register(instance("web", "a")).unwrap();
    event(&mut registration, "the loss", |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    event(&mut registration, "the registration", |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    let key = etcd.get("/services/web/a").await.unwrap();
    assert_eq!(key["version"], "1", "written once");
    assert_eq!(etcd.leases().await.len(), 1);
    registration.deregister().await.unwrap();
    assert!(etcd.keys().await.is_empty() && etcd.leases().await.is_empty());
}

#[tokio::test]
async fn a_dropped_handle_leaves_nothing_behind_and_others_stay() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let first = registry.register(instance("web", "a")).unwrap();
    let second = registry.register(instance("web", "b")).unwrap();
    let other = registry.register(instance("api", "a")).unwrap();
    for registration in [&first, &second, &other] {
        registration.registered().await;
    }
    drop(first);
    eventually(LONG, "one key and one lease less", || async {
        etcd.keys().await == ["/services/api/a", "/services/web/b"]
            && etcd.leases().await.len() == 2
    })
    .await;
    second.deregister().await.unwrap();
    other.deregister().await.unwrap();
    assert!(etcd.keys().await.is_empty());
}

/// ER2.
#[tokio::test]
async fn a_revoked_lease_is_replaced() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let registry = connect(&format!("{}?ttl=2s", etcd.url()));
    let mut registration = registry.register(brief(instance("web", "a"))).unwrap();
    registration.registered().await;
    let before = etcd.get("/services/web/a").await.unwrap();
    etcd.revoke(before["lease"].as_str().unwrap()).await;
    event(&mut registration, "again", |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    let now = etcd.get("/services/web/a").await.unwrap();
    assert_ne!(now["lease"], before["lease"]);
    // And it stays: the new lease is kept alive.
    tokio::time::sleep(SECOND * 5).await;
    let later = etcd.get("/services/web/a").await.unwrap();
    assert_eq!(later["lease"], now["lease"]);
}

/// ER5.
#[tokio::test]
async fn a_deleted_key_is_back_within_two_seconds() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    let registry = connect(&etcd.url());
    let registration = registry.register(instance("deleted", "a")).unwrap();
    registration.registered().await;
    let lease = etcd.get("/services/deleted/a").await.unwrap()["lease"].clone();
    etcd.delete("/services/deleted/a").await;
    let back = eventually(SECOND * 2, "the key is back", || {
        etcd.get("/services/deleted/a")
    })
    .await;
    assert_eq!(back["lease"], lease, "with the same lease");
}

/// ER6, ER11.
#[tokio::test]
async fn a_successor_takes_the_key_of_its_predecessor_over() {
    need_etcd!();
    let etcd = Etcd::server().await;
    // What a process leaves that was killed: a key, and a lease that nobody renews.
    let ghost = etcd.grant(4).await;
    etcd.put_leased("/services/web/a", &record("web", "a"), &ghost)
        .await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the ghost", |v| ids(v) == ["a"]).await;
    let successor = instance("web", "a").weight(7);
    let registration = registry.register(successor).unwrap();
    let taken = tokio::time::timeout(SECOND * 2, registration.registered()).await;
    taken.expect("not after the ghost's lease has ended");
    until(&mut watch, "the successor", |v| {
        v.instances.iter().any(|i| i.weight.get() == 7)
    })
    .await;
    // The end of the ghost's lease does not remove the key.
    eventually(LONG, "the ghost ends", || async {
        !etcd.leases().await.contains(&ghost)
    })
    .await;
    assert_eq!(ids(&watch.view()), ["a"]);
    assert!(etcd.get("/services/web/a").await.is_some());
    registration.deregister().await.unwrap();
}

/// ER7: and the one that lost its key says so, and does not take it back.
#[tokio::test]
async fn deregistering_leaves_the_key_of_a_successor() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let (one, two) = (connect(&etcd.url()), connect(&etcd.url()));
    let mut first = one.register(instance("web", "a")).unwrap();
    first.registered().await;
    let second = two.register(instance("web", "a").weight(2)).unwrap();
    second.registered().await;
    let failed = event(&mut first, "it was taken over", |e| {
        matches!(e, RegistrationEvent::HeartbeatFailed { .. })
    })
    .await;
    let RegistrationEvent::HeartbeatFailed { error, .. } = failed else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("another process"), "{error}");
    let held = etcd.get("/services/web/a").await.unwrap();
    tokio::time::sleep(SECOND * 3).await;
    assert_eq!(etcd.get("/services/web/a").await.unwrap(), held, "no turns");
    first.deregister().await.unwrap();
    assert_eq!(etcd.get("/services/web/a").await.unwrap(), held);
    assert_eq!(etcd.leases().await.len(), 1, "its own lease is revoked");
    second.deregister().await.unwrap();
    assert!(etcd.keys().await.is_empty());
}

/// When the successor goes, the first one registers again.
#[tokio::test]
async fn a_registration_that_was_taken_over_returns_after_its_successor() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let (one, two) = (connect(&etcd.url()), connect(&etcd.url()));
    let first = one.register(instance("web", "a")).unwrap();
    first.registered().await;
    let second = two.register(instance("web", "a").weight(2)).unwrap();
    second.registered().await;
    second.deregister().await.unwrap();
    let back = eventually(LONG, "the key is back", || etcd.value("/services/web/a")).await;
    assert!(back.contains("\"weight\":1"), "{back}");
}

#[tokio::test]
async fn a_key_of_another_owner_is_a_conflict() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    for (id, value) in [
        ("a", record("owner", "b")),
        ("b", "10.0.0.7:8080".to_owned()),
        ("c", "?".to_owned()),
    ] {
        let key = format!("/services/owner/{id}");
        etcd.put(&key, &value).await;
        let registry = connect(&etcd.url());
        let mut registration = registry.register(instance("owner", id)).unwrap();
        let failed = event(&mut registration, "a conflict", |e| {
            matches!(e, RegistrationEvent::RegisterFailed { .. })
        })
        .await;
        let RegistrationEvent::RegisterFailed { error, .. } = failed else {
            unreachable!()
        };
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains(&key), "{error}");
        registration.deregister().await.unwrap();
        assert_eq!(etcd.value(&key).await, Some(value), "it is untouched");
    }
}

/// A process that was killed disappears after its TTL.
#[tokio::test]
async fn without_its_process_a_key_ends_after_the_ttl() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("web").unwrap();
    let mut killed = tokio::runtime::Builder::new_multi_thread();
    let runtime = killed.worker_threads(1).enable_all().build().unwrap();
    let url = format!("{}?ttl=2s", etcd.url());
    let registering = runtime.spawn(async move {
        let registration = connect(&url).register(brief(instance("web", "a"))).unwrap();
        registration.registered().await;
        registration
    });
    let registration = registering.await.unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    // Its task ends without a word, as that of a killed process.
    runtime.shutdown_background();
    let start = std::time::Instant::now();
    until(&mut watch, "its end", |v| v.state == ViewState::Missing).await;
    assert!(start.elapsed() < SECOND * 6, "{:?}", start.elapsed());
    drop(registration);
}
