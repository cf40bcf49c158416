//! Answers that no correct registry gives: a clear error or a rejected record, the last good set kept,
//! and on it goes.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;
use http::{HeaderValue, Response};
use serde_json::{Value, json};
use tower_roster::{
    error::ErrorKind,
    registry::{View, ViewState, WatchSettings, consul::ConsulConfig},
};

use crate::{
    kit::*,
    support::{
        Agent, FaultProxy, RawServer, Rule, Script, eventually,
        http1::{consul_reply, reply},
        need_consul,
    },
};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn coded(body: impl Into<bytes::Bytes>) -> Response<bytes::Bytes> {
    let mut response = consul_reply(9, body);
    response
        .headers_mut()
        .insert("content-encoding", HeaderValue::from_static("gzip"));
    response
}

/// A server with one good instance, which answers with `bad` while it is told to.
struct Scene {
    server: RawServer,
    broken: Arc<AtomicBool>,
}

impl Scene {
    async fn new(bad: Script) -> Scene {
        let broken = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&broken);
        let server = RawServer::start(move |head| match head.param("index") {
            _ if now.load(SeqCst) => bad.clone(),
            None => Script::respond(&listing(7, &[80])),
            // As a query whose wait ends.
            Some(_) => Script::new()
                .wait(Duration::from_millis(120))
                .write(crate::support::http1::encode(&listing(7, &[80]))),
        })
        .await;
        Scene { server, broken }
    }

    /// Breaks, checks what is told, heals.
    async fn play(&self, case: &str, config: ConsulConfig, kind: ErrorKind, says: &str) -> View {
        let mut watch = configured(config, WatchSettings::default())
            .watch("web")
            .unwrap();
        see(&mut watch, case, |view| view.state == ViewState::Live).await;
        self.broken.store(true, SeqCst);
        let view = see(&mut watch, case, |view| view.error.is_some()).await;
        let error = view.error.clone().unwrap();
        let text = trouble(&view);
        assert_eq!(error.kind(), kind, "{case}: {text}");
        assert_eq!(error.service(), "web");
        assert!(
            error.backend().contains(&self.server.url())
                || error.backend().contains(&far_url(&self.server)),
            "{case}: {text}"
        );
        assert!(
            text.contains(says),
            "{case}: {text:?} does not say {says:?}"
        );
        assert!(
            text.len() < 1_000,
            "{case}: a message of {} bytes",
            text.len()
        );
        assert_eq!(
            (view.state, ids(&view)),
            (ViewState::Stale, vec!["web-80"]),
            "{case}"
        );
        assert!(view.age().is_some());
        self.broken.store(false, SeqCst);
        see(&mut watch, case, |view| view.state == ViewState::Live).await;
        view
    }
}

fn config(server: &RawServer) -> ConsulConfig {
    let wait = Duration::from_millis(100);
    ConsulConfig::new(server.url()).options(long().wait(wait))
}

/// The same server at an address that does not look like this machine, so that it is asked for compressed
/// answers.
fn far(server: &RawServer) -> ConsulConfig {
    let wait = Duration::from_millis(100);
    ConsulConfig::new(far_url(server)).options(long().wait(wait))
}

fn far_url(server: &RawServer) -> String {
    format!("http://LOCALHOST:{}", server.addr().port())
}

/// W10, W17; B24, T25.
#[tokio::test]
async fn bodies_that_are_no_list_are_errors() {
    let good = listing(8, &[80]).body().clone();
    let cases: Vec<(&str, Response<bytes::Bytes>, &str)> = vec![
        ("html", consul_reply(8, "<html>sign in</html>"), "sign in"),
        ("empty", consul_reply(8, ""), "no list"),
        ("object", consul_reply(8, "{}"), "no list of instances: {}"),
        ("null", consul_reply(8, "null"), "null"),
        ("text", consul_reply(8, "\"web\""), "web"),
        ("cut", consul_reply(8, good.slice(..good.len() - 9)), "EOF"),
        ("two lists", consul_reply(8, "[][]"), "trailing"),
        (
            "not UTF-8",
            consul_reply(8, &b"[\"\xff\xfe\"]"[..]),
            "no list",
        ),
        ("deep", consul_reply(8, "[".repeat(100_000)), "no list"),
        (
            "gzip garbage",
            coded("\x1f\u{8b}no gzip at all"),
            "not valid gzip",
        ),
        (
            "gzip cut",
            coded(gzip(&good)[..20].to_vec()),
            "not valid gzip",
        ),
        (
            "list of numbers",
            consul_reply(8, "[1, 2]"),
            "none of its records",
        ),
        (
            "list of nulls",
            consul_reply(8, "[null]"),
            "none of its records",
        ),
    ];
    join_all(cases.into_iter().map(async |(case, answer, says)| {
        let scene = Scene::new(Script::respond(&answer)).await;
        let config = match answer.headers().contains_key("content-encoding") {
            true => far(&scene.server),
            false => config(&scene.server),
        };
        let kind = if case.starts_with("list of") {
            ErrorKind::Doubtful
        } else {
            ErrorKind::Malformed
        };
        scene.play(case, config, kind, says).await;
    }))
    .await;
}

