//! Watches on a server that works.

use serde_json::json;
use tower_roster::registry::{Query, ViewState};

use super::{
    support::{Etcd, etcd::encode, eventually, need_etcd},
    *,
};

#[tokio::test]
async fn an_instance_arrives_as_it_was_registered_and_each_change_after_it() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    let registry = connect(&etcd.url());
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
    until(&mut watch, "the update", |v| {
        v.instances.iter().any(|i| i.weight.get() == 0)
    })
    .await;
    let mut tagged = registry.watch(Query::new("rich").tag("v2")).unwrap();
    let mut other = registry.watch(Query::new("rich").tag("v3")).unwrap();
    until(&mut tagged, "the tag", |v| ids(v) == ["a"]).await;
    let view = until(&mut other, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Empty, "it exists, without that tag");

    registration.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.state == ViewState::Missing).await;
}

/// ED2.
#[tokio::test]
async fn services_with_a_common_prefix_are_apart() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    for service in ["hook", "hook2", "hook/2"] {
        let key = format!("/services/{}/a", registry::record::encode_name(service));
        etcd.put(&key, &record(service, "a")).await;
    }
    let registry = connect(&etcd.url());
    for service in ["hook", "hook2", "hook/2"] {
        let mut watch = registry.watch(service).unwrap();
        let view = until(&mut watch, service, |v| ids(v) == ["a"]).await;
        assert!(view.rejected.is_empty(), "{:?}", view.rejected);
        assert_eq!(&*view.instances.iter().next().unwrap().service, service);
    }
}

#[tokio::test]
async fn names_may_be_odd_and_what_cannot_be_held_is_refused_at_once() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    let registry = connect(&etcd.url());
    let long = "x".repeat(300);
    for name in ["a b", "a/b", "?#%2F", "服务-ä", "..", &long] {
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
        assert!(error.to_string().starts_with("etcd http://127"), "{error}");
    }
}

#[tokio::test]
async fn a_bad_record_costs_itself_only() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    etcd.put("/services/bad/a", &record("bad", "a")).await;
    for (id, value) in [
        ("b", "{"),
        ("c", ""),
        ("d", "{\"address\":\"h\",\"port\":0}"),
    ] {
        etcd.put(&format!("/services/bad/{id}"), value).await;
    }
    etcd.put("/services/bad/e", &"x".repeat(1 << 20)).await;
    etcd.put("/services/bad/sub/a", &record("bad", "a")).await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("bad").unwrap();
    let view = until(&mut watch, "the good one", |v| ids(v) == ["a"]).await;
    let rejected: Vec<_> = view.rejected.iter().map(|r| &*r.record).collect();
    assert_eq!(rejected, ["b", "c", "d", "e", "sub/a"]);
    assert_eq!(view.state, ViewState::Live);
    // Also as a change.
    etcd.put("/services/bad/b", &record("bad", "b")).await;
    etcd.put("/services/bad/a", "}").await;
    let view = until(&mut watch, "the change", |v| ids(v) == ["b"]).await;
    assert_eq!(&*view.rejected[0].record, "a");
    // Without a good one, the set is held: the records may be of another format.
    etcd.put("/services/bad/b", "}").await;
    until(&mut watch, "the doubt", |v| v.error.is_some()).await;
    assert_eq!(ids(&watch.view()), ["b"]);
}

/// ED7.
#[tokio::test]
async fn keys_of_one_transaction_change_together() {
    need_etcd!();
    let etcd = Etcd::shared().await;
    etcd.put("/services/txn/a", &record("txn", "a")).await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("txn").unwrap();
    until(&mut watch, "the first", |v| ids(v) == ["a"]).await;
    for round in 0..20 {
        let (old, new) = match round % 2 {
            0 => ("a", ["b", "c"]),
            _ => ("b", ["a", "c"]),
        };
        let put = |id: &str| {
            let key = encode(format!("/services/txn/{id}"));
            json!({"request_put": {"key": key, "value": encode(record("txn", id))}})
        };
        let delete =
            json!({"request_delete_range": {"key": encode(format!("/services/txn/{old}"))}});
        let body = json!({"success": [delete, put(new[0]), put(new[1])]});
        etcd.post("/v3/kv/txn", body).await.ok();
        let view = watch.changed().await.unwrap();
        assert_eq!(ids(&view), new, "no set between the two");
        etcd.delete("/services/txn/c").await;
        until(&mut watch, "one", |v| v.instances.len() == 1).await;
    }
}

