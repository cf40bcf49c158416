//! Three servers, of which some are lost.

use tower_roster::registry::ViewState;

use super::{
    support::{ZookeeperEnsemble, need_zookeeper},
    *,
};

#[tokio::test]
async fn the_loss_of_the_leader_costs_nothing() {
    need_zookeeper!();
    let mut ensemble = ZookeeperEnsemble::start(3).await;
    let registry = connect(&ensemble.url());
    let mut watch = registry.watch("web").unwrap();
    let first = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let client = ensemble.client().await;
    let before = client.stat("/services/web/a").await.unwrap();
    let leader = ensemble.leader();
    ensemble.0[leader].kill9();
    let start = std::time::Instant::now();
    let second = registry.register(instance("web", "b")).unwrap();
    until(&mut watch, "a change after the election", |v| {
        assert!(!v.instances.is_empty(), "the set is never empty");
        ids(v) == ["a", "b"]
    })
    .await;
    println!("a change after the election: {:?}", start.elapsed());
    assert!(start.elapsed() < SECOND * 6, "{:?}", start.elapsed());
    let now = client.stat("/services/web/a").await.unwrap();
    assert_eq!(now.czxid, before.czxid);
    ensemble.0[leader].restart().await;
    first.deregister().await.unwrap();
    until(&mut watch, "the end", |v| ids(v) == ["b"]).await;
    second.deregister().await.unwrap();
}

/// ZR5, ZR12: a timeout of 4 s, and a quorum that is lost for 9 s.
#[tokio::test]
async fn a_registration_outlives_a_lost_quorum_and_the_watch_notices_it() {
    need_zookeeper!();
    let mut ensemble = ZookeeperEnsemble::start(3).await;
    let registry = connect(&ensemble.url());
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let before = ensemble.client().await.stat("/services/web/a").await;
    let start = std::time::Instant::now();
    for lost in 1..3 {
        ensemble.0[lost].kill9();
    }
    let view = until(&mut watch, "the loss", |v| v.state == ViewState::Stale).await;
    assert!(start.elapsed() < SECOND * 8, "{:?}", start.elapsed());
    assert_eq!(ids(&view), ["a"]);
    tokio::time::sleep((SECOND * 9).saturating_sub(start.elapsed())).await;
    for lost in 1..3 {
        ensemble.0[lost].restart_nowait();
    }
    for lost in 1..3 {
        ensemble.0[lost].wait_ready().await;
    }
    let healed = std::time::Instant::now();
    until(&mut watch, "the quorum", |v| v.state == ViewState::Live).await;
    assert!(healed.elapsed() < SECOND * 4, "{:?}", healed.elapsed());
    tokio::time::sleep(SECOND * 5).await;
    let now = ensemble.client().await.stat("/services/web/a").await;
    let owner =
        |stat: Option<zookeeper_client::Stat>| stat.map(|stat| (stat.czxid, stat.ephemeral_owner));
    assert_eq!(owner(now), owner(before), "it was never gone");
    assert_eq!(ids(&watch.view()), ["a"]);
    registration.deregister().await.unwrap();
}
