//! On a real server.

use std::time::{Duration, Instant};

use tower_roster::{
    Instance,
    error::ErrorKind,
    registry::{self, Query, ViewState},
};

use crate::{
    support::{bind::Bind, need},
    until, until_ids, watch,
};

const SECOND: Duration = Duration::from_secs(1);

/// The watch of `web.svc.test` at this server, with the shortest poll.
fn web(bind: &Bind) -> registry::Watch {
    watch(&format!("{}/web.svc.test:80?poll=1s", bind.url("dns")))
}

fn srv(bind: &Bind) -> registry::Watch {
    watch(&format!(
        "{}/_http._tcp.web.svc.test?poll=1s",
        bind.url("dns+srv")
    ))
}

#[tokio::test]
async fn changes_are_seen_when_the_records_expire() {
    need!(bind);
    let bind = Bind::start("web 1 A 127.0.0.2\nweb 1 A 127.0.0.1").await;
    let mut watch = web(&bind);
    until_ids(&mut watch, &["127.0.0.1:80", "127.0.0.2:80"]).await;
    let start = Instant::now();
    bind.update(&[
        "delete web.svc.test. A 127.0.0.1",
        "add web.svc.test. 1 A 127.0.0.3",
    ])
    .await;
    let view = until_ids(&mut watch, &["127.0.0.2:80", "127.0.0.3:80"]).await;
    assert_eq!(view.state, ViewState::Live);
    assert!(start.elapsed() < SECOND * 4, "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_service_replaces_its_place_in_the_name() {
    need!(bind);
    let bind = Bind::start("web 1 A 127.0.0.1\napi 1 A 127.0.0.2").await;
    let url = format!("{}/{{service}}.svc.test:80", bind.url("dns"));
    let registry = registry::connect(&url).unwrap();
    until_ids(&mut registry.watch("web").unwrap(), &["127.0.0.1:80"]).await;
    until_ids(&mut registry.watch("api").unwrap(), &["127.0.0.2:80"]).await;
    for name in ["user service", "用户", "a/b", "a..b"] {
        let error = registry.watch(name).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("no DNS name"), "{error}");
    }
    let error = registry.watch(Query::new("web").tag("v2")).unwrap_err();
    assert!(error.to_string().contains("no tags"), "{error}");
}

#[tokio::test]
async fn a_name_without_ipv4_gives_its_ipv6_addresses() {
    need!(bind);
    let bind = Bind::start("web 1 AAAA fd00::2\nboth 1 A 127.0.0.1\nboth 1 AAAA fd00::3").await;
    until_ids(&mut web(&bind), &["[fd00::2]:80"]).await;
    let both = format!("{}/both.svc.test:80", bind.url("dns"));
    until_ids(&mut watch(&both), &["127.0.0.1:80"]).await;
    until_ids(&mut watch(&format!("{both}?family=6")), &["[fd00::3]:80"]).await;
}

#[tokio::test]
async fn no_such_name_and_no_records_are_told_apart() {
    need!(bind);
    let bind = Bind::start("web 1 TXT nothing").await;
    let start = Instant::now();
    let mut watch = web(&bind);
    until(&mut watch, "the name has no addresses", |v| {
        v.state == ViewState::Empty
    })
    .await;
    assert!(start.elapsed() >= SECOND, "only after a second look");
    bind.update(&["add web.svc.test. 1 A 127.0.0.1"]).await;
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    bind.update(&["delete web.svc.test. ANY"]).await;
    let view = until(&mut watch, "no such name", |v| {
        v.state == ViewState::Missing
    })
    .await;
    assert!(view.instances.is_empty());
    assert!(view.error.is_none(), "{view:?}");
}

#[tokio::test]
async fn srv_records_have_weights_and_priorities() {
    need!(bind);
    let bind = Bind::start(
        "_http._tcp.web 1 SRV 10 5 8080 a\n_http._tcp.web 1 SRV 20 0 8081 b\n\
         a 1 A 127.0.0.1\nb 1 A 127.0.0.2",
    )
    .await;
    let mut watch = srv(&bind);
    let view = until_ids(&mut watch, &["a.svc.test:8080", "b.svc.test:8081"]).await;
    let shown = |i: &Instance| {
        let (address, weight) = (i.address.to_string(), i.weight.get());
        (address, weight, i.metadata["priority"].clone())
    };
    let found: Vec<_> = view.instances.iter().map(|i| shown(i)).collect();
    let of =
        |address: &str, weight, priority: &str| (address.to_owned(), weight, priority.to_owned());
    assert_eq!(
        found,
        [of("127.0.0.1:8080", 5, "10"), of("127.0.0.2:8081", 1, "20")]
    );
    // The target moves; the instance stays the same one.
    bind.update(&["delete a.svc.test. A", "add a.svc.test. 1 A 127.0.0.3"])
        .await;
    let moved = |view: &registry::View| {
        let a = view.instances.iter().find(|i| i.id() == "a.svc.test:8080");
        a.is_some_and(|a| a.address.to_string() == "127.0.0.3:8080")
    };
    until(&mut watch, "the address of a", moved).await;
}

