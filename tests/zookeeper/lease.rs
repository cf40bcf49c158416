//! Registrations on a server that works.

use tower_roster::{error::ErrorKind, registry::ViewState};
use zookeeper_client::{Acls, CreateMode};

use super::{
    support::{Zookeeper, eventually, need_zookeeper},
    *,
};

/// ZR1, ZR14.
#[tokio::test]
async fn an_instance_is_an_ephemeral_node_and_its_parents_stay() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let registry = connect(&format!("zk://{}/deep/er?prefix=/x", server.addr()));
    let mut registration = registry.register(instance("web", "a/b")).unwrap();
    registration.registered().await;
    let path = "/deep/er/x/web/a%2Fb";
    let node = client.stat(path).await.unwrap();
    assert_ne!(node.ephemeral_owner, 0);
    // An update keeps the node: it never misses.
    registration
        .update(instance("web", "a/b").weight(5))
        .await
        .unwrap();
    let updated = client.stat(path).await.unwrap();
    assert_eq!(updated.czxid, node.czxid);
    assert_eq!(updated.ephemeral_owner, node.ephemeral_owner);
    assert_ne!(updated.mzxid, node.mzxid);
    registration.deregister().await.unwrap();
    assert!(client.stat(path).await.is_none());
    for parent in ["/deep", "/deep/er", "/deep/er/x", "/deep/er/x/web"] {
        let node = client.stat(parent).await.unwrap();
        // A container has the smallest number there.
        assert_eq!(node.ephemeral_owner, 0, "{parent} is persistent");
    }
}

#[tokio::test]
async fn a_dropped_handle_leaves_nothing_behind_and_others_stay() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let registry = connect(&server.url());
    let first = registry.register(instance("drop", "a")).unwrap();
    let second = registry.register(instance("drop", "b")).unwrap();
    for registration in [&first, &second] {
        registration.registered().await;
    }
    drop(first);
    eventually(LONG, "one node less", || async {
        client.children("/services/drop").await == ["b"]
    })
    .await;
    second.deregister().await.unwrap();
    assert!(client.children("/services/drop").await.is_empty());
}

/// ZR4, ZR11.
#[tokio::test]
async fn a_deleted_node_is_back_within_a_second() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let registry = connect(&server.url());
    let registration = registry.register(instance("deleted", "a")).unwrap();
    registration.registered().await;
    for _ in 0..3 {
        // The watch of the node follows its registration.
        tokio::time::sleep(SECOND).await;
        client.delete("/services/deleted/a").await;
        eventually(SECOND * 2, "the node is back", || async {
            client.stat("/services/deleted/a").await
        })
        .await;
    }
    registration.deregister().await.unwrap();
}

/// ZR3, ZR10: what a process leaves that was killed is a node, and a session that nobody renews.
#[tokio::test]
async fn a_successor_takes_the_node_of_its_predecessor_over() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let ghost = server.client().await;
    ghost
        .put_ephemeral("/services/ghost/a", record("ghost", "a"))
        .await;
    let before = client.stat("/services/ghost/a").await.unwrap();
    let registry = connect(&server.url());
    let mut watch = registry.watch("ghost").unwrap();
    until(&mut watch, "the ghost", |v| ids(v) == ["a"]).await;
    let never_empty = never_empty(&watch);
    let registration = registry.register(instance("ghost", "a").weight(7)).unwrap();
    let taken = tokio::time::timeout(SECOND * 2, registration.registered()).await;
    taken.expect("not after the ghost's session has ended");
    until(&mut watch, "the successor", |v| has_weight(v, 7)).await;
    // The end of the ghost's session does not remove the node.
    drop(ghost);
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(ids(&watch.view()), ["a"]);
    let now = client.stat("/services/ghost/a").await.unwrap();
    assert_ne!(now.ephemeral_owner, before.ephemeral_owner);
    assert!(!never_empty.is_finished());
    never_empty.abort();
    registration.deregister().await.unwrap();
}

