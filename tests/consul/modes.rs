//! Consistency modes, and datacenters.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::HeaderValue;
use serde_json::json;
use tower_roster::{
    error::ErrorKind,
    registry::{
        ViewState, WatchSettings,
        consul::{Consistency, ConsulConfig},
    },
};

use crate::{
    kit::*,
    support::{Agent, Cluster, FaultProxy, Mode, Rule, eventually, need_consul},
};

/// W35. Each mode sends its parameter, one at most, and sees changes.
#[tokio::test]
async fn each_mode_asks_as_it_should_and_sees_changes() {
    need_consul!();
    let agent = Agent::shared().await;
    let modes = [
        (Consistency::Default, ""),
        (Consistency::Stale(Duration::from_secs(60)), "stale"),
        (Consistency::Consistent, "consistent"),
        (Consistency::Cached, "cached"),
    ];
    join_all(modes.map(async |(mode, parameter)| {
        let name = format!("mode-{parameter}");
        agent.register_with_ttl(&name, &name, 80, "passing").await;
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let options = short().consistency(mode);
        let mut watch = registry(&proxy.url(), options).watch(&*name).unwrap();
        see(&mut watch, parameter, |view| view.state == ViewState::Live).await;
        let history = History::of(&watch);
        agent.fail_check(&format!("check:{name}")).await;
        see(&mut watch, parameter, |view| view.state == ViewState::Empty).await;
        agent.pass_check(&format!("check:{name}")).await;
        see(&mut watch, parameter, |view| view.state == ViewState::Live).await;
        eventually(SOON, "some rounds", || async {
            proxy.requests().len() >= 7
        })
        .await;
        for head in proxy.requests() {
            for other in ["stale", "consistent", "cached", "leader"] {
                let expected = (other == parameter).then_some("");
                assert_eq!(head.param(other), expected, "{}", head.target);
            }
        }
        assert_eq!(history.troubles(), [""; 0]);
    }))
    .await;
}

/// W11, W35, and the table of headers. A stale answer that is too old: the leader is asked, with an index
/// of its own, for about one wait; then a stale answer may do again. Through a header that a real
/// agent sends when it lost its leader.
#[tokio::test]
async fn a_stale_answer_that_is_too_old_is_asked_of_the_leader() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("aged-1", "aged", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let options = short().consistency(Consistency::Stale(Duration::from_secs(10)));
    let mut watch = registry(&proxy.url(), options).watch("aged").unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    let history = History::of(&watch);
    let old = |head: &crate::support::RequestHead, answer: &mut http::Response<bytes::Bytes>| {
        if head.param("stale").is_some() {
            let age = HeaderValue::from_static("10001");
            answer.headers_mut().insert("x-consul-lastcontact", age);
        }
    };
    proxy.rewrite(old);
    let asks_leader = |head: &crate::support::RequestHead| head.param("leader").is_some();
    eventually(SOON, "the leader is asked", || async {
        proxy
            .requests()
            .iter()
            .filter(|head| asks_leader(head))
            .count()
            >= 2
    })
    .await;
    let seen = proxy.requests();
    let first = seen.iter().position(asks_leader).unwrap();
    assert!(!blocks(&seen[first]), "an index is for one mode");
    assert!(
        blocks(&seen[first + 1]) && asks_leader(&seen[first + 1]),
        "it blocks as usual"
    );
    agent
        .register_service("aged-2", "aged", "127.0.0.1", 81, json!({}))
        .await;
    see(&mut watch, "changes are seen", |view| {
        view.instances.len() == 2
    })
    .await;
    let (before, from) = (proxy.requests().len(), Instant::now());
    eventually(SOON, "some rounds", || async {
        from.elapsed() > Duration::from_secs(3)
    })
    .await;
    let requests = (proxy.requests().len() - before) as f64;
    let most = 4.0 + 4.0 * from.elapsed().as_secs_f64();
    assert!(
        requests <= most,
        "{requests} requests in {:?}",
        from.elapsed()
    );
    proxy.clear();
    eventually(SOON, "stale answers do again", || async {
        let seen = proxy.requests();
        seen.len() > 4 && !seen[seen.len() - 4..].iter().any(asks_leader)
    })
    .await;
    assert_eq!(
        history.troubles(),
        [""; 0],
        "the leader answered all the time"
    );
    assert_eq!(history.smallest_set(), 1);
}

