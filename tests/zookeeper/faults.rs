//! Servers that are killed, wiped, paused or cut off.

use tower_roster::registry::ViewState;

use super::{
    support::{FaultProxy, Mode, Zookeeper, eventually, need_zookeeper, ports::Port},
    *,
};

/// ZD8.
#[tokio::test]
async fn a_server_that_was_killed_is_watched_again_with_all_it_knew() {
    need_zookeeper!();
    let mut server = Zookeeper::server().await;
    let registry = connect(&format!("zk://{}?timeout=1s", server.addr()));
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let before = server.client().await.stat("/services/web/a").await.unwrap();
    for round in 0..2 {
        server.kill9();
        let view = until(&mut watch, "the loss", |v| v.state == ViewState::Stale).await;
        assert_eq!(ids(&view), ["a"], "round {round}");
        server.restart().await;
        let start = std::time::Instant::now();
        let client = server.client().await;
        client.put("/services/web/b", record("web", "b")).await;
        until(&mut watch, "a change", |v| ids(v) == ["a", "b"]).await;
        assert!(start.elapsed() < SECOND * 3, "{:?}", start.elapsed());
        client.delete("/services/web/b").await;
        until(&mut watch, "another", |v| {
            ids(v) == ["a"] && v.state == ViewState::Live
        })
        .await;
        let now = client.stat("/services/web/a").await.unwrap();
        assert_eq!(now.czxid, before.czxid, "the session went on");
    }
    registration.deregister().await.unwrap();
}

/// ZD15, ZD20, ZR4: the transactions count from the beginning, and there is no session.
#[tokio::test]
async fn a_wiped_server_empties_no_set_and_gets_its_instances_again() {
    need_zookeeper!();
    let mut server = Zookeeper::server().await;
    let client = server.client().await;
    for _ in 0..50 {
        client.put("/other", "x").await;
    }
    drop(client);
    let registry = connect(&server.url());
    let mut watch = registry.watch("web").unwrap();
    let one = registry.register(instance("web", "a")).unwrap();
    let two = registry.register(instance("web", "b")).unwrap();
    until(&mut watch, "both", |v| ids(v) == ["a", "b"]).await;
    let never_empty = never_empty(&watch);
    server.restart_wiped().await;
    let start = std::time::Instant::now();
    until(&mut watch, "both again, confirmed", |v| {
        ids(v) == ["a", "b"]
            && v.state == ViewState::Live
            && v.instances.iter().all(|i| i.generation < 40)
    })
    .await;
    assert!(start.elapsed() < SECOND * 4, "{:?}", start.elapsed());
    assert!(!never_empty.is_finished(), "the set was never empty");
    never_empty.abort();
    // The watch is on the new store.
    let client = server.client().await;
    client.put("/services/web/c", record("web", "c")).await;
    until(&mut watch, "a change", |v| ids(v) == ["a", "b", "c"]).await;
    one.deregister().await.unwrap();
    two.deregister().await.unwrap();
}

/// ZD11, ZD19: when it goes on, the server ends all sessions at once, that of the watch too.
#[tokio::test]
async fn a_paused_server_that_dropped_all_sessions_gets_them_again() {
    need_zookeeper!();
    let mut server = Zookeeper::server().await;
    let (reader, writer) = (connect(&server.url()), connect(&server.url()));
    let mut watch = reader.watch("web").unwrap();
    let registration = writer.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let first = watch.view().instances.iter().next().unwrap().generation;
    let never_empty = never_empty(&watch);
    server.pause();
    tokio::time::sleep(SECOND * 7).await;
    server.resume();
    let start = std::time::Instant::now();
    until(&mut watch, "the instance, of a new session", |v| {
        ids(v) == ["a"]
            && v.state == ViewState::Live
            && v.instances.iter().all(|i| i.generation != first)
    })
    .await;
    assert!(start.elapsed() < SECOND * 6, "{:?}", start.elapsed());
    assert!(!never_empty.is_finished(), "the set was never empty");
    never_empty.abort();
    registration.deregister().await.unwrap();
}

/// One of two servers hangs: the other one goes on with the session.
#[tokio::test]
async fn a_server_that_hangs_costs_no_registration() {
    need_zookeeper!();
    let server = Zookeeper::server().await;
    let mut proxy = FaultProxy::tcp(server.addr()).await;
    let url = format!("zk://{}?session_timeout=4s", proxy.addr());
    let direct = server.addr();
    let registry = connect(&url.replace('?', &format!(",{direct}?")));
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let client = server.client().await;
    let before = client.stat("/services/web/a").await.unwrap();
    proxy.set(Mode::Blackhole).await;
    for round in 2..6 {
        tokio::time::sleep(SECOND * 2).await;
        client
            .put("/services/web/b", weighted("web", "b", round))
            .await;
    }
    until(&mut watch, "the last change", |v| has_weight(v, 5)).await;
    let now = client.stat("/services/web/a").await.unwrap();
    assert_eq!(
        (now.czxid, now.ephemeral_owner),
        (before.czxid, before.ephemeral_owner),
        "the same node of the same session"
    );
    registration.deregister().await.unwrap();
}

/// ZD13: names are resolved for each connection.
#[tokio::test]
async fn the_next_server_answers_when_one_refuses() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let dead = Port::lease();
    let (dead, port) = (dead.get(), server.addr().port());
    let registry = connect(&format!("zk://localhost:{dead},localhost:{port}"));
    let mut watch = registry.watch("next").unwrap();
    let registration = registry.register(instance("next", "a")).unwrap();
    let start = std::time::Instant::now();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
    registration.deregister().await.unwrap();
}

