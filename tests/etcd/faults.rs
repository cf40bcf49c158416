//! Servers that are killed, wiped, paused or cut off.

use tower_roster::registry::{RegistrationEvent, ViewState};

use super::{
    support::{Etcd, FaultProxy, Mode, eventually, need_etcd, ports::Port},
    *,
};

/// ED11.
#[tokio::test]
async fn a_server_that_was_killed_is_watched_again_with_all_it_knew() {
    need_etcd!();
    let mut etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    for round in 0..3 {
        etcd.kill9();
        let view = until(&mut watch, "the loss", |v| v.state == ViewState::Stale).await;
        assert_eq!(ids(&view), ["a"], "round {round}");
        etcd.restart().await;
        let start = std::time::Instant::now();
        etcd.put("/services/web/b", &record("web", "b")).await;
        until(&mut watch, "a change", |v| ids(v) == ["a", "b"]).await;
        assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
        etcd.delete("/services/web/b").await;
        until(&mut watch, "another", |v| {
            ids(v) == ["a"] && v.state == ViewState::Live
        })
        .await;
    }
    registration.deregister().await.unwrap();
}

/// ED6, ED13, ER2: the store counts from 1 again, and has neither keys nor leases.
#[tokio::test]
async fn a_wiped_store_empties_no_set_and_gets_its_instances_again() {
    need_etcd!();
    let mut etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("web").unwrap();
    let one = registry.register(instance("web", "a")).unwrap();
    let two = registry.register(instance("web", "b")).unwrap();
    until(&mut watch, "both", |v| ids(v) == ["a", "b"]).await;
    for _ in 0..20 {
        etcd.put("/other", "x").await;
    }
    etcd.kill9();
    let seen = tokio::spawn({
        let mut watch = watch.clone();
        async move {
            let mut least = usize::MAX;
            while let Ok(view) = watch.changed().await {
                least = least.min(view.instances.len());
                assert!(least > 0, "{view:?}");
            }
        }
    });
    etcd.restart_wiped().await;
    let start = std::time::Instant::now();
    until(&mut watch, "both again, confirmed", |v| {
        ids(v) == ["a", "b"]
            && v.state == ViewState::Live
            && v.instances.iter().all(|i| i.generation < 10)
    })
    .await;
    assert!(start.elapsed() < SECOND * 3, "{:?}", start.elapsed());
    assert!(!seen.is_finished(), "the set was never empty");
    seen.abort();
    // The watch is on the new store.
    etcd.put("/services/web/c", &record("web", "c")).await;
    until(&mut watch, "a change", |v| ids(v) == ["a", "b", "c"]).await;
    one.deregister().await.unwrap();
    two.deregister().await.unwrap();
}

/// ER8: a server that was paused for longer than the TTL drops the lease when it goes on.
#[tokio::test]
async fn a_paused_server_that_dropped_the_lease_gets_it_again() {
    need_etcd!();
    let mut etcd = Etcd::server().await;
    let registry = connect(&format!("{}?ttl=2s&timeout=1s", etcd.url()));
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(brief(instance("web", "a"))).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.registered().await;
    etcd.pause();
    tokio::time::sleep(SECOND * 5).await;
    etcd.resume();
    let start = std::time::Instant::now();
    eventually(LONG, "the key is there, and stays", || async {
        let first = etcd.get("/services/web/a").await;
        tokio::time::sleep(SECOND * 3).await;
        first.is_some() && first == etcd.get("/services/web/a").await
    })
    .await;
    assert!(start.elapsed() < SECOND * 10, "{:?}", start.elapsed());
    until(&mut watch, "the instance", |v| {
        ids(v) == ["a"] && v.state == ViewState::Live
    })
    .await;
    registration.deregister().await.unwrap();
}

/// ER3, ER10: a member that hangs does not cost the lease, because the next one gets the keepalive.
#[tokio::test]
async fn a_server_that_hangs_costs_no_registration() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let mut proxy = FaultProxy::tcp(etcd.addr()).await;
    let url = format!("etcd://{},{}?ttl=6s", proxy.addr(), etcd.addr());
    let registry = connect(&url);
    let six = Announcement::new(instance("web", "a")).health(Health::Ttl(SECOND * 6));
    let mut registration = registry.register(six).unwrap();
    registration.registered().await;
    let before = etcd.get("/services/web/a").await.unwrap();
    proxy.set(Mode::Blackhole).await;
    tokio::time::sleep(SECOND * 9).await;
    let now = etcd.get("/services/web/a").await.unwrap();
    assert_eq!(now, before, "the same key under the same lease");
    let recovered = async {
        while !matches!(
            registration.event().await,
            Some(RegistrationEvent::Recovered)
        ) {}
    };
    tokio::time::timeout(LONG, recovered).await.unwrap();
    registration.deregister().await.unwrap();
}

/// ED10.
#[tokio::test]
async fn the_next_member_answers_when_one_fails() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    let dead = Port::lease();
    let url = format!("etcd://{},{}", dead.addr(), etcd.addr());
    let registry = connect(&url);
    let mut watch = registry.watch("next").unwrap();
    let registration = registry.register(instance("next", "a")).unwrap();
    let start = std::time::Instant::now();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
    registration.deregister().await.unwrap();
}

/// ED12: a connection that swallows everything is noticed by the silence, and nothing is lost.
#[tokio::test]
async fn a_dead_connection_is_noticed_and_what_was_missed_is_found() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let mut proxy = FaultProxy::tcp(etcd.addr()).await;
    let registry = connect(&format!("etcd://{}?timeout=1s", proxy.addr()));
    let mut watch = registry.watch("web").unwrap();
    etcd.put("/services/web/a", &record("web", "a")).await;
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let start = std::time::Instant::now();
    proxy.set(Mode::Blackhole).await;
    etcd.put("/services/web/b", &record("web", "b")).await;
    let view = until(&mut watch, "the loss", |v| v.state == ViewState::Stale).await;
    assert!(view.error.is_some(), "by a failure, not by age");
    assert!(start.elapsed() < SECOND * 25, "{:?}", start.elapsed());
    proxy.set(Mode::Pass).await;
    let healed = std::time::Instant::now();
    until(&mut watch, "what was missed", |v| {
        ids(v) == ["a", "b"] && v.state == ViewState::Live
    })
    .await;
    assert!(healed.elapsed() < SECOND * 2, "{:?}", healed.elapsed());
}

#[tokio::test]
async fn connections_that_break_again_and_again_lose_nothing() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let mut proxy = FaultProxy::tcp(etcd.addr()).await;
    let registry = connect(&format!("etcd://{}", proxy.addr()));
    let mut watch = registry.watch("web").unwrap();
    for round in 0..10_u16 {
        let value = registry::record::encode(&instance("web", "a").weight(round), 1);
        etcd.put("/services/web/a", std::str::from_utf8(&value).unwrap())
            .await;
        proxy.set(Mode::Reset).await;
        proxy.set(Mode::Pass).await;
        until(&mut watch, "the change", |v| {
            v.instances
                .iter()
                .any(|i| i.weight.get() == u32::from(round))
        })
        .await;
    }
}