/// W17, W35; B9, B17, T33. Stale answers come from followers; without a quorum they grow old: kept,
/// and told. Default answers fail, cached ones go on.
#[tokio::test]
async fn modes_differ_when_the_leader_is_lost() {
    need_consul!();
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let follower = cluster.followers().await[0];
    cluster[follower]
        .catalog_instance("n-1", "web-1", "web", "127.0.0.1", 80)
        .await;
    let proxy = FaultProxy::http(cluster[follower].http_addr()).await;
    let answers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&answers);
    proxy.add(
        Rule::when(|head| head.param("stale").is_some()).rewrite(move |_, answer| {
            let by = answer.headers().get("x-consul-effective-consistency");
            seen.lock()
                .unwrap()
                .push(by.and_then(|by| by.to_str().ok()).map(str::to_owned));
        }),
    );
    let age = Duration::from_secs(2);
    let watch = |mode| {
        let options = short().consistency(mode);
        registry(&proxy.url(), options).watch("web").unwrap()
    };
    let mut stale = watch(Consistency::Stale(age));
    let mut patient = watch(Consistency::Stale(Duration::from_secs(3_600)));
    let mut default = watch(Consistency::Default);
    let mut cached = watch(Consistency::Cached);
    for watch in [&mut stale, &mut patient, &mut default, &mut cached] {
        see(watch, "listed", |view| ids(view) == ["web-1"]).await;
    }
    let histories = [&stale, &patient, &default, &cached].map(History::of);
    assert_eq!(answers.lock().unwrap()[0].as_deref(), Some("stale"));

    let other = 3 - leader - follower;
    cluster[leader].kill9();
    cluster[other].kill9();
    let view = see(&mut default, "no leader", |view| view.error.is_some()).await;
    assert_eq!(view.state, ViewState::Stale);
    let view = see(&mut stale, "too old", |view| view.error.is_some()).await;
    assert_eq!(view.state, ViewState::Stale);
    assert_eq!(
        view.error.as_ref().unwrap().kind(),
        ErrorKind::Unavailable,
        "{}",
        trouble(&view)
    );
    for history in &histories {
        assert_eq!(history.smallest_set(), 1, "the set is kept");
    }
    // Looked at while there is no leader: a fresh confirmation of an old answer.
    eventually(SOON, "stale answers go on", || {
        let view = patient.view();
        async move { view.state == ViewState::Live && view.age() < Some(Duration::from_secs(3)) }
    })
    .await;
    assert_eq!(cached.view().state, ViewState::Live);

    cluster[leader].restart_nowait();
    cluster[other].restart_nowait();
    for n in [leader, other] {
        cluster[n].wait_ready().await;
    }
    cluster[follower]
        .catalog_instance("n-2", "web-2", "web", "127.0.0.1", 81)
        .await;
    for watch in [&mut stale, &mut patient, &mut default, &mut cached] {
        see(watch, "healed", |view| {
            view.instances.len() == 2 && view.state == ViewState::Live
        })
        .await;
    }
}

