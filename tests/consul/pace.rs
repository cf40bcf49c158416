//! How often Consul is asked, in good times and bad.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::HeaderValue;
use serde_json::json;
use tower_roster::{error::ErrorKind, registry::ViewState};

use crate::{
    kit::*,
    support::{
        Agent, FaultProxy, Mode, RawServer, Rule, Script, eventually, http1::reply, need_consul,
    },
};

/// Lets this much time pass, for counting what happens in it.
async fn pass(time: Duration) {
    let began = Instant::now();
    eventually(time * 10, "time passes", || async {
        began.elapsed() >= time
    })
    .await;
}

/// W12, W15; B1 and B7 (hot loops), B18 (two calls joined), T19. Writes as fast as the agent takes
/// them, each of which wakes the query.
#[tokio::test]
async fn a_busy_service_costs_no_more_than_the_pace() {
    need_consul!();
    let agent = Agent::dev().await;
    agent
        .catalog_instance("n-fixed", "web-fixed", "web", "127.0.0.1", 80)
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    // From the first request on, because the burst is used up at once.
    let began = Instant::now();
    let mut watch = registry(&proxy.url(), long()).watch("web").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    let history = History::of(&watch);

    let writes = std::cell::Cell::new(0_u32);
    let end = AtomicBool::new(false);
    let (agent, writes, end) = (&agent, &writes, &end);
    let write = |writer: u32| async move {
        let mut n = 0;
        while !end.load(SeqCst) {
            let (node, id) = (format!("n-{writer}"), format!("web-{writer}"));
            agent
                .catalog_instance(&node, &id, "web", "127.0.0.1", 1_000 + n % 50_000)
                .await;
            if n % 3 == 0 {
                agent.catalog_deregister(json!({ "Node": node })).await;
            }
            writes.set(writes.get() + 1);
            n += 1;
        }
    };
    let stop = async {
        pass(Duration::from_secs(3)).await;
        end.store(true, SeqCst);
    };
    tokio::join!(stop, join_all((0..6).map(write)));
    agent
        .catalog_instance("n-last", "web-last", "web", "127.0.0.1", 9)
        .await;
    let expected = agent.health("web").await.len();
    see(&mut watch, "the final set", |view| {
        view.instances.len() == expected && ids(view).contains(&"web-last")
    })
    .await;
    let most = 2.0 + PER_SECOND * began.elapsed().as_secs_f64();
    let requests = proxy.requests().len() as f64;
    assert!(requests <= most, "{requests} requests, at most {most}");
    assert!(
        f64::from(writes.get()) > 2.0 * requests,
        "{} writes put the pace to no test",
        writes.get()
    );
    assert_eq!(history.troubles(), [""; 0]);
    assert!(
        history.smallest_set() >= 1,
        "what nobody touched never went"
    );
}

/// W12, W15; B7. A service that nobody knows: its index stays where it is, or moves whenever the last
/// instance of any service goes.
#[tokio::test]
async fn a_missing_service_costs_no_hot_loop() {
    need_consul!();
    let agent = Agent::dev().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), short()).watch("missing").unwrap();
    let view = see(&mut watch, "it is missing", |view| {
        view.state == ViewState::Missing
    })
    .await;
    assert_eq!((view.instances.len(), trouble(&view)), (0, String::new()));
    let (began, before) = (Instant::now(), proxy.requests().len());
    pass(Duration::from_secs(2)).await;
    for n in 0..3 {
        let id = format!("other-{n}");
        agent
            .register_service(&id, &id, "127.0.0.1", 1, json!({}))
            .await;
        agent.deregister_service(&id).await;
    }
    let most = 3.0 + 3.0 + began.elapsed().as_secs_f64();
    let requests = (proxy.requests().len() - before) as f64;
    assert!(
        requests <= most,
        "{requests} requests in {:?}",
        began.elapsed()
    );

    agent
        .register_service("web-1", "missing", "127.0.0.1", 80, json!({}))
        .await;
    see(&mut watch, "it exists", |view| ids(view) == ["web-1"]).await;
}

/// W16; B4 (all of a processor while Consul is down), B16. Full jitter from 50 ms to 1.5 s.
#[tokio::test]
async fn a_lost_agent_is_asked_ever_more_rarely() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("lost-1", "lost", "127.0.0.1", 80, json!({}))
        .await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), long()).watch("lost").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    let before = proxy.accepted();
    proxy.set(Mode::Reset).await;
    pass(Duration::from_secs(4)).await;
    let tries = proxy.accepted() - before;
    // On average 5 to come to the cap and then one each 750 ms.
    assert!((2..=30).contains(&tries), "{tries} tries in 4 s");
    let view = watch.view();
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["lost-1"]));
    proxy.set(Mode::Pass).await;
    let healed = Instant::now();
    see(&mut watch, "it is fresh again", |view| {
        view.state == ViewState::Live
    })
    .await;
    assert!(
        healed.elapsed() < Duration::from_secs(5),
        "no delay exceeds its cap: {:?}",
        healed.elapsed()
    );
    // Interruptible: nothing waits out a backoff when nobody listens.
    proxy.set(Mode::Reset).await;
    see(&mut watch, "it is lost", |view| view.error.is_some()).await;
    drop(watch);
    pass(Duration::from_millis(100)).await;
    let tries = proxy.accepted();
    pass(Duration::from_secs(2)).await;
    assert_eq!(proxy.accepted(), tries, "a dropped watch tries no more");
}