/// An answer that ends early, by length, by chunk and by reset.
#[tokio::test]
async fn answers_that_break_off_are_errors() {
    let head = "HTTP/1.1 200 OK\r\nX-Consul-Index: 8\r\n";
    let cases = [
        (
            "by length",
            Script::new()
                .write(format!("{head}Content-Length: 900\r\n\r\n[{{"))
                .close(),
        ),
        (
            "by chunk",
            Script::new()
                .write(format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n5\r\n[{{\"No\r\n"
                ))
                .close(),
        ),
        (
            "bad chunk",
            Script::new()
                .write(format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"))
                .close(),
        ),
        ("in its head", Script::new().write(head).close()),
        (
            "no http",
            Script::new().write("SSH-2.0-OpenSSH_9.6\r\n\r\n").close(),
        ),
        ("nothing", Script::new().close()),
        ("reset", Script::new().reset()),
    ];
    join_all(cases.map(async |(case, script)| {
        let scene = Scene::new(script).await;
        let kind = ErrorKind::Unreachable;
        scene
            .play(case, config(&scene.server), kind, &scene.server.url())
            .await;
    }))
    .await;
}

/// 100 MB, told beforehand, in one stream, or packed small: bounded in memory and time.
#[tokio::test]
async fn the_length_of_an_answer_is_bounded() {
    const LIMIT: usize = 4 << 20;
    const LONG: u64 = 100 << 20;
    let head = "HTTP/1.1 200 OK\r\nX-Consul-Index: 8\r\n";
    let piece = "[".repeat(64 << 10);
    let told = Script::new()
        .write(format!("{head}Content-Length: {LONG}\r\n\r\n"))
        .stream(piece.clone(), LONG);
    let untold = Script::new()
        .write(format!("{head}\r\n"))
        .stream(piece, LONG);
    let bomb = Script::respond(&coded(gzip(&vec![b'['; LONG as usize])));
    let began = Instant::now();
    join_all(
        [("told", told), ("untold", untold), ("bomb", bomb)].map(async |(case, script)| {
            let scene = Scene::new(script).await;
            let config = far(&scene.server).max_body(LIMIT);
            let says = format!("longer than {LIMIT} bytes");
            scene.play(case, config, ErrorKind::Malformed, &says).await;
            // What the sockets on the way hold is not ours.
            let each = LIMIT as u64 + (16 << 20);
            let tries = scene.server.accepted();
            assert!(
                scene.server.written() < each * tries,
                "{case}: read on and on"
            );
        }),
    )
    .await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// The bound by default: 100 MB are not taken, and 50 MB of instances are.
#[tokio::test]
async fn the_bound_by_default_has_room_for_large_lists() {
    let long = Script::new()
        .write("HTTP/1.1 200 OK\r\nX-Consul-Index: 8\r\n\r\n")
        .stream("[".repeat(64 << 10), 100 << 20);
    let scene = Scene::new(long).await;
    let says = format!("longer than {} bytes", 64 << 20);
    let error = ErrorKind::Malformed;
    scene
        .play("100 MB", config(&scene.server), error, &says)
        .await;
}

/// W13. A connection that is accepted and never answered; the clock is turned on when it hangs.
#[tokio::test]
async fn a_query_that_is_never_answered_ends_in_time() {
    let server = RawServer::play([
        Script::respond(&listing(7, &[80])),
        Script::new().hang(),
        Script::respond(&listing(8, &[80, 81])),
        Script::new().hang(),
    ])
    .await;
    let mut watch = registry(&server.url(), Default::default())
        .watch("web")
        .unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    eventually(SOON, "the query hangs", || async {
        server.requests().len() == 2
    })
    .await;

    let at = tokio::time::Instant::now();
    tokio::time::pause();
    let view = watch.wait_for(|view| view.error.is_some()).await.unwrap();
    tokio::time::resume();
    // A wait of 20 s, a sixteenth of it, and 10 s.
    let took = at.elapsed().as_secs_f64();
    assert!((31.0..33.0).contains(&took), "{took} s");
    let error = view.error.clone().unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(trouble(&view).contains(&server.url()), "{}", trouble(&view));
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["web-80"]));
    see(&mut watch, "it goes on", |view| view.instances.len() == 2).await;
    assert!(!blocks(&server.requests()[2]));
}

/// W13: the first read, which does not block.
#[tokio::test]
async fn a_read_that_is_never_answered_ends_in_time() {
    let server = RawServer::play([
        Script::new().hang(),
        Script::respond(&listing(8, &[80])),
        Script::new().hang(),
    ])
    .await;
    let mut watch = registry(&server.url(), Default::default())
        .watch("web")
        .unwrap();
    eventually(SOON, "the read hangs", || async {
        server.requests().len() == 1
    })
    .await;
    let at = tokio::time::Instant::now();
    tokio::time::pause();
    let view = watch.wait_for(|view| view.error.is_some()).await.unwrap();
    tokio::time::resume();
    let took = at.elapsed().as_secs_f64();
    assert!((14.0..16.0).contains(&took), "{took} s");
    assert_eq!((view.state, view.age()), (ViewState::Pending, None));
    see(&mut watch, "it goes on", |view| {
        view.state == ViewState::Live
    })
    .await;
}

/// W13. Head or body arrive a byte at a time: the deadline is for the whole answer.
#[tokio::test]
async fn an_answer_that_trickles_ends_in_time() {
    let head = "HTTP/1.1 200 OK\r\nX-Consul-Index: 8\r\nContent-Length: 100000\r\n\r\n";
    let slowly = Duration::from_millis(100);
    let cases = [
        (
            "head",
            Script::new().trickle(head, Duration::from_secs(1)),
            0,
            31.0..33.0,
        ),
        (
            "body",
            Script::new()
                .write(head)
                .trickle(" ".repeat(100_000), slowly),
            head.len() as u64 + 2,
            14.0..17.0,
        ),
    ];
    for (case, script, sent, time) in cases {
        let first = listing(7, &[80]);
        let first_len = crate::support::http1::encode(&first).len() as u64;
        let server = RawServer::play([
            Script::respond(&first),
            script,
            Script::respond(&listing(8, &[80, 81])),
            Script::new().hang(),
        ])
        .await;
        let mut watch = registry(&server.url(), Default::default())
            .watch("web")
            .unwrap();
        see(&mut watch, "it is listed", |view| {
            view.state == ViewState::Live
        })
        .await;
        eventually(SOON, "it trickles", || async {
            server.written() > first_len + sent
        })
        .await;
        let at = tokio::time::Instant::now();
        tokio::time::pause();
        let view = watch.wait_for(|view| view.error.is_some()).await.unwrap();
        tokio::time::resume();
        let took = at.elapsed().as_secs_f64();
        assert!(time.contains(&took), "{case}: {took} s");
        assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Timeout);
        assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["web-80"]));
        see(&mut watch, "it goes on", |view| view.instances.len() == 2).await;
    }
}