/// W36; T40. In the order of preference, each datacenter with a watch and an index of its own.
#[tokio::test]
async fn the_first_datacenter_with_instances_is_used() {
    need_consul!();
    let one = Agent::dev().await;
    let two = Agent::dev()
        .datacenter("dc2")
        .join_wan(one.wan_addr())
        .await;
    for n in 0..20 {
        two.catalog_instance("other", &format!("o-{n}"), "other", "127.0.0.1", 1)
            .await;
    }
    one.register_service("one-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    two.register_service("two-1", "web", "127.0.0.1", 81, json!({}))
        .await;
    eventually(SOON, "the datacenters see each other", || async {
        let reply = one.get("/v1/health/service/web?dc=dc2").await;
        reply.status == 200 && reply.json().as_array().is_some_and(|l| l.len() == 1)
    })
    .await;
    let proxy = FaultProxy::http(one.http_addr()).await;
    let options = long().datacenter("dc1").datacenter("dc2");
    let mut watch = registry(&proxy.url(), options).watch("web").unwrap();
    let mut second = registry(&proxy.url(), long().datacenter("dc2"))
        .watch("web")
        .unwrap();
    let view = see(&mut watch, "the first", |view| ids(view) == ["one-1"]).await;
    assert!(
        view.instances
            .iter()
            .all(|i| i.key.scope().starts_with("dc1/"))
    );
    let view = see(&mut second, "only the second", |view| {
        ids(view) == ["two-1"]
    })
    .await;
    assert!(
        view.instances
            .iter()
            .all(|i| i.key.scope().starts_with("dc2/"))
    );
    let history = History::of(&watch);

    one.deregister_service("one-1").await;
    let view = see(&mut watch, "the second", |view| ids(view) == ["two-1"]).await;
    assert_eq!(view.state, ViewState::Live);
    two.register_service("two-2", "web", "127.0.0.1", 82, json!({}))
        .await;
    see(&mut watch, "a change there", |view| {
        ids(view) == ["two-1", "two-2"]
    })
    .await;
    one.register_service("one-2", "web", "127.0.0.1", 83, json!({}))
        .await;
    see(&mut watch, "the first again", |view| ids(view) == ["one-2"]).await;
    assert!(history.smallest_set() >= 1, "never without any");
    assert_eq!(history.troubles(), [""; 0]);

    let (in_one, in_two) = (one.index("web").await, two.index("web").await);
    for head in proxy.requests().iter().filter(|head| blocks(head)) {
        let index: u64 = head.param("index").unwrap().parse().unwrap();
        let most = if head.param("dc") == Some("dc1") {
            in_one
        } else {
            in_two
        };
        assert!(
            index <= most,
            "an index is for one datacenter: {}",
            head.target
        );
    }
}

/// W36. A datacenter that nobody knows is told, and stands in the way of no other.
#[tokio::test]
async fn an_unknown_datacenter_is_an_error() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("dc-1", "dc", "127.0.0.1", 80, json!({}))
        .await;
    let mut alone = registry(&agent.url(), short().datacenter("atlantis"))
        .watch("dc")
        .unwrap();
    let view = see(&mut alone, "an error", |view| view.error.is_some()).await;
    assert_eq!((view.state, view.age()), (ViewState::Pending, None));
    assert!(
        trouble(&view).contains("No path to datacenter"),
        "{}",
        trouble(&view)
    );
    let both = short().datacenter("atlantis").datacenter("dc1");
    let mut both = registry(&agent.url(), both).watch("dc").unwrap();
    see(&mut both, "the other", |view| ids(view) == ["dc-1"]).await;
}

/// W35: the age of a stale answer is looked at when nothing changes, too.
#[tokio::test]
async fn staleness_is_seen_on_an_idle_query() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("idle-stale", "idle-stale", "127.0.0.1", 80, json!({}))
        .await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let options = short().consistency(Consistency::Stale(Duration::from_secs(10)));
    let config = ConsulConfig::new(proxy.url()).options(options);
    let mut watch = configured(config, WatchSettings::default())
        .watch("idle-stale")
        .unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    // No quorum: stale answers end their wait unchanged and grow old, the leader is not there.
    proxy.add(
        Rule::when(|head| head.param("stale").is_some()).rewrite(|_, answer| {
            let age = HeaderValue::from_static("40800");
            answer.headers_mut().insert("x-consul-lastcontact", age);
        }),
    );
    let no_leader = Rule::when(|head| head.param("leader").is_some());
    proxy.add(no_leader.respond(failure(500, "No cluster leader")));
    let view = see(&mut watch, "told", |view| view.error.is_some()).await;
    assert_eq!(
        (view.state, ids(&view)),
        (ViewState::Stale, vec!["idle-stale"])
    );
    assert!(
        trouble(&view).contains("No cluster leader"),
        "{}",
        trouble(&view)
    );
    proxy.clear();
    see(&mut watch, "healed", |view| view.state == ViewState::Live).await;
    proxy.set(Mode::Refuse).await;
    see(&mut watch, "and lost", |view| view.error.is_some()).await;
}
