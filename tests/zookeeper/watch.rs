//! Watches on a server that works.

use tower_roster::registry::{Announcement, Health, Query, ViewState};

use super::{
    support::{Zookeeper, eventually, need_zookeeper},
    *,
};

/// ZD3.
#[tokio::test]
async fn an_instance_arrives_as_it_was_registered_and_each_change_after_it() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let registry = connect(&server.url());
    let mut watch = registry.watch("rich").unwrap();
    let view = until(&mut watch, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Missing);

    let rich = instance("rich", "a")
        .weight(3)
        .zone("eu-1a")
        .tag("v2")
        .meta("k", "v");
    let mut registration = registry.register(rich.clone()).unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let mut seen = (**view.instances.iter().next().unwrap()).clone();
    assert!(seen.generation > 0);
    seen.generation = 0;
    assert_eq!(seen, rich, "it arrives as it was announced");
    registration.registered().await;

    registration.update(rich.clone().weight(0)).await.unwrap();
    until(&mut watch, "the update", |v| has_weight(v, 0)).await;
    let mut tagged = registry.watch(Query::new("rich").tag("v2")).unwrap();
    let mut other = registry.watch(Query::new("rich").tag("v3")).unwrap();
    until(&mut tagged, "the tag", |v| ids(v) == ["a"]).await;
    let view = until(&mut other, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Empty, "it exists, without that tag");

    registration.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.state == ViewState::Empty).await;
    // An operator removes the service itself.
    server.client().await.delete("/services/rich").await;
    until(&mut watch, "its node", |v| v.state == ViewState::Missing).await;
}

/// ZD3: also below a prefix of which nothing exists.
#[tokio::test]
async fn a_service_may_be_watched_before_any_of_its_nodes_exists() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let url = format!("zk://{}/not/yet?prefix=/there", server.addr());
    let registry = connect(&url);
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;
    let client = server.client().await;
    for round in 0..3 {
        client.put("/not/yet/there/web/a", record("web", "a")).await;
        until(&mut watch, "the first", |v| ids(v) == ["a"]).await;
        for path in ["/not/yet/there/web/a", "/not/yet/there/web"] {
            client.delete(path).await;
        }
        until(&mut watch, "the end", |v| v.state == ViewState::Missing).await;
        println!("round {round}");
    }
}

#[tokio::test]
async fn names_may_be_odd_and_what_cannot_be_held_is_refused_at_once() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let registry = connect(&server.url());
    let long = "x".repeat(300);
    for name in [
        "a b",
        "a/b",
        "?#%2F",
        "服务-ä",
        "🦀",
        "\u{fffd}",
        "..",
        &long,
    ] {
        let mut watch = registry.watch(name).unwrap();
        let registration = registry.register(instance(name, name)).unwrap();
        until(&mut watch, name, |v| ids(v) == [name]).await;
        registration.deregister().await.unwrap();
    }
    let endless = "x".repeat(5_000);
    for error in [
        registry.watch(endless.as_str()).unwrap_err(),
        registry.register(instance("web", &endless)).unwrap_err(),
        registry
            .register(instance("web", "a").meta("k", "v".repeat(70_000)))
            .unwrap_err(),
        registry
            .register(Announcement::new(instance("web", "a")).health(Health::tcp()))
            .unwrap_err(),
        registry
            .register(Announcement::new(instance("web", "a")).health(Health::Unchecked))
            .unwrap_err(),
    ] {
        assert_eq!(
            error.kind(),
            tower_roster::error::ErrorKind::Invalid,
            "{error}"
        );
        assert!(error.to_string().starts_with("zookeeper 127"), "{error}");
    }
}

/// ZD7: zero ports, wrong types, no UTF-8, a megabyte, and one id twice.
#[tokio::test]
async fn a_bad_record_costs_itself_only() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    for (name, data) in [
        ("a", record("bad", "a")),
        ("b", b"{".to_vec()),
        ("c", Vec::new()),
        ("d", br#"{"address":"h","port":0}"#.to_vec()),
        ("e", vec![b'x'; 1_048_000]),
        ("f", vec![0xff, 0xfe]),
        ("g", br#"{"address":["h"],"port":"x"}"#.to_vec()),
        ("h", record("bad", "a")),
    ] {
        client.put(&format!("/services/bad/{name}"), data).await;
    }
    let registry = connect(&server.url());
    let mut watch = registry.watch("bad").unwrap();
    let view = until(&mut watch, "the good one", |v| ids(v) == ["a"]).await;
    let rejected: Vec<_> = view.rejected.iter().map(|r| &*r.record).collect();
    assert_eq!(rejected, ["b", "c", "d", "e", "f", "g", "a"]);
    assert_eq!(view.state, ViewState::Live);
    // Also as a change.
    client.delete("/services/bad/h").await;
    client.put("/services/bad/b", record("bad", "b")).await;
    client.put("/services/bad/a", "}").await;
    let view = until(&mut watch, "the change", |v| ids(v) == ["b"]).await;
    assert_eq!(&*view.rejected[0].record, "a");
    // Without a good one, the set is held: the records may be of another format.
    client.put("/services/bad/b", "}").await;
    until(&mut watch, "the doubt", |v| v.error.is_some()).await;
    assert_eq!(ids(&watch.view()), ["b"]);
}

/// ZD4.
#[tokio::test]
async fn a_change_of_data_alone_is_seen() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let registry = connect(&server.url());
    let mut watch = registry.watch("data").unwrap();
    for round in 0..5 {
        client
            .put("/services/data/a", weighted("data", "a", round))
            .await;
        until(&mut watch, "the data", |v| has_weight(v, round.into())).await;
    }
}