/// A redirect is not followed, least of all with the token.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = RawServer::play([Script::respond(&listing(9, &[81]))]).await;
    let cases: Vec<_> = [301, 302, 307, 308]
        .into_iter()
        .map(|status| {
            let mut answer = reply(status, "moved");
            let to = format!("{}/v1/health/service/web", other.url());
            let to = HeaderValue::from_str(&to).unwrap();
            answer.headers_mut().insert("location", to);
            (status, answer)
        })
        .collect();
    join_all(cases.into_iter().map(async |(status, answer)| {
        let scene = Scene::new(Script::respond(&answer)).await;
        let config = config(&scene.server).token("a-secret-token");
        let case = status.to_string();
        let view = scene
            .play(
                &case,
                config,
                ErrorKind::Refused,
                "redirects are not followed",
            )
            .await;
        assert!(trouble(&view).contains(&case));
    }))
    .await;
    assert_eq!(other.accepted(), 0, "nothing went to the other host");
}

/// W20, W21, W22; B23, B24. What a real agent takes: each bad record is named, the others serve.
#[tokio::test]
async fn records_that_an_agent_takes_are_rejected_one_by_one() {
    need_consul!();
    let agent = Agent::dev().await;
    let register = async |id: &str, address: &str, port: i64, more: Value| {
        let mut body = json!({ "ID": id, "Name": "web", "Address": address, "Port": port });
        let fields = body.as_object_mut().unwrap();
        fields.extend(more.as_object().cloned().unwrap());
        agent
            .put("/v1/agent/service/register", Some(body))
            .await
            .ok();
    };
    register("good", "127.0.0.1", 80, json!({})).await;
    register("port-0", "127.0.0.1", 0, json!({})).await;
    register("port-70000", "127.0.0.1", 70_000, json!({})).await;
    register("port-minus", "127.0.0.1", -1, json!({})).await;
    register("no-ip", "not an ip!", 80, json!({})).await;
    // Connections to these would end at the client's own host, or at none.
    register("zero", "0", 80, json!({})).await;
    register("mapped", "::ffff:0.0.0.0", 80, json!({})).await;
    register("multicast", "224.0.0.1", 80, json!({})).await;
    register("broadcast", "255.255.255.255", 80, json!({})).await;
    register("blank", "   ", 81, json!({})).await;
    register("empty", "", 82, json!({})).await;
    register("six", "2001:db8::1", 83, json!({})).await;
    register("brackets", "[2001:db8::2]", 84, json!({})).await;
    register("name", "web.internal", 85, json!({})).await;
    register(
        "null",
        "127.0.0.1",
        86,
        json!({ "Meta": null, "Tags": null }),
    )
    .await;
    let mut watch = registry(&agent.url(), short()).watch("web").unwrap();
    let view = see(&mut watch, "all that can be used", |view| {
        view.instances.len() == 7
    })
    .await;
    assert_eq!(view.state, ViewState::Live);
    let addresses: Vec<_> = view
        .instances
        .iter()
        .map(|i| format!("{} {}", i.id(), i.address))
        .collect();
    let node = "127.0.0.1";
    let expected = [
        format!("blank {node}:81"),
        "brackets [2001:db8::2]:84".to_owned(),
        format!("empty {node}:82"),
        "good 127.0.0.1:80".to_owned(),
        "name web.internal:85".to_owned(),
        "null 127.0.0.1:86".to_owned(),
        "six [2001:db8::1]:83".to_owned(),
    ];
    assert_eq!(addresses, expected);
    let rejected: Vec<_> = view.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(rejected.len(), 8, "{rejected:#?}");
    for (id, reason) in [
        ("port-0", "port 0"),
        ("port-70000", "port 70000"),
        ("port-minus", "port -1"),
        ("no-ip", "not an ip!"),
        ("zero", "its last part is a number"),
        ("mapped", "not the address of one host"),
        ("multicast", "not the address of one host"),
        ("broadcast", "not the address of one host"),
    ] {
        let named = |text: &String| {
            text.contains(id) && text.contains(reason) && text.contains(agent.node_name())
        };
        assert!(rejected.iter().any(named), "{id}: {rejected:#?}");
    }
    // And on: a bad record that is mended serves.
    register("port-0", "127.0.0.1", 90, json!({})).await;
    see(&mut watch, "the mended one", |view| {
        view.instances.len() == 8
    })
    .await;
}

