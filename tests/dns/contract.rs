//! What `tests/contract` asks of every registry, for the half that DNS has: it takes no registrations, so
//! the records change at the server, a real BIND.

use std::time::{Duration, Instant};

use tower_roster::registry::{self, ViewState, Watch};

use crate::{
    ids,
    support::{bind::Bind, need},
    until, until_ids, watch,
};

const SECOND: Duration = Duration::from_secs(1);

fn url(bind: &Bind) -> String {
    format!(
        "{}/{{service}}.svc.test:80?poll=1s&family=4",
        bind.url("dns")
    )
}

#[tokio::test]
async fn a_service_is_missing_until_it_has_an_instance_and_after_its_last() {
    need!(bind);
    let bind = Bind::start("").await;
    let mut watch = watch(&url(&bind));
    let view = until(&mut watch, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Missing);
    assert!(view.error.is_none() && view.confirmed.is_some());
    bind.update(&["add web.svc.test. 1 A 127.0.0.1"]).await;
    let view = until_ids(&mut watch, &["127.0.0.1:80"]).await;
    assert_eq!(view.state, ViewState::Live);
    bind.update(&["delete web.svc.test. A"]).await;
    until(&mut watch, "its end", |v| v.state == ViewState::Missing).await;
}

#[tokio::test]
async fn instances_come_and_go_one_by_one() {
    need!(bind);
    let bind = Bind::start("").await;
    let mut watch = watch(&url(&bind));
    let mut expected: Vec<String> = Vec::new();
    for last in 1..=4 {
        bind.update(&[&format!("add web.svc.test. 1 A 127.0.0.{last}")])
            .await;
        expected.push(format!("127.0.0.{last}:80"));
        until(&mut watch, "one more", |v| ids(v) == expected).await;
    }
    for last in 1..=3 {
        bind.update(&[&format!("delete web.svc.test. A 127.0.0.{last}")])
            .await;
        expected.remove(0);
        until(&mut watch, "one less", |v| ids(v) == expected).await;
    }
}

#[tokio::test]
async fn a_new_weight_is_seen_and_keeps_the_identity() {
    need!(bind);
    let bind = Bind::start("_http._tcp.web 1 SRV 1 5 80 a\na 1 A 127.0.0.1").await;
    let url = format!("{}/_http._tcp.web.svc.test?poll=1s", bind.url("dns+srv"));
    let mut watch = watch(&url);
    let weighs = |weight| {
        move |view: &registry::View| view.instances.iter().any(|i| i.weight.get() == weight)
    };
    let view = until(&mut watch, "the weight", weighs(5)).await;
    let key = view.instances.iter().next().unwrap().key.clone();
    bind.update(&[
        "delete _http._tcp.web.svc.test. SRV",
        "add _http._tcp.web.svc.test. 1 SRV 1 9 80 a.svc.test.",
    ])
    .await;
    let view = until(&mut watch, "the new weight", weighs(9)).await;
    assert_eq!(view.instances.len(), 1);
    assert_eq!(view.instances.iter().next().unwrap().key, key);
}

#[tokio::test]
async fn two_services_are_apart_and_a_later_watch_sees_the_same() {
    need!(bind);
    let bind = Bind::start("web 1 A 127.0.0.1\napi 1 A 127.0.0.2").await;
    let registry = registry::connect(&url(&bind)).unwrap();
    let [mut web, mut api] = ["web", "api"].map(|name| registry.watch(name).unwrap());
    until_ids(&mut web, &["127.0.0.1:80"]).await;
    until_ids(&mut api, &["127.0.0.2:80"]).await;
    bind.update(&["delete web.svc.test. A"]).await;
    until(&mut web, "the end of one", |v| v.instances.is_empty()).await;
    assert_eq!(ids(&api.view()), ["127.0.0.2:80"]);
    let mut later = registry::connect(&url(&bind))
        .unwrap()
        .watch("api")
        .unwrap();
    until_ids(&mut later, &["127.0.0.2:80"]).await;
}

#[tokio::test]
async fn two_hundred_watches_see_their_changes() {
    need!(bind);
    let names: Vec<_> = (0..200).map(|n| format!("web-{n}")).collect();
    let records: Vec<_> = names
        .iter()
        .map(|name| format!("{name} 1 A 127.0.0.1"))
        .collect();
    let bind = Bind::start(&records.join("\n")).await;
    let registry = registry::connect(&url(&bind)).unwrap();
    let watches = names
        .iter()
        .map(|name| registry.watch(name.as_str()).unwrap());
    let mut watches: Vec<Watch> = watches.collect();
    for watch in &mut watches {
        until_ids(watch, &["127.0.0.1:80"]).await;
    }
    let changes: Vec<_> = names
        .iter()
        .step_by(20)
        .map(|name| format!("add {name}.svc.test. 1 A 127.0.0.2"))
        .collect();
    let changes: Vec<_> = changes.iter().map(String::as_str).collect();
    bind.update(&changes).await;
    let start = Instant::now();
    for watch in watches.iter_mut().step_by(20) {
        until_ids(watch, &["127.0.0.1:80", "127.0.0.2:80"]).await;
    }
    assert!(start.elapsed() < SECOND * 6, "{:?}", start.elapsed());
    for watch in &watches {
        assert_eq!(watch.view().state, ViewState::Live);
    }
}