#[tokio::test]
async fn a_target_without_an_address_costs_itself_only() {
    need!(bind);
    let bind = Bind::start(
        "_http._tcp.web 1 SRV 1 1 80 a\n_http._tcp.web 1 SRV 1 1 80 gone\na 1 A 127.0.0.1",
    )
    .await;
    let view = until_ids(&mut srv(&bind), &["a.svc.test:80"]).await;
    let rejected: Vec<_> = view.rejected.iter().map(|r| &*r.record).collect();
    assert_eq!(rejected, ["gone.svc.test:80"]);

    bind.update(&["delete a.svc.test. A"]).await;
    let mut watch = srv(&bind);
    let view = until(&mut watch, "an error", |view| view.error.is_some()).await;
    assert_eq!(
        view.state,
        ViewState::Pending,
        "no set is known, and none is claimed"
    );
}

#[tokio::test]
async fn a_root_target_is_an_empty_service() {
    need!(bind);
    let bind = Bind::start("_http._tcp.web 1 SRV 0 0 0 .").await;
    until(&mut srv(&bind), "an empty service", |v| {
        v.state == ViewState::Empty
    })
    .await;
}

#[tokio::test]
async fn five_hundred_addresses_are_read_over_tcp() {
    need!(bind);
    let records: Vec<_> = (0..500)
        .map(|n| format!("web 1 A 127.0.{}.{}", n / 250, n % 250 + 1))
        .collect();
    let bind = Bind::start(&records.join("\n")).await;
    let view = until(&mut web(&bind), "all of them", |v| v.instances.len() == 500).await;
    assert_eq!(view.state, ViewState::Live);
    let tcp = format!("{}/web.svc.test:80", bind.url("dns+tcp"));
    until(&mut watch(&tcp), "all of them", |v| {
        v.instances.len() == 500
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_costs_no_instance_and_is_noticed_again() {
    need!(bind);
    let mut bind = Bind::start("web 1 A 127.0.0.1").await;
    let mut watch = web(&bind);
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    bind.kill();
    let view = until(&mut watch, "an error", |view| view.error.is_some()).await;
    assert_eq!(view.state, ViewState::Stale);
    assert_eq!(view.instances.len(), 1, "the last good set stays");
    bind.write_zone("web 1 A 127.0.0.2");
    bind.run().await;
    let start = Instant::now();
    until_ids(&mut watch, &["127.0.0.2:80"]).await;
    // The question that is open at the restart takes its time limit, and the backoff follows.
    assert!(start.elapsed() < SECOND * 6, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_paused_server_costs_no_instance() {
    need!(bind);
    let bind = Bind::start("web 1 A 127.0.0.1").await;
    let url = format!("{}/web.svc.test:80?poll=1s&timeout=300ms", bind.url("dns"));
    let mut watch = watch(&url);
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    bind.pause();
    let view = until(&mut watch, "an error", |view| view.error.is_some()).await;
    let kind = view.error.as_ref().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::Timeout), "{view:?}");
    assert_eq!(view.instances.len(), 1);
    bind.resume();
    let view = until(&mut watch, "it answers again", |v| {
        v.state == ViewState::Live
    })
    .await;
    assert_eq!(view.instances.len(), 1);
}

#[tokio::test]
async fn a_broken_zone_empties_no_set() {
    need!(bind);
    let mut bind = Bind::start("web 1 A 127.0.0.1").await;
    let mut watch = web(&bind);
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    bind.write_zone("web 1 A not-an-address");
    bind.run().await;
    let failed = |view: &registry::View| {
        let error = view.error.as_ref();
        error.is_some_and(|error| error.kind() == ErrorKind::Unavailable)
    };
    let view = until(&mut watch, "SERVFAIL", failed).await;
    assert_eq!(view.instances.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_behind_empties_no_set() {
    need!(bind);
    let behind = Bind::start("other 1 A 127.0.0.9").await;
    let good = Bind::start("web 1 A 127.0.0.1").await;
    let url = format!(
        "dns://{},{}/web.svc.test:80?poll=1s",
        behind.addr(),
        good.addr()
    );
    let mut watch = watch(&url);
    let view = until_ids(&mut watch, &["127.0.0.1:80"]).await;
    assert_eq!(view.state, ViewState::Live);
}

#[tokio::test]
async fn the_next_server_answers_for_one_that_is_dead() {
    need!(bind);
    let mut first = Bind::start("web 1 A 127.0.0.1").await;
    let second = Bind::start("web 1 A 127.0.0.1\nweb 1 A 127.0.0.2").await;
    let url = format!(
        "dns://{},{}/web.svc.test:80?poll=1s&timeout=300ms",
        first.addr(),
        second.addr()
    );
    let mut watch = watch(&url);
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    first.kill();
    let view = until_ids(&mut watch, &["127.0.0.1:80", "127.0.0.2:80"]).await;
    assert!(view.error.is_none(), "{view:?}");
}

#[tokio::test]
async fn nothing_can_be_registered() {
    let registry = registry::connect("dns://127.0.0.1/web.svc.test:80").unwrap();
    let instance = Instance::new("web", "web-1", "127.0.0.1:80".parse().unwrap());
    let error = registry.register(instance).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error
            .to_string()
            .contains("nothing can be registered in DNS"),
        "{error}"
    );
}