/// W18. A list of which nothing can be used says something about the list, not about the service.
#[tokio::test]
async fn a_list_without_a_usable_record_takes_nothing_away() {
    need_consul!();
    let agent = Agent::shared().await;
    let register = async |port: i64| {
        let body =
            json!({ "ID": "wrecked-1", "Name": "wrecked", "Address": "127.0.0.1", "Port": port });
        agent
            .put("/v1/agent/service/register", Some(body))
            .await
            .ok();
    };
    register(80).await;
    let mut watch = registry(&agent.url(), short()).watch("wrecked").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    register(70_000).await;
    let view = see(&mut watch, "it is doubted", |view| view.error.is_some()).await;
    assert_eq!(
        (view.state, ids(&view)),
        (ViewState::Stale, vec!["wrecked-1"])
    );
    for part in ["wrecked-1", "port 70000", "held back"] {
        assert!(trouble(&view).contains(part), "{}", trouble(&view));
    }
    register(81).await;
    let view = see(&mut watch, "it is mended", |view| {
        view.state == ViewState::Live
    })
    .await;
    assert_eq!(view.instances.iter().next().unwrap().address.port(), 81);
}

/// W20, W26, W27. Changed on the way from a real agent: weights of any size, 10 MB of metadata,
/// wrong types, each in a list with a good record.
#[tokio::test]
async fn records_changed_on_the_way_cost_themselves_only() {
    need_consul!();
    let agent = Agent::shared().await;
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, Result<u32, &str>); 10] = [
        (
            "negative",
            |e| e["Service"]["Weights"]["Passing"] = json!(-7),
            Ok(0),
        ),
        (
            "zero",
            |e| e["Service"]["Weights"]["Passing"] = json!(0),
            Ok(0),
        ),
        (
            "huge",
            |e| e["Service"]["Weights"]["Passing"] = json!(i64::MAX),
            Ok(65_535),
        ),
        (
            "beyond",
            |e| e["Service"]["Weights"]["Passing"] = json!(1e30),
            Err("invalid"),
        ),
        (
            "weights-null",
            |e| e["Service"]["Weights"] = json!(null),
            Ok(1),
        ),
        (
            "megabytes",
            |e| e["Service"]["Meta"] = json!({ "m": "x".repeat(10 << 20) }),
            Err("bytes of metadata"),
        ),
        (
            "meta-list",
            |e| e["Service"]["Meta"] = json!([1]),
            Err("invalid type"),
        ),
        (
            "port-text",
            |e| e["Service"]["Port"] = json!("80"),
            Err("invalid type"),
        ),
        (
            "no-service",
            |e| e["Service"] = json!(null),
            Err("invalid type"),
        ),
        (
            "checks",
            |e| e["Checks"] = json!({ "a": 1 }),
            Err("invalid type"),
        ),
    ];
    join_all(cases.map(async |(case, edit, expected)| {
        let (name, bad) = (format!("edit-{case}"), format!("edit-{case}-bad"));
        for (id, port) in [(&name, 80), (&bad, 81)] {
            agent
                .register_service(id, &name, "127.0.0.1", port, json!({}))
                .await;
        }
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let port = |entry: &Value| entry["Service"]["Port"].as_i64();
        proxy.rewrite(move |_, answer| {
            let mut list: Value = serde_json::from_slice(answer.body()).unwrap();
            let entries = list.as_array_mut().unwrap().iter_mut();
            entries.filter(|e| port(e) == Some(81)).for_each(edit);
            *answer.body_mut() = list.to_string().into();
        });
        let mut watch = registry(&proxy.url(), short()).watch(&*name).unwrap();
        let view = see(&mut watch, case, |view| view.state == ViewState::Live).await;
        assert!(ids(&view).contains(&&*name), "{case}");
        match expected {
            Ok(weight) => {
                let edited = view.instances.iter().find(|i| i.id() == bad);
                assert_eq!(edited.map(|i| i.weight.get()), Some(weight), "{case}");
            }
            Err(reason) => {
                assert_eq!(view.instances.len(), 1, "{case}");
                let rejected = view.rejected[0].to_string();
                assert!(rejected.contains(reason), "{case}: {rejected}");
                assert!(rejected.len() < 1_000);
            }
        }
        proxy.clear();
        agent
            .register_service(&bad, &name, "127.0.0.1", 82, json!({}))
            .await;
        see(&mut watch, case, |view| {
            view.instances.len() == 2 && view.rejected.is_empty()
        })
        .await;
    }))
    .await;
}

