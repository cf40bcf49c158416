//! The loop of blocking queries: which index is sent when.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::HeaderValue;
use serde_json::json;
use tower_roster::{
    error::ErrorKind,
    registry::{Query, ViewState},
};

use crate::{
    kit::*,
    support::{
        Agent, FaultProxy, RawServer, Rule, Script, eventually,
        http1::{self, consul_reply},
        need_consul,
    },
};

/// W1, W3, W7, W8, W9, W24; B1 (the index never advanced), B19 (check changes missed).
#[tokio::test]
async fn asks_once_and_then_for_what_is_newer() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_with_ttl("newer-1", "newer", 80, "passing")
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), long()).watch("newer").unwrap();
    see(&mut watch, "it is listed", |view| ids(view) == ["newer-1"]).await;
    eventually(SOON, "a query blocks", || async {
        proxy.requests().len() == 2
    })
    .await;

    let seen = proxy.requests();
    assert_eq!(seen[0].path(), "/v1/health/service/newer");
    assert_eq!(
        (seen[0].param("index"), seen[0].param("wait")),
        (None, None)
    );
    let index = agent.index("newer").await.to_string();
    assert_eq!(seen[1].param("index"), Some(&*index));
    assert_eq!(seen[1].param("wait"), Some("120000ms"));

    agent.fail_check("check:newer-1").await;
    let view = see(&mut watch, "a failed check is seen", |view| {
        view.instances.is_empty()
    })
    .await;
    assert_eq!((view.state, view.withheld.len()), (ViewState::Empty, 1));
    agent.pass_check("check:newer-1").await;
    see(&mut watch, "it passes again", |view| {
        view.instances.len() == 1
    })
    .await;
    eventually(SOON, "the next query blocks", || async {
        proxy.requests().len() >= 4
    })
    .await;
    let indexes = proxy.requests()[1..]
        .iter()
        .map(|head| head.param("index").and_then(|n| n.parse::<u64>().ok()))
        .collect::<Vec<_>>();
    assert!(
        indexes.is_sorted_by(|a, b| a.is_some() && a < b),
        "each query asks for what is newer than the answer before: {indexes:?}"
    );
}