/// ZR13: and the one that lost its node says so, and does not take it back.
#[tokio::test]
async fn deregistering_leaves_the_node_of_a_successor() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let (one, two) = (connect(&server.url()), connect(&server.url()));
    let mut first = one.register(instance("two", "a")).unwrap();
    first.registered().await;
    let second = two.register(instance("two", "a").weight(2)).unwrap();
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
    let held = client.stat("/services/two/a").await.unwrap();
    tokio::time::sleep(SECOND * 2).await;
    let now = client.stat("/services/two/a").await.unwrap();
    assert_eq!((now.czxid, now.mzxid), (held.czxid, held.mzxid), "no turns");
    first.deregister().await.unwrap();
    assert!(client.stat("/services/two/a").await.is_some());
    second.deregister().await.unwrap();
    assert!(client.stat("/services/two/a").await.is_none());
}

/// When the successor goes, the first one registers again.
#[tokio::test]
async fn a_registration_that_was_taken_over_returns_after_its_successor() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let (one, two) = (connect(&server.url()), connect(&server.url()));
    let first = one.register(instance("return", "a")).unwrap();
    first.registered().await;
    let second = two.register(instance("return", "a").weight(2)).unwrap();
    second.registered().await;
    second.deregister().await.unwrap();
    let back = eventually(LONG, "the node is back", || {
        client.data("/services/return/a")
    })
    .await;
    let back = String::from_utf8(back).unwrap();
    assert!(back.contains("\"weight\":1"), "{back}");
}

/// ZR10.
#[tokio::test]
async fn a_node_of_another_owner_is_a_conflict() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    for (id, data, mode) in [
        ("a", record("owner", "b"), CreateMode::Ephemeral),
        ("b", b"10.0.0.7:8080".to_vec(), CreateMode::Ephemeral),
        ("c", b"?".to_vec(), CreateMode::Ephemeral),
        // Somebody wrote it to stay.
        ("d", record("owner", "d"), CreateMode::Persistent),
    ] {
        let path = format!("/services/owner/{id}");
        client.create(&path, &data, mode, Acls::anyone_all()).await;
        let registry = connect(&server.url());
        let mut registration = registry.register(instance("owner", id)).unwrap();
        let failed = event(&mut registration, "a conflict", |e| {
            matches!(e, RegistrationEvent::RegisterFailed { .. })
        })
        .await;
        let RegistrationEvent::RegisterFailed { error, .. } = failed else {
            unreachable!()
        };
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(&path), "{error}");
        registration.deregister().await.unwrap();
        assert_eq!(client.data(&path).await, Some(data), "it is untouched");
    }
    // An instance cannot be below an ephemeral node.
    client.put_ephemeral("/services/leaf", "x").await;
    let registry = connect(&server.url());
    let mut registration = registry.register(instance("leaf", "a")).unwrap();
    let failed = event(&mut registration, "a conflict", |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    let RegistrationEvent::RegisterFailed { error, .. } = failed else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("ephemeral"), "{error}");
}

/// A process that was killed disappears after the timeout of its session.
#[tokio::test]
async fn without_its_process_a_node_ends_with_the_session() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let registry = connect(&server.url());
    let mut watch = registry.watch("killed").unwrap();
    let mut killed = tokio::runtime::Builder::new_multi_thread();
    let runtime = killed.worker_threads(1).enable_all().build().unwrap();
    let url = server.url();
    let registering = runtime.spawn(async move {
        let registration = connect(&url).register(instance("killed", "a")).unwrap();
        registration.registered().await;
        registration
    });
    let registration = registering.await.unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    // Its task ends without a word, as that of a killed process.
    runtime.shutdown_background();
    let start = std::time::Instant::now();
    until(&mut watch, "its end", |v| v.state == ViewState::Empty).await;
    assert!(start.elapsed() < SECOND * 6, "{:?}", start.elapsed());
    drop(registration);
}