/// A connection that swallows everything is noticed by the silence, and nothing is lost.
#[tokio::test]
async fn a_dead_connection_is_noticed_and_what_was_missed_is_found() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let mut proxy = FaultProxy::tcp(server.addr()).await;
    let registry = connect(&format!("zk://{}?session_timeout=4s", proxy.addr()));
    let mut watch = registry.watch("hole").unwrap();
    let client = server.client().await;
    client.put("/services/hole/a", record("hole", "a")).await;
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let start = std::time::Instant::now();
    proxy.set(Mode::Blackhole).await;
    client.put("/services/hole/b", record("hole", "b")).await;
    let view = until(&mut watch, "the loss", |v| v.state == ViewState::Stale).await;
    assert!(view.error.is_some(), "by a failure, not by age");
    assert!(start.elapsed() < SECOND * 8, "{:?}", start.elapsed());
    proxy.set(Mode::Pass).await;
    let healed = std::time::Instant::now();
    until(&mut watch, "what was missed", |v| {
        ids(v) == ["a", "b"] && v.state == ViewState::Live
    })
    .await;
    assert!(healed.elapsed() < SECOND * 4, "{:?}", healed.elapsed());
}

/// ZD9: changes of the list and of data, each with a connection that ends just then.
#[tokio::test]
async fn connections_that_break_again_and_again_lose_nothing() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let mut proxy = FaultProxy::tcp(server.addr()).await;
    let registry = connect(&format!("zk://{}", proxy.addr()));
    let mut watch = registry.watch("flap").unwrap();
    let registration = registry.register(instance("flap", "own")).unwrap();
    registration.registered().await;
    let client = server.client().await;
    let owner = client.stat("/services/flap/own").await.unwrap().czxid;
    for round in 1..10_u16 {
        client
            .put("/services/flap/a", weighted("flap", "a", round * 100))
            .await;
        proxy.set(Mode::Reset).await;
        client
            .put(
                &format!("/services/flap/b-{round}"),
                record("flap", &format!("b-{round}")),
            )
            .await;
        proxy.set(Mode::Pass).await;
        until(&mut watch, "the change", |v| {
            has_weight(v, u32::from(round) * 100) && v.instances.len() == 2 + usize::from(round)
        })
        .await;
    }
    let now = client.stat("/services/flap/own").await.unwrap().czxid;
    assert_eq!(
        now, owner,
        "cuts that are shorter than the timeout keep the node"
    );
    registration.deregister().await.unwrap();
}

/// ZR6.
#[tokio::test]
async fn an_outage_longer_than_every_timeout_ends_with_the_registration() {
    need_zookeeper!();
    let mut server = Zookeeper::server().await;
    let registry = connect(&format!("{}&timeout=500ms", server.url()));
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    server.kill9();
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(ids(&watch.view()), ["a"]);
    server.restart_wiped().await;
    let start = std::time::Instant::now();
    let client = server.client().await;
    eventually(LONG, "the node", || client.stat("/services/web/a")).await;
    assert!(start.elapsed() < SECOND * 3, "{:?}", start.elapsed());
    registration.deregister().await.unwrap();
}

/// ZR7: other registrations keep the session, and so would the node.
#[tokio::test]
async fn a_registration_that_ended_during_an_outage_stays_gone() {
    need_zookeeper!();
    let server = Zookeeper::server().await;
    let mut proxy = FaultProxy::tcp(server.addr()).await;
    let url = format!("zk://{}?session_timeout=10s&timeout=500ms", proxy.addr());
    let registry = connect(&url);
    let first = registry.register(instance("web", "a")).unwrap();
    let second = registry.register(instance("web", "b")).unwrap();
    first.registered().await;
    second.registered().await;
    let client = server.client().await;
    let other = client.stat("/services/web/b").await.unwrap();
    proxy.set(Mode::Refuse).await;
    proxy.disconnect().await;
    let error = first.deregister().await.expect_err("no server answers");
    assert!(error.is_unreachable(), "{error}");
    assert!(client.stat("/services/web/a").await.is_some());
    proxy.set(Mode::Pass).await;
    eventually(LONG, "the node goes", || async {
        client.stat("/services/web/a").await.is_none()
    })
    .await;
    let now = client.stat("/services/web/b").await.unwrap();
    assert_eq!(
        now.ephemeral_owner, other.ephemeral_owner,
        "the session lives"
    );
    // And one that is registered again meanwhile stays.
    second.deregister().await.unwrap();
}

/// ZR8.
#[tokio::test]
async fn an_update_during_an_outage_is_what_is_registered_after_it() {
    need_zookeeper!();
    let mut server = Zookeeper::server().await;
    let registry = connect(&format!("{}&timeout=500ms", server.url()));
    let mut registration = registry.register(instance("web", "a")).unwrap();
    registration.registered().await;
    server.kill9();
    let update = registration.update(instance("web", "a").weight(9)).await;
    assert!(update.unwrap_err().is_unreachable());
    server.restart_wiped().await;
    let client = server.client().await;
    eventually(LONG, "the newest record", || async {
        let data = client.data("/services/web/a").await?;
        let data = String::from_utf8(data).unwrap();
        data.contains("\"weight\":9").then_some(())
    })
    .await;
    registration.deregister().await.unwrap();
}