/// W2; T17. The names as Consul itself knows them, and as they travel.
#[tokio::test]
async fn any_name_travels_as_one_segment() {
    need_consul!();
    let agent = Agent::shared().await;
    let cases = [
        ("with space", "with%20space"),
        ("a/b", "a%2Fb"),
        ("what?now#here", "what%3Fnow%23here"),
        ("50%41 & more=x", "50%2541%20%26%20more%3Dx"),
        ("服务·用户", "%E6%9C%8D%E5%8A%A1%C2%B7%E7%94%A8%E6%88%B7"),
    ];
    join_all(cases.iter().enumerate().map(async |(n, (name, travels))| {
        let id = format!("named-{n}");
        agent
            .register_service(&id, name, "127.0.0.1", 80, json!({ "Tags": ["a&b c"] }))
            .await;
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let options = long().filter(r#""a&b c" in Service.Tags"#);
        let query = Query::new(*name).tag("a&b c");
        let mut watch = registry(&proxy.url(), options).watch(query).unwrap();
        see(&mut watch, name, |view| ids(view) == [&*id]).await;
        let path = proxy.requests()[0].path().to_owned();
        assert_eq!(path, format!("/v1/health/service/{travels}"));
        agent.deregister_service(&id).await;
        see(&mut watch, name, |view| view.state == ViewState::Missing).await;
    }))
    .await;
    let error = registry(&agent.url(), long()).watch("  ").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "no name, no watch");
    // The agent would tidy such a path up and redirect.
    let error = registry(&agent.url(), long())
        .watch("../../agent/self")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// W3, W9, W13; T11, B13 (the client's deadline below the server's wait), B24 (a wait below one
/// second became none).
#[tokio::test]
async fn an_idle_watch_asks_once_each_wait() {
    need_consul!();
    let agent = Agent::shared().await;
    let waits = [300, 1_000, 2_000].map(Duration::from_millis);
    join_all(waits.map(async |wait| {
        let name = format!("idle-{}", wait.as_millis());
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let mut watch = registry(&proxy.url(), long().wait(wait))
            .watch(&*name)
            .unwrap();
        see(&mut watch, "it is listed", |view| {
            view.state == ViewState::Live
        })
        .await;
        let history = History::of(&watch);
        eventually(SOON, "three waits pass", || async {
            proxy.requests().len() >= 5
        })
        .await;
        let seen = proxy.requests();
        assert_eq!(seen.iter().position(blocks), Some(1));
        assert!(
            seen[1..].iter().all(blocks),
            "no wait ends in an error or a doubt"
        );
        let index = seen[1].param("index");
        assert!(seen[1..].iter().all(|head| head.param("index") == index));
        for pair in seen[1..].windows(2) {
            let round = pair[1].at - pair[0].at;
            // The proxy's clock starts later than the agent's by what a request takes.
            assert!(
                round + Duration::from_millis(50) >= wait,
                "a round of {round:?}"
            );
        }
        assert_eq!(
            history.views().len(),
            1,
            "nothing happened: {:?}",
            history.troubles()
        );
        assert!(
            watch.view().age() < Some(wait * 4),
            "each answer confirms the copy"
        );
    }))
    .await;
}

/// W13: an answer may come later than the wait, because servers hold requests while they elect.
#[tokio::test]
async fn an_answer_may_come_seconds_after_its_wait() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("late-1", "late", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let hold = Duration::from_millis(2_500);
    proxy.add(Rule::when(blocks).once().after(hold).pass());
    let wait = Duration::from_millis(200);
    let mut watch = registry(&proxy.url(), long().wait(wait))
        .watch("late")
        .unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    let history = History::of(&watch);
    eventually(SOON, "the late answer came", || async {
        proxy.requests().len() >= 4
    })
    .await;
    let seen = proxy.requests();
    assert!(seen[2].at - seen[1].at >= hold);
    assert_eq!(history.troubles(), [""; 0]);
    assert!(seen[1..].iter().all(blocks), "nothing was read anew");
}

/// W9, W10, W17, W18, W39; B2, B3 (deaf after an agent restart), B5 (ended for good), T3.
///
/// The agent loses its state, so its index starts again far below the one that was known, and its
/// first answer is an empty list.
#[tokio::test]
async fn an_agent_that_restarts_with_nothing_is_followed_at_once() {
    need_consul!();
    let mut agent = Agent::dev().await;
    for n in 0..40 {
        agent
            .catalog_instance("other", &format!("o-{n}"), "other", "127.0.0.1", 1)
            .await;
    }
    agent
        .register_service("web-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    let mut watch = registry(&agent.url(), long()).watch("web").unwrap();
    see(&mut watch, "it is listed", |view| ids(view) == ["web-1"]).await;
    let history = History::of(&watch);
    let before = agent.index("web").await;

    agent.kill9();
    let view = see(&mut watch, "the loss is told", |view| view.error.is_some()).await;
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["web-1"]));
    assert_eq!(
        view.error.as_ref().map(|e| e.kind()),
        Some(ErrorKind::Unreachable)
    );
    assert!(view.age().is_some(), "the age of a stale copy is known");

    agent.restart().await;
    assert!(
        agent.index("web").await < before,
        "the index went backwards"
    );
    let view = see(&mut watch, "the empty list is held", |view| {
        trouble(view).contains("held back")
    })
    .await;
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["web-1"]));
    agent
        .register_service("web-2", "web", "127.0.0.1", 80, json!({}))
        .await;
    let view = see(&mut watch, "the new state", |view| ids(view) == ["web-2"]).await;
    assert_eq!(
        (view.state, trouble(&view)),
        (ViewState::Live, String::new())
    );
    assert_eq!(
        history.smallest_set(),
        1,
        "no endpoint was given up meanwhile"
    );
}

/// W9; B2. Consul wakes the query with the old list at the old index when a snapshot is restored;
/// a client that goes on from there is deaf for a whole wait.
#[tokio::test]
async fn a_restored_snapshot_is_seen_at_once() {
    need_consul!();
    let agent = Agent::server().await;
    agent
        .catalog_instance("n-0", "web-0", "web", "127.0.0.1", 80)
        .await;
    let snapshot = agent.get("/v1/snapshot").await.ok().body;
    for n in 1..10 {
        let (node, id) = (format!("n-{n}"), format!("web-{n}"));
        agent
            .catalog_instance(&node, &id, "web", "127.0.0.1", 80)
            .await;
    }
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), long()).watch("web").unwrap();
    see(&mut watch, "all are listed", |view| {
        view.instances.len() == 10
    })
    .await;
    eventually(SOON, "a query blocks", || async {
        proxy.requests().iter().any(blocks)
    })
    .await;
    let addr = agent.http_addr();
    let restored = http1::send(addr, "PUT", "/v1/snapshot", &[], &snapshot, SOON).await;
    restored.unwrap().ok();
    let view = see(&mut watch, "the restored state", |view| {
        ids(view) == ["web-0"]
    })
    .await;
    assert_eq!(view.state, ViewState::Live);
}