/// W10, W16, W17; B4, B6 (ended for good on 400), B10, B16, T14. Error answers: their index is not
/// taken, the set stays, the watch goes on.
#[tokio::test]
async fn error_answers_cost_nothing_but_time() {
    need_consul!();
    let agent = Agent::shared().await;
    let html = "<html><body>Bad Gateway</body></html>";
    let cases = [
        (400, "Invalid wait time", ErrorKind::Refused),
        (403, "Permission denied", ErrorKind::Denied),
        (404, "404 page not found", ErrorKind::Refused),
        (405, "method GET not allowed", ErrorKind::Refused),
        (
            429,
            "Your IP is issuing too many concurrent connections",
            ErrorKind::Limited,
        ),
        (500, "No cluster leader", ErrorKind::Unavailable),
        (500, "rpc error making call: EOF", ErrorKind::Unavailable),
        (502, html, ErrorKind::Unavailable),
        (503, "", ErrorKind::Unavailable),
        (504, "upstream request timeout", ErrorKind::Unavailable),
    ];
    join_all(
        cases
            .iter()
            .enumerate()
            .map(async |(n, (status, body, kind))| {
                let name = format!("status-{n}");
                agent
                    .register_service(&name, &name, "127.0.0.1", 80, json!({}))
                    .await;
                let proxy = FaultProxy::http(agent.http_addr()).await;
                let mut watch = registry(&proxy.url(), short()).watch(&*name).unwrap();
                see(&mut watch, "it is listed", |view| {
                    view.state == ViewState::Live
                })
                .await;
                proxy.add(Rule::any().times(2).respond(failure(*status, body)));
                let view = see(&mut watch, "the error", |view| view.error.is_some()).await;
                let error = view.error.clone().unwrap();
                let text = trouble(&view);
                assert_eq!(error.kind(), *kind, "{text}");
                for part in [&*name, &proxy.url(), &status.to_string(), body] {
                    assert!(text.contains(part), "{text:?} does not say {part:?}");
                }
                assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec![&*name]));
                see(&mut watch, "it recovers", |view| {
                    view.state == ViewState::Live
                })
                .await;
                eventually(SOON, "the loop goes on", || async {
                    proxy.requests().last().is_some_and(blocks)
                })
                .await;
                let seen = proxy.requests();
                let index: Vec<_> = seen.iter().filter_map(|head| head.param("index")).collect();
                assert!(index.iter().all(|index| *index != "1"), "{index:?}");
                assert!(
                    seen.iter().filter(|head| !blocks(head)).count() >= 3,
                    "after each of the errors the index is dropped"
                );
            }),
    )
    .await;
}

/// W16, and the table of answers: `Retry-After` is honoured within its bounds, and is no licence for
/// a storm; without it a limit slows down more than a failure does.
#[tokio::test]
async fn retry_after_is_honoured() {
    let server = |after: Option<&'static str>| {
        RawServer::start(move |_| {
            let mut limited = reply(429, "slow down");
            if let Some(after) = after {
                let after = HeaderValue::from_static(after);
                limited.headers_mut().insert("retry-after", after);
            }
            Script::respond(&limited)
        })
    };
    let (two, zero, none) = tokio::join!(server(Some("2")), server(Some("0")), server(None));
    // As gateways before a registry send it.
    let date = server(Some("Fri, 31 Dec 9999 23:59:59 GMT")).await;
    let watches: Vec<_> = [&two, &zero, &none, &date]
        .map(|server| registry(&server.url(), short()).watch("web").unwrap())
        .into();
    eventually(SOON, "it is asked again", || async {
        two.requests().len() == 2
    })
    .await;
    let seen = two.requests();
    let gap = seen[1].at - seen[0].at;
    assert!(gap >= Duration::from_millis(2_000), "{gap:?}");
    eventually(SOON, "some tries", || async { none.requests().len() >= 3 }).await;
    assert!(zero.requests().len() < 20, "{}", zero.requests().len());
    assert_eq!(date.requests().len(), 1, "it said a date");
    let view = watches[0].view();
    assert_eq!(view.state, ViewState::Pending, "nothing was ever known");
    let error = view.error.expect("the reason");
    assert_eq!(error.kind(), ErrorKind::Limited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
}

/// W10, W39: a registry that answers garbage from the start is told apart from an empty one.
#[tokio::test]
async fn nothing_is_known_until_the_first_good_answer() {
    let good = Arc::new(AtomicBool::new(false));
    let answer = Arc::clone(&good);
    let server = RawServer::start(move |head| {
        if !answer.load(SeqCst) {
            Script::respond(&failure(500, "No cluster leader"))
        } else if blocks(head) {
            Script::new().hang()
        } else {
            Script::respond(&listing(5, &[80]))
        }
    })
    .await;
    let mut watch = registry(&server.url(), short()).watch("web").unwrap();
    let view = see(&mut watch, "an error", |view| view.error.is_some()).await;
    assert_eq!((view.state, view.age()), (ViewState::Pending, None));
    assert!(!view.is_fresh());
    good.store(true, SeqCst);
    let view = watch.resolved().await.unwrap();
    assert_eq!(
        (view.state, trouble(&view)),
        (ViewState::Live, String::new())
    );
}