/// ZD5, ZD25: the names of the list stay the same.
#[tokio::test]
async fn a_node_that_was_replaced_in_one_transaction_is_read_again_and_keeps_its_identity() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    client.put("/services/twin/a", record("twin", "a")).await;
    let registry = connect(&server.url());
    let mut watch = registry.watch("twin").unwrap();
    let view = until(&mut watch, "the first", |v| ids(v) == ["a"]).await;
    let first = view.instances.iter().next().unwrap().clone();
    let never_empty = never_empty(&watch);
    for round in 2..6 {
        client
            .recreate("/services/twin/a", weighted("twin", "a", round))
            .await;
        let view = until(&mut watch, "the next", |v| has_weight(v, round.into())).await;
        let next = view.instances.iter().next().unwrap();
        assert_eq!(next.key, first.key);
        assert!(next.generation > first.generation);
    }
    assert!(!never_empty.is_finished());
    never_empty.abort();
}

/// ZD16: as Curator does after each lost connection.
#[tokio::test]
async fn a_node_that_is_deleted_and_created_again_is_never_missing() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    client.put("/services/blink/a", record("blink", "a")).await;
    let registry = connect(&server.url());
    let mut watch = registry.watch("blink").unwrap();
    until(&mut watch, "the first", |v| ids(v) == ["a"]).await;
    let never_empty = never_empty(&watch);
    for round in 2..6 {
        client.delete("/services/blink/a").await;
        client
            .put("/services/blink/a", weighted("blink", "a", round))
            .await;
        until(&mut watch, "the next", |v| has_weight(v, round.into())).await;
    }
    assert!(!never_empty.is_finished());
    never_empty.abort();
    // What stays away is gone soon, and what came with it is there at once.
    client.put("/services/blink/b", record("blink", "b")).await;
    client.delete("/services/blink/a").await;
    until(&mut watch, "the new one", |v| ids(v).contains(&"b")).await;
    let start = std::time::Instant::now();
    until(&mut watch, "the old one's end", |v| ids(v) == ["b"]).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

/// ZD17: a request for all of them would be longer than a server accepts.
#[tokio::test]
async fn ten_thousand_long_names_are_read_and_one_change_costs_one_node() {
    need_zookeeper!();
    let server = Zookeeper::server().await;
    let client = server.client().await;
    let tail = "x".repeat(300);
    let nodes = (0..10_000).map(|n| {
        let id = format!("id-{n:05}-{tail}");
        let record = record("many", &id);
        (id, record)
    });
    client.put_all("/services/many", nodes).await;
    let registry = connect(&server.url());
    let start = std::time::Instant::now();
    let mut watch = registry.watch("many").unwrap();
    until(&mut watch, "all", |v| v.instances.len() == 10_000).await;
    println!("first set of 10,000 after {:?}", start.elapsed());
    eventually(LONG, "every node is watched", || async {
        server.watches() == 10_001.0
    })
    .await;
    let received = || server.metric("zk_packets_received");
    let before = received();
    let path = format!("/services/many/id-00000-{tail}");
    client
        .put(&path, weighted("many", &format!("id-00000-{tail}"), 9))
        .await;
    until(&mut watch, "the change", |v| has_weight(v, 9)).await;
    let requests = received() - before;
    assert!(requests < 15.0, "one change costs {requests} requests");
    let start = std::time::Instant::now();
    client.delete(&path).await;
    until(&mut watch, "one less", |v| v.instances.len() == 9_999).await;
    println!("one removal of 10,000 after {:?}", start.elapsed());
}

/// ZD2.
#[tokio::test]
async fn a_burst_of_a_thousand_changes_converges() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let client = server.client().await;
    let registry = connect(&server.url());
    let mut watch = registry.watch("burst").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;
    for n in 0..500_u16 {
        client
            .put("/services/burst/a", weighted("burst", "a", n))
            .await;
        client
            .put(
                &format!("/services/burst/b-{n}"),
                record("burst", &format!("b-{n}")),
            )
            .await;
    }
    until(&mut watch, "the last of each", |v| {
        v.instances.len() == 501 && has_weight(v, 499)
    })
    .await;
}

/// ZD22, and no watch of a server stays behind.
#[tokio::test]
async fn all_of_a_registry_share_one_session_and_leave_nothing_behind() {
    need_zookeeper!();
    let server = Zookeeper::server().await;
    let client = server.client().await;
    let registry = connect(&server.url());
    let mut watches: Vec<_> = (0..200)
        .map(|n| registry.watch(format!("web-{n}")).unwrap())
        .collect();
    for watch in &mut watches {
        until(watch, "an answer", |v| v.state == ViewState::Missing).await;
    }
    for n in 0..200 {
        let service = format!("web-{n}");
        client
            .put(&format!("/services/{service}/a"), record(&service, "a"))
            .await;
    }
    for watch in &mut watches {
        until(watch, "the instance", |v| ids(v) == ["a"]).await;
    }
    let registration = registry.register(instance("own", "a")).unwrap();
    registration.registered().await;
    assert_eq!(server.sessions().len(), 2, "one, and that of the test");
    registration.deregister().await.unwrap();
    // The two of a service share its watches.
    let tagged = registry.watch(Query::new("web-0").tag("none")).unwrap();
    watches.truncate(1);
    drop(tagged);
    eventually(LONG, "only the watches of one service are left", || async {
        match server.watches() {
            2.0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    client
        .put("/services/web-0/a", weighted("web-0", "a", 7))
        .await;
    until(&mut watches[0], "a change", |v| has_weight(v, 7)).await;
    drop((watches, registry));
    eventually(LONG, "the session has ended", || async {
        server.sessions().len() == 1
    })
    .await;
    assert!(server.watches() == 0.0);
}