/// W9: read at once without an index when it went back, and then follow the new one.
#[tokio::test]
async fn an_index_that_goes_backwards_is_dropped_at_once() {
    let server = RawServer::play([
        Script::respond(&listing(50, &[1])),
        Script::respond(&listing(20, &[2])),
        Script::respond(&listing(21, &[3])),
        Script::new().hang(),
    ])
    .await;
    let mut watch = registry(&server.url(), long()).watch("web").unwrap();
    let history = History::of(&watch);
    see(&mut watch, "the list read anew", |view| {
        ids(view) == ["web-3"]
    })
    .await;
    eventually(SOON, "the next query blocks", || async {
        server.requests().len() == 4
    })
    .await;
    let seen = server.requests();
    let asked: Vec<_> = seen.iter().map(|head| head.param("index")).collect();
    assert_eq!(asked, [None, Some("50"), None, Some("21")]);
    assert!(
        seen[2].at - seen[1].at < Duration::from_secs(5),
        "at once, but for the pace"
    );
    assert!(
        history.views().iter().all(|view| ids(view) != ["web-2"]),
        "the answer with the lower index is not used"
    );
}

/// W9: an answer before its wait, with the very index that was asked for.
#[tokio::test]
async fn an_early_answer_with_the_same_index_is_read_anew_ever_more_slowly() {
    let server = RawServer::start(|head| match head.param("index") {
        // Never holds a query.
        Some(index) => Script::respond(&listing(index.parse().unwrap(), &[1])),
        None => Script::respond(&listing(7, &[1])),
    })
    .await;
    let mut watch = registry(&server.url(), long()).watch("web").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    eventually(SOON, "some rounds", || async {
        server.requests().len() >= 14
    })
    .await;
    let seen = server.requests();
    let gap = |at: usize| seen[at + 1].at - seen[at].at;
    // Pairs of a blocking query and a plain one; the pause stands between.
    assert!(blocks(&seen[1]) && !blocks(&seen[2]));
    assert!(gap(11) >= Duration::from_millis(400), "{:?}", gap(11));
    assert_eq!(watch.view().state, ViewState::Live);
}

/// W8, W10; B2, B24, T26. Answers without a usable index are errors, whatever they list.
#[tokio::test]
async fn an_answer_without_a_usable_index_is_an_error() {
    need_consul!();
    let agent = Agent::shared().await;
    let cases = [
        None,
        Some("abc"),
        Some("-1"),
        Some(""),
        Some("1.5"),
        Some("99999999999999999999"),
    ];
    join_all(cases.iter().enumerate().map(async |(n, header)| {
        let (name, header) = (format!("indexless-{n}"), *header);
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let mut watch = registry(&proxy.url(), short()).watch(&*name).unwrap();
        see(&mut watch, "it is listed", |view| {
            view.state == ViewState::Live
        })
        .await;
        proxy.rewrite(move |_, answer| {
            answer.headers_mut().remove("x-consul-index");
            if let Some(header) = header {
                let header = HeaderValue::from_static(header);
                answer.headers_mut().insert("x-consul-index", header);
            }
        });
        let view = see(&mut watch, "it is an error", |view| view.error.is_some()).await;
        let error = view.error.clone().unwrap();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.service(), name);
        assert!(error.backend().contains(&proxy.url()), "{error}");
        assert!(error.to_string().contains("X-Consul-Index"), "{error}");
        assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec![&*name]));
        let seen = proxy.requests().len();
        eventually(SOON, "it is asked again", || async {
            proxy.requests().len() > seen + 1
        })
        .await;
        assert!(
            !proxy.requests()[seen + 1..].iter().any(blocks),
            "every error drops the index"
        );
        proxy.clear();
        see(&mut watch, "it recovers", |view| {
            view.state == ViewState::Live
        })
        .await;
    }))
    .await;
}

