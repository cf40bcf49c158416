//! Users, passwords and tokens.

use tower_roster::{error::ErrorKind, registry::ViewState};

use super::{
    support::{Etcd, need_etcd},
    *,
};

fn with_user(etcd: &Etcd, user: &str) -> Registry {
    connect(&format!("etcd://{user}@{}", etcd.addr()))
}

/// ED10, ED14: tokens of 2 s, so that they end while the watch is open.
#[tokio::test]
async fn a_user_watches_and_registers_through_the_end_of_tokens() {
    need_etcd!();
    let mut etcd = Etcd::server().flag("--auth-token-ttl=2").await;
    etcd.enable_auth("ro:ot").await;
    let registry = with_user(&etcd, "root:ro%3Aot");
    let mut watch = registry.watch("web").unwrap();
    let mut registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    for weight in 2..5 {
        tokio::time::sleep(SECOND * 3).await;
        registration
            .update(instance("web", "a").weight(weight))
            .await
            .unwrap();
        until(&mut watch, "the change", |v| {
            v.instances
                .iter()
                .any(|i| i.weight.get() == u32::from(weight))
        })
        .await;
    }
    // Simple tokens do not survive a restart.
    etcd.restart().await;
    etcd.log_in("ro:ot").await;
    etcd.put("/services/web/b", &record("web", "b")).await;
    until(&mut watch, "a change after the restart", |v| {
        ids(v) == ["a", "b"] && v.state == ViewState::Live
    })
    .await;
    registration.deregister().await.unwrap();
}

/// ED14, ED15.
#[tokio::test]
async fn who_may_not_read_is_told_so_and_the_set_serves_on() {
    need_etcd!();
    let mut etcd = Etcd::server().await;
    etcd.put("/services/web/a", &record("web", "a")).await;
    etcd.enable_auth("root").await;
    for (user, why) in [
        ("", "user name is empty"),
        ("reader:wrong@", "authentication failed"),
        ("nobody:x@", "authentication failed"),
    ] {
        let registry = connect(&format!("etcd://{user}{}", etcd.addr()));
        let mut watch = registry.watch("web").unwrap();
        let view = until(&mut watch, why, |v| v.error.is_some()).await;
        let error = view.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_chain().contains(why), "{error}");
    }
    let registry = with_user(&etcd, "reader:reader");
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    // Revoked: the open watch goes on, and the next one is refused.
    etcd.permit_reader(false).await;
    etcd.restart().await;
    let view = until(&mut watch, "the refusal", |v| {
        v.error
            .as_ref()
            .is_some_and(|e| e.kind() == ErrorKind::Denied)
    })
    .await;
    assert_eq!((ids(&view), view.state), (vec!["a"], ViewState::Stale));
    etcd.log_in("root").await;
    etcd.put("/services/web/b", &record("web", "b")).await;
    etcd.permit_reader(true).await;
    let start = std::time::Instant::now();
    until(&mut watch, "the set after the heal", |v| {
        ids(v) == ["a", "b"]
    })
    .await;
    assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_user_for_a_cluster_without_users_is_ignored_until_it_has_some() {
    need_etcd!();
    let mut etcd = Etcd::server().await;
    let registry = with_user(&etcd, "root:root");
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    etcd.enable_auth("root").await;
    let mut late = registry.watch("late").unwrap();
    until(&mut late, "an answer", |v| v.state == ViewState::Missing).await;
    registration.deregister().await.unwrap();
    assert!(etcd.keys().await.is_empty());
}
