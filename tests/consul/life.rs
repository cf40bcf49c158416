//! From the first request of a watch to its last: sharing, ends, agents that change, states.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tower_roster::{
    error::ErrorKind,
    registry::{
        Query, ViewState, Watch, WatchMode as HowToAsk, WatchSettings, consul::ConsulConfig,
    },
};

use crate::{
    kit::*,
    support::{Agent, FaultProxy, Mode, RawServer, Rule, Script, eventually, need_consul},
};

async fn all_closed(proxy: &FaultProxy) {
    eventually(SOON, "no connection is open", || async {
        let open = (proxy.open(), proxy.upstream_open());
        if open == (0, 0) { Ok(()) } else { Err(open) }
    })
    .await;
}

async fn blocked(proxy: &FaultProxy, queries: usize) {
    eventually(SOON, "queries block", || async {
        let found = (proxy.count(blocks), proxy.upstream_open());
        if found.0 >= queries {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
}

/// W32; B14 (requests that outlive their watch).
#[tokio::test]
async fn equal_queries_share_one_request_until_the_last_is_dropped() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("shared-1", "shared", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let client = registry(&proxy.url(), long());
    let mut watches: Vec<Watch> = (0..5)
        .map(|_| client.clone().watch("shared").unwrap())
        .collect();
    watches.push(watches[0].clone());
    for watch in &mut watches {
        see(watch, "listed", |view| view.state == ViewState::Live).await;
    }
    blocked(&proxy, 1).await;
    assert_eq!(proxy.requests().len(), 2, "one read, one query");
    assert_eq!(
        (proxy.accepted(), proxy.open()),
        (1, 1),
        "on one connection"
    );
    // A watch that comes later is told at once, without a request.
    let mut late = client.watch("shared").unwrap();
    assert_eq!(ids(&late.changed().await.unwrap()), ["shared-1"]);
    assert_eq!(proxy.requests().len(), 2);
    // Another query is another request.
    let tagged = client.watch(Query::new("shared").tag("x")).unwrap();
    blocked(&proxy, 2).await;
    drop(tagged);
    eventually(SOON, "its connection closes", || async {
        proxy.open() == 1
    })
    .await;

    watches.drain(1..);
    drop(late);
    agent
        .register_service("shared-2", "shared", "127.0.0.1", 81, json!({}))
        .await;
    see(&mut watches[0], "the last still watches", |view| {
        view.instances.len() == 2
    })
    .await;
    drop(client);
    agent.deregister_service("shared-2").await;
    see(&mut watches[0], "without its registry too", |view| {
        view.instances.len() == 1
    })
    .await;
    watches.clear();
    all_closed(&proxy).await;
    let requests = proxy.requests().len();
    agent.deregister_service("shared-1").await;
    assert_eq!(proxy.requests().len(), requests);
}

/// W32; B14. In whatever a watch is doing: reading, blocking, backing off, failing over.
#[tokio::test]
async fn a_dropped_watch_leaves_no_connection() {
    let reading = RawServer::play([Script::new().hang()]).await;
    let blocking =
        RawServer::play([Script::respond(&listing(7, &[80])), Script::new().hang()]).await;
    let failing = RawServer::play([Script::respond(&failure(500, "no"))]).await;
    let trickling = RawServer::play([Script::new()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
        .trickle(" ".repeat(99), Duration::from_secs(1))])
    .await;
    let servers = [&reading, &blocking, &failing, &trickling];
    let registries = servers.map(|server| {
        let options = long().datacenter("dc1").datacenter("dc2");
        [
            registry(&server.url(), long()),
            registry(&server.url(), options),
        ]
    });
    let watches: Vec<_> = registries
        .iter()
        .flatten()
        .map(|registry| registry.watch("web").unwrap())
        .collect();
    for server in servers {
        eventually(SOON, "all have asked", || async {
            server.requests().len() >= 3
        })
        .await;
    }
    drop(watches);
    // The clients live on and may keep an idle connection or two; none is in use.
    for server in [&reading, &blocking, &trickling] {
        eventually(SOON, "closed", || async {
            if server.open() == 0 {
                Ok(())
            } else {
                Err(server.open())
            }
        })
        .await;
    }
    drop(registries);
    eventually(SOON, "closed", || async { failing.open() == 0 }).await;
}

/// W32; B34 (dead after cancel and re-create).
#[tokio::test]
async fn a_watch_made_again_is_alive() {
    need_consul!();
    let agent = Agent::shared().await;
    // The queries of a service without instances end whenever another service loses its last one.
    agent
        .register_service("kept", "again", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let client = registry(&proxy.url(), long());
    for n in 0..3 {
        let mut watch = client.watch("again").unwrap();
        see(&mut watch, "an answer", |view| ids(view) == ["kept"]).await;
        let id = format!("again-{n}");
        agent
            .register_service(&id, "again", "127.0.0.1", 80, json!({}))
            .await;
        see(&mut watch, "a change", |view| ids(view) == [&*id, "kept"]).await;
        // A future that is dropped loses nothing.
        let _ = tokio::time::timeout(Duration::ZERO, watch.changed()).await;
        agent.deregister_service(&id).await;
        see(&mut watch, "a change", |view| ids(view) == ["kept"]).await;
        // Between two requests the connection is idle, and kept for a while.
        eventually(SOON, "the next query blocks", || async {
            let seen = proxy.requests();
            let index = agent.index("again").await.to_string();
            seen.last().and_then(|head| head.param("index")) == Some(&*index)
        })
        .await;
        drop(watch);
        all_closed(&proxy).await;
    }
}

/// W32, W33; B15. With a linger the same query is taken up again, without a request; it ends with its
/// registry at once.
#[tokio::test]
async fn a_lingering_watch_is_taken_up_again() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("linger-1", "linger", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let settings = WatchSettings::default().linger(Duration::from_secs(600));
    let config = ConsulConfig::new(proxy.url()).options(long());
    let client = configured(config, settings);
    for _ in 0..10 {
        let mut watch = client.watch("linger").unwrap();
        see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
        blocked(&proxy, 1).await;
    }
    assert_eq!((proxy.requests().len(), proxy.accepted()), (2, 1));
    drop(client);
    all_closed(&proxy).await;
}

/// W33; B15, B42. Consul resets connections above a limit for each client: those that got none try
/// again until they get one, without more connections than watches.
#[tokio::test]
async fn a_connection_limit_is_lived_with() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    proxy.limit_connections(4);
    let client = registry(&proxy.url(), long().wait(Duration::from_millis(500)));
    let names: Vec<String> = (0..8).map(|n| format!("limit-{n}")).collect();
    for name in &names {
        agent
            .register_service(name, name, "127.0.0.1", 80, json!({}))
            .await;
    }
    let mut watches: Vec<_> = names
        .iter()
        .map(|name| client.watch(&**name).unwrap())
        .collect();
    let live = |watches: &[Watch]| {
        watches
            .iter()
            .filter(|watch| watch.view().state == ViewState::Live)
            .count()
    };
    eventually(SOON, "some have a connection, some were refused", || {
        let refused = watches
            .iter()
            .filter(|watch| watch.view().error.is_some())
            .count();
        let found = (live(&watches), refused);
        async move {
            if found.0 >= 4 && found.1 > 0 {
                Ok(())
            } else {
                Err(found)
            }
        }
    })
    .await;
    assert!(proxy.open() <= 8);
    watches.drain(..4);
    eventually(SOON, "the others have one now", || {
        let live = live(&watches);
        async move { if live == 4 { Ok(()) } else { Err(live) } }
    })
    .await;
    for name in &names {
        agent.deregister_service(name).await;
    }
}

/// W11, W34; T29. The first of two agents dies: the next is asked, from the beginning; and back again.
#[tokio::test]
async fn the_next_agent_is_asked_when_one_dies() {
    need_consul!();
    let server = Agent::server().await;
    let mut client = Agent::client_of(&server).await;
    server
        .register_service("web-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    let first = FaultProxy::http(client.http_addr()).await;
    let second = FaultProxy::http(server.http_addr()).await;
    let config = ConsulConfig::new(first.url());
    let config = config.fallback(second.url()).options(long());
    let mut watch = configured(config, WatchSettings::default())
        .watch("web")
        .unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    let history = History::of(&watch);
    blocked(&first, 1).await;
    assert_eq!(second.requests().len(), 0, "the first is preferred");
    client.kill9();
    blocked(&second, 1).await;
    see(&mut watch, "fresh again", |view| {
        view.state == ViewState::Live
    })
    .await;
    assert!(!blocks(&second.requests()[0]), "an index is for one agent");
    server
        .register_service("web-2", "web", "127.0.0.1", 81, json!({}))
        .await;
    see(&mut watch, "changes are seen", |view| {
        view.instances.len() == 2
    })
    .await;
    assert_eq!(history.smallest_set(), 1);
    for text in history.troubles() {
        assert!(text.contains(&first.url()), "who failed: {text}");
    }
    // The second goes while the first is still away: both are tried until one is there.
    drop(second);
    see(&mut watch, "both are away", |view| view.error.is_some()).await;
    client.restart().await;
    see(&mut watch, "the first is back", |view| {
        view.state == ViewState::Live
    })
    .await;
}

/// W34. An agent that answers, but nothing that could be used, is no better than a dead one.
#[tokio::test]
async fn the_next_agent_is_asked_when_one_talks_nonsense() {
    for nonsense in [
        Script::respond(&crate::support::http1::consul_reply(
            3,
            "<html>sign in</html>",
        )),
        Script::respond(&failure(500, "No known Consul servers")),
        Script::respond(&failure(429, "too many")),
    ] {
        let bad = RawServer::play([nonsense]).await;
        let good =
            RawServer::play([Script::respond(&listing(7, &[80])), Script::new().hang()]).await;
        let config = ConsulConfig::new(bad.url()).fallback(good.url());
        let mut watch = configured(config.options(long()), WatchSettings::default())
            .watch("web")
            .unwrap();
        see(&mut watch, "the good one", |view| {
            view.state == ViewState::Live
        })
        .await;
        assert!(!blocks(&good.requests()[0]));
    }
}

/// W39; B5, T30. The client is there first; then an agent that refuses, fails and is empty in turn.
#[tokio::test]
async fn a_client_may_start_before_its_registry() {
    need_consul!();
    let agent = Agent::shared().await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    proxy.set(Mode::Refuse).await;
    let mut watch = registry(&proxy.url(), long()).watch("early").unwrap();
    let view = see(&mut watch, "why there is nothing", |view| {
        view.error.is_some()
    })
    .await;
    assert_eq!((view.state, view.age()), (ViewState::Pending, None));
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Unreachable);
    proxy.add(
        Rule::any()
            .times(3)
            .respond(failure(500, "No cluster leader")),
    );
    proxy.set(Mode::Pass).await;
    let view = see(&mut watch, "why there is nothing", |view| {
        trouble(view).contains("No cluster leader")
    })
    .await;
    assert_eq!(view.state, ViewState::Pending);
    see(&mut watch, "it is known to be missing", |view| {
        view.state == ViewState::Missing
    })
    .await;
    agent
        .register_service("early-1", "early", "127.0.0.1", 80, json!({}))
        .await;
    see(&mut watch, "the first instance", |view| {
        ids(view) == ["early-1"]
    })
    .await;
}

/// The three states that many clients mix up, each in the ways to come to it.
#[tokio::test]
async fn unreachable_missing_and_empty_are_told_apart() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_with_ttl("state-1", "state", 80, "passing")
        .await;
    agent
        .register_with_ttl("state-2", "state-critical", 80, "critical")
        .await;
    let never = r#"Service.Meta.version == "none""#;
    let cases = [
        ("listed", "state", long(), vec![], ViewState::Live),
        (
            "case is nothing to Consul",
            "STATE",
            long(),
            vec![],
            ViewState::Live,
        ),
        (
            "critical",
            "state-critical",
            long(),
            vec![],
            ViewState::Empty,
        ),
        (
            "critical, passing asked",
            "state-critical",
            long().passing(),
            vec![],
            ViewState::Empty,
        ),
        ("another tag", "state", long(), vec!["v9"], ViewState::Empty),
        (
            "another tag, other case",
            "STATE",
            long(),
            vec!["v9"],
            ViewState::Empty,
        ),
        (
            "filter",
            "state",
            long().filter(never),
            vec![],
            ViewState::Empty,
        ),
        (
            "no proxy",
            "state",
            long().connect(),
            vec![],
            ViewState::Empty,
        ),
        ("unknown", "state-none", long(), vec![], ViewState::Missing),
        (
            "unknown, with tag",
            "state-none",
            long(),
            vec!["v9"],
            ViewState::Missing,
        ),
        (
            "unknown, with filter",
            "state-none",
            long().filter(never),
            vec![],
            ViewState::Missing,
        ),
        (
            "unknown, passing asked",
            "state-none",
            long().passing(),
            vec![],
            ViewState::Missing,
        ),
        (
            "unknown, through the mesh",
            "state-none",
            long().connect(),
            vec![],
            ViewState::Missing,
        ),
    ];
    join_all(cases.map(async |(case, name, options, tags, state)| {
        let query = tags
            .into_iter()
            .fold(Query::new(name), |query, tag| query.tag(tag));
        let mut watch = registry(&agent.url(), options).watch(query).unwrap();
        let view = watch.resolved().await.unwrap();
        assert_eq!(
            (view.state, trouble(&view)),
            (state, String::new()),
            "{case}"
        );
        assert_eq!(
            view.instances.len(),
            usize::from(state == ViewState::Live),
            "{case}"
        );
        assert!(view.is_fresh() && view.age().is_some(), "{case}");
    }))
    .await;
    // 500 in this version, 400 in later ones; nobody but the user can mend it.
    let mut watch = registry(&agent.url(), long().filter("Service.Meta ==="))
        .watch("state")
        .unwrap();
    let view = see(&mut watch, "refused", |view| view.error.is_some()).await;
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Refused);
    assert!(trouble(&view).contains("filter"), "{}", trouble(&view));
    assert_eq!(
        (view.state, view.age(), view.is_fresh()),
        (ViewState::Pending, None, false)
    );
}

/// Polling, for places where a long request cannot be held: no index, a request each interval.
#[tokio::test]
async fn polling_asks_without_an_index() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("poll-1", "poll", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let every = Duration::from_millis(300);
    let config = ConsulConfig::new(proxy.url()).options(long());
    let client = configured(config, WatchSettings::default().mode(HowToAsk::Poll(every)));
    let mut watch = client.watch("poll").unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    let history = History::of(&watch);
    eventually(SOON, "some polls", || async { proxy.requests().len() >= 6 }).await;
    agent
        .register_service("poll-2", "poll", "127.0.0.1", 81, json!({}))
        .await;
    see(&mut watch, "the change", |view| view.instances.len() == 2).await;
    let seen = proxy.requests();
    assert!(!seen.iter().any(blocks));
    for pair in seen.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap > every.mul_f64(0.8), "a poll after {gap:?}");
    }
    assert_eq!(history.troubles(), [""; 0]);
    assert_eq!(proxy.accepted(), 1, "one connection for all");
}

/// A copy that nobody confirmed for a while is stale, without an error; an answer makes it fresh.
#[tokio::test]
async fn silence_makes_a_copy_stale() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("silent-1", "silent", "127.0.0.1", 80, json!({}))
        .await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let settings = WatchSettings::default().stale_after(Duration::from_millis(1_500));
    let config = ConsulConfig::new(proxy.url()).options(short());
    let mut watch = configured(config, settings).watch("silent").unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    blocked(&proxy, 3).await;
    assert_eq!(
        watch.view().state,
        ViewState::Live,
        "each answer confirms it"
    );
    proxy.set(Mode::Blackhole).await;
    let from = Instant::now();
    let view = see(&mut watch, "stale", |view| view.state == ViewState::Stale).await;
    assert!(
        from.elapsed() < Duration::from_secs(6),
        "{:?}",
        from.elapsed()
    );
    assert_eq!(
        (ids(&view), trouble(&view)),
        (vec!["silent-1"], String::new())
    );
    assert!(view.age() >= Some(Duration::from_millis(1_500)));
    proxy.set(Mode::Pass).await;
    see(&mut watch, "fresh", |view| view.state == ViewState::Live).await;
}