/// W27; T21. Ids are unique on one node only.
#[tokio::test]
async fn equal_ids_on_two_nodes_are_two_instances() {
    need_consul!();
    let agent = Agent::shared().await;
    for (node, address) in [
        ("twin-a", "10.9.0.1"),
        ("twin-b", "10.9.0.1"),
        ("twin-c", "10.9.0.3"),
    ] {
        agent
            .catalog_instance(node, "twin-1", "twin", address, 80)
            .await;
    }
    let mut watch = registry(&agent.url(), short()).watch("twin").unwrap();
    let view = see(&mut watch, "all three", |view| view.instances.len() == 3).await;
    let keys: Vec<_> = view.instances.iter().map(|i| i.key.to_string()).collect();
    assert_eq!(
        keys,
        [
            "twin-1@dc1/twin-a",
            "twin-1@dc1/twin-b",
            "twin-1@dc1/twin-c"
        ]
    );
    agent.catalog_deregister(json!({ "Node": "twin-a" })).await;
    let view = see(&mut watch, "two are left", |view| view.instances.len() == 2).await;
    assert_eq!(
        view.instances.iter().next().unwrap().key.scope(),
        "dc1/twin-b"
    );
    for node in ["twin-b", "twin-c"] {
        agent.catalog_deregister(json!({ "Node": node })).await;
    }
}

