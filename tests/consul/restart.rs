//! An agent that is gone and back before it is asked again: its index means nothing to the one that
//! came after it, which would hold a query with it for a whole wait.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Response};
use serde_json::json;
use tower_roster::registry::consul::ConsulConfig;

use crate::{
    kit::*,
    support::{Agent, RawServer, RequestHead, Script, eventually, http1::encode, need_consul, rt},
};

/// An agent that answers twice, dies with the end of its second answer, and is another from then on,
/// whose list has the index `next`.
async fn two_agents(next: u64) -> RawServer {
    let answers = AtomicUsize::new(0);
    RawServer::start(move |head| match answers.fetch_add(1, SeqCst) {
        0 => Script::respond(&listing(50, &[1])),
        1 => Script::new()
            .write(until_closed(&listing(51, &[1, 2])))
            .close(),
        _ => another(head, next),
    })
    .await
}

/// An answer whose end is the end of the connection.
fn until_closed(response: &Response<Bytes>) -> Bytes {
    let text = String::from_utf8(encode(response).to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let lines = head.split("\r\n");
    let lines = lines.filter(|line| !line.to_lowercase().starts_with("content-length"));
    let head = lines.collect::<Vec<_>>().join("\r\n");
    Bytes::from(format!("{head}\r\n\r\n{body}"))
}

/// The answer of an agent whose list has the index `at`.
fn another(head: &RequestHead, at: u64) -> Script {
    let list = Script::respond(&listing(at, &[9]));
    match index(head) {
        Some(index) if index >= at => held(head, &encode(&listing(at, &[9]))),
        _ => list,
    }
}

/// An answer at the end of the wait.
fn held(head: &RequestHead, bytes: &Bytes) -> Script {
    let millis = head.param("wait").and_then(|wait| wait.strip_suffix("ms"));
    let millis = millis.and_then(|millis| millis.parse().ok());
    let wait = Duration::from_millis(millis.expect("a wait in milliseconds"));
    // Never before the client's clock says so.
    Script::new()
        .wait(wait + Duration::from_millis(20))
        .write(bytes.clone())
}

fn index(head: &RequestHead) -> Option<u64> {
    head.param("index").and_then(|index| index.parse().ok())
}

/// The indexes that a watch of `web` asked with.
fn asked(server: &RawServer) -> Vec<Option<u64>> {
    let seen = server.requests();
    let web = seen.iter().filter(|head| head.path().ends_with("/web"));
    web.map(index).collect()
}

/// W10, W11; B2. Whether the other index is lower or the same by chance.
#[tokio::test]
async fn an_index_goes_to_no_other_agent() {
    for next in [20, 51] {
        let server = two_agents(next).await;
        let mut watch = registry(&server.url(), long()).watch("web").unwrap();
        let history = History::of(&watch);
        see(&mut watch, "the other agent's list", |view| {
            ids(view) == ["web-9"]
        })
        .await;
        eventually(SOON, "a query blocks", || async {
            asked(&server).len() == 4
        })
        .await;
        assert_eq!(asked(&server), [None, Some(50), None, Some(next)]);
        assert_eq!(history.troubles(), [""; 0], "nobody missed it");
    }
}

/// Waits without ever being idle, so that a paused clock stands still.
async fn busy_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::task::yield_now().await;
    }
}

/// The same when the loss shows only after the query was sent, on another connection.
#[tokio::test]
async fn an_index_that_went_to_another_agent_is_taken_back() {
    let answers = AtomicUsize::new(0);
    let server = RawServer::start(move |head| {
        if head.path().ends_with("/other") {
            // Takes the idle connection, and keeps it for much longer than the pace pauses.
            return Script::new().wait(Duration::from_secs(2)).close();
        }
        match answers.fetch_add(1, SeqCst) {
            0 => Script::respond(&listing(50, &[1])),
            1 => Script::respond(&listing(51, &[1, 2])),
            _ => another(head, 20),
        }
    })
    .await;
    // The clock stands still, and with it the pause of the pace, until the connection is taken.
    tokio::time::pause();
    let registry = registry(&server.url(), long());
    let mut watch = registry.watch("web").unwrap();
    let history = History::of(&watch);
    busy_until("the second list", || watch.view().instances.len() == 2).await;
    let _other = registry.watch("other").unwrap();
    busy_until("the connection is taken", || server.requests().len() == 3).await;
    tokio::time::resume();
    see(&mut watch, "the other agent's list", |view| {
        ids(view) == ["web-9"]
    })
    .await;
    eventually(SOON, "a query blocks", || async {
        asked(&server).len() == 5
    })
    .await;
    assert_eq!(
        asked(&server),
        [None, Some(50), Some(51), None, Some(20)],
        "the other watch took the connection"
    );
    assert_eq!(history.troubles(), [""; 0], "nobody missed it");
}