/// ED9, ED17.
#[tokio::test]
async fn ten_thousand_instances_are_read_in_pages_and_one_change_costs_one_key() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let ids: Vec<String> = (0..10_000).map(|n| format!("id-{n:05}")).collect();
    for chunk in ids.chunks(100) {
        let puts = chunk.iter().map(|id| {
            let key = encode(format!("/services/many/{id}"));
            json!({"request_put": {"key": key, "value": encode(record("many", id))}})
        });
        let body = json!({"success": puts.collect::<Vec<_>>()});
        etcd.post("/v3/kv/txn", body).await.ok();
    }
    let registry = connect(&etcd.url());
    let start = std::time::Instant::now();
    let mut watch = registry.watch("many").unwrap();
    until(&mut watch, "all", |v| v.instances.len() == 10_000).await;
    println!("first set of 10,000 after {:?}", start.elapsed());
    let sent = || etcd.metric("etcd_network_client_grpc_sent_bytes_total");
    eventually(LONG, "the watch is open", || async {
        etcd.metric("etcd_debugging_mvcc_watcher_total").await == 1.0
    })
    .await;
    let before = sent().await;
    etcd.delete("/services/many/id-00000").await;
    let start = std::time::Instant::now();
    until(&mut watch, "one less", |v| v.instances.len() == 9_999).await;
    println!("one change of 10,000 after {:?}", start.elapsed());
    let bytes = sent().await - before;
    assert!(bytes < 5_000.0, "one change costs {bytes} bytes");
}

/// All of it, and on one watcher: a watch is not opened anew for each change.
#[tokio::test]
async fn a_burst_of_a_thousand_changes_converges() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("burst").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;
    for n in 0..1_000_u16 {
        let value = registry::record::encode(&instance("burst", "a").weight(n), 1);
        etcd.put("/services/burst/a", std::str::from_utf8(&value).unwrap())
            .await;
    }
    until(&mut watch, "the last", |v| {
        v.instances.iter().any(|i| i.weight.get() == 999)
    })
    .await;
    let watchers = etcd.metric("etcd_debugging_mvcc_watcher_total").await;
    assert_eq!(watchers, 1.0);
    drop(watch);
    eventually(LONG, "no watcher is left", || async {
        etcd.metric("etcd_debugging_mvcc_watcher_total").await == 0.0
    })
    .await;
}

/// ED5, ED11.
#[tokio::test]
async fn a_compacted_revision_is_followed_by_a_list() {
    need_etcd!();
    let mut etcd = Etcd::server().await;
    etcd.put("/services/web/a", &record("web", "a")).await;
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the first", |v| ids(v) == ["a"]).await;
    // While nobody watches, the revision that the watch would resume at goes.
    etcd.pause();
    etcd.resume();
    for _ in 0..5 {
        etcd.put("/services/web/b", &record("web", "b")).await;
    }
    etcd.restart_nowait();
    etcd.wait_ready().await;
    etcd.delete("/services/web/a").await;
    etcd.compact().await;
    etcd.put("/services/web/c", &record("web", "c")).await;
    until(&mut watch, "the new set", |v| {
        ids(v) == ["b", "c"] && v.state == ViewState::Live
    })
    .await;
    etcd.delete("/services/web/b").await;
    until(&mut watch, "a later change", |v| ids(v) == ["c"]).await;
}

#[tokio::test]
async fn two_hundred_watches_see_a_change_and_end_with_their_handles() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let registry = connect(&etcd.url());
    let mut watches: Vec<_> = (0..200)
        .map(|n| registry.watch(format!("web-{n}")).unwrap())
        .collect();
    for watch in &mut watches {
        until(watch, "an answer", |v| v.state == ViewState::Missing).await;
    }
    for n in 0..200 {
        let service = format!("web-{n}");
        etcd.put(&format!("/services/{service}/a"), &record(&service, "a"))
            .await;
    }
    for watch in &mut watches {
        until(watch, "the instance", |v| ids(v) == ["a"]).await;
    }
    drop((watches, registry));
    eventually(LONG, "no watcher is left", || async {
        etcd.metric("etcd_debugging_mvcc_watcher_total").await == 0.0
    })
    .await;
}