/// W8, W9, W15; B2, T26. An index that lies costs no hot loop and hides no change.
#[tokio::test]
async fn changes_are_seen_whatever_the_index_says() {
    need_consul!();
    let agent = Agent::shared().await;
    type Index = fn(usize) -> u64;
    let cases: [(&str, Index); 6] = [
        ("zero", |_| 0),
        ("one", |_| 1),
        ("largest", |_| u64::MAX),
        ("up-and-down", |n| if n % 2 == 0 { 1_000_000 } else { 5 }),
        ("backwards", |n| 1_000_000 - n as u64),
        ("forwards", |n| 1_000_000_000 + n as u64),
    ];
    join_all(cases.map(async |(case, index)| {
        let (name, second) = (format!("lies-{case}"), format!("lies-{case}-2"));
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let count = std::sync::atomic::AtomicUsize::new(0);
        proxy.rewrite(move |_, answer| {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let header = HeaderValue::from_str(&index(n).to_string()).unwrap();
            answer.headers_mut().insert("x-consul-index", header);
        });
        let began = Instant::now();
        let mut watch = registry(&proxy.url(), short()).watch(&*name).unwrap();
        see(&mut watch, case, |view| view.instances.len() == 1).await;
        let enough = Duration::from_secs(2);
        eventually(SOON, "time for a hot loop", || async {
            began.elapsed() > enough
        })
        .await;
        agent
            .register_service(&second, &name, "127.0.0.1", 81, json!({}))
            .await;
        see(&mut watch, case, |view| view.instances.len() == 2).await;
        agent.deregister_service(&second).await;
        see(&mut watch, case, |view| view.instances.len() == 1).await;
        assert_eq!(
            proxy.count(|head| head.param("index") == Some("0")),
            0,
            "a query for what is newer than 0 never blocks"
        );
        let most = 2.0 + PER_SECOND * began.elapsed().as_secs_f64();
        let requests = proxy.requests().len() as f64;
        assert!(
            requests <= most,
            "{case}: {requests} requests, at most {most}"
        );
    }))
    .await;
}

/// W11, W36: every query has an index of its own, also when they share a registry.
#[tokio::test]
async fn queries_share_no_index() {
    let server = RawServer::start(|head| {
        let base = if head.path().ends_with("/a") { 100 } else { 9 };
        match head.param("index") {
            None => Script::respond(&listing(base, &[80])),
            Some(_) => Script::new().hang(),
        }
    })
    .await;
    let registry = registry(&server.url(), long());
    let (a, b) = (registry.watch("a").unwrap(), registry.watch("b").unwrap());
    eventually(SOON, "both block", || async {
        server.requests().iter().filter(|head| blocks(head)).count() == 2
    })
    .await;
    for head in server.requests().iter().filter(|head| blocks(head)) {
        let index = if head.path().ends_with("/a") {
            "100"
        } else {
            "9"
        };
        assert_eq!(head.param("index"), Some(index), "{}", head.target);
    }
    drop((a, b));
}

/// W12, W28: what wakes a query without changing the set is no change.
#[tokio::test]
async fn a_wakeup_without_a_change_shows_nothing() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_with_ttl("spurious-1", "spurious", 80, "passing")
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), long()).watch("spurious").unwrap();
    let set = see(&mut watch, "it is listed", |view| view.instances.len() == 1).await;
    let history = History::of(&watch);
    for n in 0..5 {
        let blocked = proxy.requests().len();
        // A new output of the same status reaches the servers with the change of status only.
        agent
            .put(
                "/v1/agent/check/update/check:spurious-1",
                Some(json!({ "Status": "passing", "Output": format!("fine, {n}") })),
            )
            .await
            .ok();
        agent
            .catalog_register(json!({
                "Node": agent.node_name(), "Address": "127.0.0.1", "SkipNodeUpdate": true,
                "Check": {
                    "CheckID": "check:spurious-1", "Name": "c", "ServiceID": "spurious-1",
                    "Status": "passing", "Output": format!("fine, {n}"),
                },
            }))
            .await;
        eventually(SOON, "the query is woken", || async {
            proxy.requests().len() > blocked
        })
        .await;
    }
    assert_eq!(history.views().len(), 1, "{:#?}", history.views());
    assert!(watch.view().instances.is_same(&set.instances));
}

/// W7, W18; B39. The list of a streaming race (`200`, index 1, `[]`), which 1.8.7 does not have.
#[tokio::test]
async fn one_false_empty_list_takes_nothing_away() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("race-1", "race", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), short()).watch("race").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    let history = History::of(&watch);
    proxy.add(
        Rule::when(|head| !blocks(head))
            .once()
            .respond(consul_reply(1, "[]")),
    );
    proxy.add(Rule::when(blocks).once().rewrite(|_, answer| {
        *answer = consul_reply(1, "[]");
    }));
    see(&mut watch, "the empty list is doubted", |view| {
        trouble(view).contains("held back")
    })
    .await;
    see(&mut watch, "it heals", |view| view.state == ViewState::Live).await;
    assert_eq!(history.smallest_set(), 1);
    assert!(
        history.troubles()[0].contains("its index is 1"),
        "{:?}",
        history.troubles()
    );
}