/// W6. The token goes to the agent in its header, and nowhere else: not into errors, settings,
/// views or logs, whatever goes wrong.
#[tokio::test]
async fn the_token_stays_a_secret() {
    const TOKEN: &str = "7f0c1ed2-secret";
    let (log, _guard) = crate::log::Log::start(tracing::Level::TRACE);

    let echo = |head: &crate::support::RequestHead| format!("refused: {:?}", head.headers);
    let server = RawServer::start(move |head| match head.param("index") {
        None => Script::respond(&listing(7, &[80])),
        Some("7") => Script::respond(&failure(403, &echo(head))),
        Some(_) => Script::new().reset(),
    })
    .await;
    let config = ConsulConfig::new(server.url()).token(TOKEN);
    let mut shown = vec![format!("{config:?}")];
    let registry = configured(config.options(short()), WatchSettings::default());
    let mut watch = registry.watch("web").unwrap();
    let view = see(&mut watch, "it is refused", |view| view.error.is_some()).await;
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Denied);
    shown.push(format!(
        "{view:?} {watch:?} {registry:?} {}",
        trouble(&view)
    ));
    shown.push(
        ConsulConfig::new("http://h:1")
            .token("bad\ntoken")
            .options(short())
            .debug(),
    );
    drop(watch);
    let header = server.requests()[0]
        .header("x-consul-token")
        .map(str::to_owned);
    assert_eq!(header.as_deref(), Some(TOKEN));
    assert!(
        server
            .requests()
            .iter()
            .all(|head| !head.target.contains(TOKEN)),
        "never in a URL"
    );
    let log = log.take();
    assert!(
        log.contains("keeping the last good set"),
        "the log is read: {log}"
    );
    shown.push(log);
    for text in shown {
        assert!(!text.contains(TOKEN), "the token is in {text}");
    }
}

/// The `Debug` of a configuration and of the error that it leads to.
trait Shown {
    fn debug(self) -> String;
}

impl Shown for ConsulConfig {
    fn debug(self) -> String {
        let config = format!("{self:?}");
        let error = tower_roster::registry::consul::Consul::new(self).unwrap_err();
        assert!(!error.to_string().contains("bad"), "{error}");
        format!("{config} {error:?} {error}")
    }
}

/// W6. Asked for where it is worth its time: on a network, but not on this machine.
#[tokio::test]
async fn compressed_answers_are_asked_for_and_read() {
    let answer = |head: &crate::support::RequestHead| {
        let list = listing(7, &[80]).body().clone();
        match head.header("accept-encoding") {
            Some("gzip") => Script::respond(&coded(gzip(&list))),
            _ => Script::respond(&consul_reply(7, list)),
        }
    };
    for (far, coding) in [(true, Some("gzip")), (false, None)] {
        let server = RawServer::start(answer).await;
        let url = if far { far_url(&server) } else { server.url() };
        let mut watch = registry(&url, short()).watch("web").unwrap();
        see(&mut watch, "it is listed", |view| {
            view.state == ViewState::Live
        })
        .await;
        assert_eq!(server.requests()[0].header("accept-encoding"), coding);
    }
}

/// The same through the faults of a real connection; see `Rule` for what each does.
#[tokio::test]
async fn a_real_answer_that_is_cut_is_read_again() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("cut-1", "cut", "127.0.0.1", 80, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), short()).watch("cut").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    let history = History::of(&watch);
    for rule in [
        Rule::any().truncate(40),
        Rule::any().reset(),
        Rule::any().close(),
    ] {
        proxy.add(rule.once());
        let view = see(&mut watch, "it is told", |view| view.error.is_some()).await;
        assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Unreachable);
        see(&mut watch, "it recovers", |view| {
            view.state == ViewState::Live
        })
        .await;
    }
    assert_eq!(history.smallest_set(), 1);
}