/// W15: a connection that is closed after each answer costs one plain read for each, at most.
#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_no_hot_loop() {
    let mut polite = listing(50, &[1]);
    polite
        .headers_mut()
        .insert("connection", HeaderValue::from_static("close"));
    for (case, list, reads) in [
        ("without a word", until_closed(&listing(50, &[1])), 2),
        ("as announced", encode(&polite), 1),
    ] {
        let server = RawServer::start(move |head| match index(head) {
            Some(_) => held(head, &list).close(),
            None => Script::new().write(list.clone()).close(),
        })
        .await;
        let wait = Duration::from_millis(300);
        let mut watch = registry(&server.url(), long().wait(wait))
            .watch("web")
            .unwrap();
        see(&mut watch, case, |view| ids(view) == ["web-1"]).await;
        let history = History::of(&watch);
        eventually(SOON, "three waits pass", || async {
            asked(&server).iter().flatten().count() > 3
        })
        .await;
        let asked = asked(&server);
        let waits = asked.split(|index| index.is_some());
        let most = waits.map(<[_]>::len).max();
        assert_eq!(most, Some(reads), "{case}: {asked:?}");
        let views = history.views();
        assert_eq!(views.len(), 1, "{case}: {:?}", history.troubles());
    }
}

/// Restarts an agent with nothing while no task of the client runs, and between two requests of its
/// watch.
pub(crate) async fn is_noticed_after_a_stall(mut agent: Agent, config: ConsulConfig) {
    // So that its index is far above the first of the next.
    for n in 0..30 {
        let name = format!("past-{n}");
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
    }
    let register = async |agent: &Agent, id: &str| {
        agent
            .register_service(id, "web", "127.0.0.1", 80, json!({}))
            .await;
    };
    register(&agent, "web-1").await;
    let registry = configured(config.options(long()), Default::default());
    let mut watch = registry.watch("web").unwrap();
    see(&mut watch, "listed", |view| ids(view) == ["web-1"]).await;
    // Right after the first: the next request waits for its turn.
    register(&agent, "web-2").await;
    see(&mut watch, "a change", |view| view.instances.len() == 2).await;
    let before = agent.index("web").await;
    let after = thread::scope(|scope| {
        let stall = scope.spawn(|| {
            rt().block_on(async {
                agent.restart().await;
                register(&agent, "web-3").await;
                agent.index("web").await
            })
        });
        stall.join().unwrap()
    });
    assert!(after < before, "the index went backwards");
    see(&mut watch, "the new state", |view| ids(view) == ["web-3"]).await;
}

/// W9, W10; B2, T3.
#[tokio::test]
async fn a_real_agent_is_noticed() {
    need_consul!();
    let agent = Agent::dev().await;
    let config = ConsulConfig::new(agent.url());
    is_noticed_after_a_stall(agent, config).await;
}

/// Where the client hides its connections, the first wait after a change is short instead.
#[cfg(feature = "consulrs")]
#[tokio::test]
async fn a_hidden_connection_costs_a_second() {
    let server = two_agents(20).await;
    let registry = crate::consulrs::registry(&server.url(), None);
    let mut watch = registry.watch("web").unwrap();
    see(&mut watch, "the second list", |view| {
        ids(view) == ["web-1", "web-2"]
    })
    .await;
    let began = Instant::now();
    see(&mut watch, "the other agent's list", |view| {
        ids(view) == ["web-9"]
    })
    .await;
    // The wait itself is 20 s.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(asked(&server)[..4], [None, Some(50), Some(51), None]);
}
