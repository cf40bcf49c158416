//! Three servers, of which some are lost.

use tower_roster::registry::ViewState;

use super::{
    support::{EtcdCluster, need_etcd},
    *,
};

#[tokio::test]
async fn the_loss_of_the_leader_costs_nothing() {
    need_etcd!();
    let mut cluster = EtcdCluster::start(3).await;
    let registry = connect(&cluster.url());
    let mut watch = registry.watch("web").unwrap();
    let first = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let leader = cluster.leader().await;
    cluster.0[leader].kill9();
    let second = registry.register(instance("web", "b")).unwrap();
    let view = until(&mut watch, "a change after the election", |v| {
        assert!(!v.instances.is_empty(), "the set is never empty");
        ids(v) == ["a", "b"]
    })
    .await;
    assert!(view.error.is_none(), "{:?}", view.error);
    cluster.0[leader].restart().await;
    first.deregister().await.unwrap();
    until(&mut watch, "the end", |v| ids(v) == ["b"]).await;
    second.deregister().await.unwrap();
}

/// ED3, ER4: TTL 2 s, and a quorum that is lost for 6 s.
#[tokio::test]
async fn a_registration_outlives_a_lost_quorum_and_the_watch_notices_it() {
    need_etcd!();
    let mut cluster = EtcdCluster::start(3).await;
    let registry = connect(&format!("{}?ttl=2s&timeout=2s", cluster.url()));
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(brief(instance("web", "a"))).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.registered().await;
    let before = cluster.0[0].get("/services/web/a").await.unwrap();
    let start = std::time::Instant::now();
    for lost in 1..3 {
        cluster.0[lost].kill9();
    }
    let view = until(&mut watch, "the loss", |v| v.state == ViewState::Stale).await;
    assert!(start.elapsed() < SECOND * 12, "{:?}", start.elapsed());
    assert_eq!(ids(&view), ["a"]);
    tokio::time::sleep((SECOND * 6).saturating_sub(start.elapsed())).await;
    for lost in 1..3 {
        cluster.0[lost].restart_nowait();
    }
    for lost in 1..3 {
        cluster.0[lost].wait_ready().await;
    }
    let healed = std::time::Instant::now();
    until(&mut watch, "the quorum", |v| v.state == ViewState::Live).await;
    assert!(healed.elapsed() < SECOND * 3, "{:?}", healed.elapsed());
    tokio::time::sleep(SECOND * 4).await;
    let now = cluster.0[0].get("/services/web/a").await.unwrap();
    assert_eq!(
        now["create_revision"], before["create_revision"],
        "it was never gone"
    );
    assert_eq!(ids(&watch.view()), ["a"]);
    registration.deregister().await.unwrap();
}

/// ED8.
#[tokio::test]
async fn a_minority_gives_a_first_set_and_says_that_it_is_stale() {
    need_etcd!();
    let mut cluster = EtcdCluster::start(3).await;
    cluster.0[0]
        .put("/services/web/a", &record("web", "a"))
        .await;
    let of_follower = cluster.0[0].get("/services/web/a").await;
    assert!(of_follower.is_some());
    for lost in 1..3 {
        cluster.0[lost].kill9();
    }
    let registry = connect(&format!("etcd://{}?timeout=1s", cluster.0[0].addr()));
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "a set", |v| ids(v) == ["a"]).await;
    assert_eq!(view.state, ViewState::Stale);
    assert!(view.error.is_some() && view.confirmed.is_none());
    for lost in 1..3 {
        cluster.0[lost].restart_nowait();
    }
    until(&mut watch, "the confirmation", |v| {
        v.state == ViewState::Live
    })
    .await;
}
