//! A scripted gateway, for what no real server can be made to say in a test: it speaks HTTP and etcd's
//! JSON, and answers lists and watches as each test wants.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use serde_json::{Value, json};
use tower_roster::{error::ErrorKind, registry::ViewState};

use super::{
    log::Log,
    support::{
        RawServer, RequestHead, Script,
        etcd::{decode, encode},
        eventually,
        http1::reply,
    },
    *,
};

/// Answers with the number of the request among those of its path, from 0.
pub(crate) async fn gateway(
    answer: impl Fn(&str, &Value, usize) -> Script + Send + Sync + 'static,
) -> RawServer {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    RawServer::start(move |head: &RequestHead| {
        let body = serde_json::from_slice(&head.body).unwrap_or_default();
        let count = &counts[usize::from(head.path() == "/v3/watch")];
        answer(head.path(), &body, count.fetch_add(1, SeqCst))
    })
    .await
}

pub(crate) fn url(server: &RawServer) -> String {
    format!("etcd://{}?timeout=2s", server.addr())
}

pub(crate) fn ok(body: Value) -> Script {
    Script::respond(&reply(200, body.to_string()))
}

fn status(status: u16, body: &str) -> Script {
    Script::respond(&reply(status, body.to_owned()))
}

pub(crate) fn kv(id: &str, revision: i64) -> Value {
    json!({
        "key": encode(format!("/services/web/{id}")), "value": encode(record("web", id)),
        "create_revision": revision.to_string(), "mod_revision": revision.to_string(),
        "version": "1",
    })
}

/// A list at a revision.
pub(crate) fn list(revision: i64, ids: &[&str]) -> Script {
    let kvs: Vec<_> = ids.iter().map(|id| kv(id, 5)).collect();
    let count = kvs.len().to_string();
    ok(
        json!({"header": {"cluster_id": "1", "revision": revision.to_string()}, "kvs": kvs, "count": count}),
    )
}

/// The head of a stream, and its first lines.
pub(crate) fn stream(lines: &[Value]) -> Script {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut text = head.to_owned();
    for line in lines {
        let line = format!("{line}\n");
        text.push_str(&format!("{:x}\r\n{line}\r\n", line.len()));
    }
    Script::new().write(text)
}

pub(crate) fn created(revision: i64) -> Value {
    json!({"result": {"header": {"cluster_id": "1", "revision": revision.to_string()}, "created": true}})
}

pub(crate) fn events(revision: i64, events: Value) -> Value {
    json!({"result": {"header": {"cluster_id": "1", "revision": revision.to_string()}, "events": events}})
}

/// The requests to a path, as JSON.
fn asked(server: &RawServer, path: &str) -> Vec<Value> {
    let requests = server.requests();
    let requests = requests.iter().filter(|head| head.path() == path);
    requests
        .map(|head| serde_json::from_slice(&head.body).unwrap())
        .collect()
}

/// ED1, ED3.
#[tokio::test]
async fn a_watch_begins_after_the_revision_of_its_list() {
    let server = gateway(|path, _, _| match path {
        "/v3/watch" => stream(&[created(7)]).hang(),
        _ => list(7, &["a"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    until(&mut watch, "the set", |v| ids(v) == ["a"]).await;
    eventually(LONG, "the watch", || async {
        !asked(&server, "/v3/watch").is_empty()
    })
    .await;
    let body = &asked(&server, "/v3/watch")[0]["create_request"];
    assert_eq!(body["start_revision"], "8");
    assert_eq!(decode(&body["key"]), "/services/web/");
    assert_eq!(decode(&body["range_end"]), "/services/web0");
    let requests = server.requests();
    let head = requests
        .iter()
        .find(|head| head.path() == "/v3/watch")
        .unwrap();
    assert_eq!(head.header("grpc-metadata-hasleader"), Some("true"));
    assert_eq!(head.header("authorization"), None);
}

/// ED4, ED12: neither the revision of the `created` line nor that of the confirmation moves the watch
/// on; the last change does.
#[tokio::test]
async fn a_watch_that_was_silent_resumes_after_its_last_change() {
    let server = gateway(|path, body, n| match (path, n) {
        ("/v3/watch", 0) => {
            let change = json!([{"kv": kv("b", 9)}]);
            stream(&[created(50), events(60, change)]).hang()
        }
        ("/v3/watch", _) => stream(&[created(80)]).hang(),
        _ if body["limit"] == "1" => {
            assert_eq!(body["sort_target"], "MOD");
            let mut last = kv("b", 9);
            last["value"] = Value::Null;
            last.as_object_mut().unwrap().remove("value");
            ok(json!({"header": {"cluster_id": "1", "revision": "70"}, "kvs": [last], "count": "2", "more": true}))
        }
        _ => list(7, &["a"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    let view = until(&mut watch, "the change", |v| ids(v) == ["a", "b"]).await;
    eventually(LONG, "the next watch", || async {
        asked(&server, "/v3/watch").len() == 2
    })
    .await;
    let starts: Vec<_> = asked(&server, "/v3/watch")
        .iter()
        .map(|body| body["create_request"]["start_revision"].clone())
        .collect();
    assert_eq!(starts, ["8", "10"]);
    assert_eq!(asked(&server, "/v3/kv/range").len(), 2, "no second list");
    assert!(watch.view().confirmed > view.confirmed);
    assert_eq!(watch.view().state, ViewState::Live);
}

/// ED12: what was missed shows in the confirmation.
#[tokio::test]
async fn a_confirmation_that_differs_is_followed_by_a_list() {
    let server = gateway(|path, body, n| match path {
        "/v3/watch" => stream(&[created(7)]).hang(),
        _ if body["limit"] == "1" => {
            ok(json!({"header": {"cluster_id": "1", "revision": "9"}, "kvs": [kv("b", 9)], "count": "1"}))
        }
        _ if n == 0 => list(7, &["a"]),
        _ => list(9, &["b"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    until(&mut watch, "the set", |v| ids(v) == ["a"]).await;
    until(&mut watch, "what was missed", |v| ids(v) == ["b"]).await;
}

/// ED5: a stream that is left open after its compaction, again and again.
#[tokio::test]
async fn a_compaction_is_noticed_although_the_stream_stays_open_and_lists_are_few() {
    let server = gateway(|path, _, n| match path {
        "/v3/watch" => {
            let canceled =
                json!({"result": {"header": {}, "canceled": true, "compact_revision": "13"}});
            stream(&[created(20), canceled]).hang()
        }
        _ if n == 0 => list(7, &["a"]),
        _ => list(20, &["b"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    until(&mut watch, "the new list", |v| ids(v) == ["b"]).await;
    assert_eq!(watch.view().state, ViewState::Live);
    tokio::time::sleep(SECOND * 4).await;
    let lists = asked(&server, "/v3/kv/range").len();
    assert!(lists < 12, "{lists} lists in four seconds");
}

/// ED13: with the same cluster id.
#[tokio::test]
async fn a_store_that_went_back_between_list_and_watch_is_listed_again() {
    let server = gateway(|path, _, n| match path {
        "/v3/watch" => stream(&[created(3)]).hang(),
        _ if n == 0 => list(7, &["a"]),
        _ => list(3, &["b"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    until(&mut watch, "the set", |v| ids(v).contains(&"a")).await;
    until(&mut watch, "the store as it is", |v| ids(v) == ["b"]).await;
}

/// ED14: created and canceled at once, and the stream stays open.
#[tokio::test]
async fn a_refused_watch_is_an_error_and_keeps_the_set() {
    let server = gateway(|path, _, _| match path {
        "/v3/watch" => {
            let refused = json!({"result": {
                "header": {}, "watch_id": "-1", "created": true, "canceled": true,
                "cancel_reason": "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            }});
            stream(&[refused]).hang()
        }
        _ => list(7, &["a"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    let view = until(&mut watch, "the error", |v| v.error.is_some()).await;
    let error = view.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("permission denied"), "{error}");
    assert_eq!(ids(&watch.view()), ["a"]);
}

/// ED15: the forms of 3.4 and 3.5, as bodies and as lines.
#[tokio::test]
async fn errors_are_read_in_the_forms_of_both_versions() {
    for (answer, kind, text) in [
        (
            status(
                503,
                r#"{"error":"no leader","message":"no leader","code":14}"#,
            ),
            ErrorKind::Unavailable,
            "no leader",
        ),
        (
            status(503, r#"{"code":14, "message":"no leader"}"#),
            ErrorKind::Unavailable,
            "no leader",
        ),
        (
            status(504, r#"{"code":4, "message":"context deadline exceeded"}"#),
            ErrorKind::Unavailable,
            "deadline",
        ),
        (
            status(403, r#"{"code":7, "message":"permission denied"}"#),
            ErrorKind::Denied,
            "permission",
        ),
        (
            status(401, r#"{"error":"invalid auth token","code":16}"#),
            ErrorKind::Denied,
            "auth token",
        ),
        (
            status(400, r#"{"code":3, "message":"invalid range_end"}"#),
            ErrorKind::Refused,
            "range_end",
        ),
        (
            status(
                429,
                r#"{"code":8, "message":"etcdserver: too many requests"}"#,
            ),
            ErrorKind::Limited,
            "too many",
        ),
        (status(404, "Not Found"), ErrorKind::Refused, "404"),
        (status(302, ""), ErrorKind::Refused, "redirects"),
        (
            stream(&[
                json!({"error": {"grpc_code": 14, "http_code": 503, "message": "no leader"}}),
            ])
            .hang(),
            ErrorKind::Unavailable,
            "no leader",
        ),
        (
            stream(&[json!({"error": {"code": 14, "message": "no leader"}})]).hang(),
            ErrorKind::Unavailable,
            "no leader",
        ),
        (
            stream(&[
                created(7),
                json!({"result": {"header": {}, "canceled": true, "cancel_reason": "mvcc: gone"}}),
            ])
            .hang(),
            ErrorKind::Unavailable,
            "gone",
        ),
        (
            stream(&[]).write("0\r\n\r\n"),
            ErrorKind::Unreachable,
            "ended the watch",
        ),
        (stream(&[]).close(), ErrorKind::Unreachable, "broke"),
        (
            stream(&[json!([1])]).hang(),
            ErrorKind::Malformed,
            "not etcd's",
        ),
        (
            stream(&[json!({})]).hang(),
            ErrorKind::Malformed,
            "not etcd's",
        ),
        (
            stream(&[events(
                8,
                json!([{"kv": {"key": "YQ==", "mod_revision": "8"}}]),
            )])
            .hang(),
            ErrorKind::Malformed,
            "not asked for",
        ),
        (
            stream(&[events(
                8,
                json!([{"kv": {"key": "?", "mod_revision": "8"}}]),
            )])
            .hang(),
            ErrorKind::Malformed,
            "not etcd's",
        ),
    ] {
        let server = gateway(move |path, _, _| match path {
            "/v3/watch" => answer.clone(),
            _ => list(7, &["a"]),
        })
        .await;
        let mut watch = connect(&url(&server)).watch("web").unwrap();
        let view = until(&mut watch, text, |v| v.error.is_some()).await;
        let error = view.error.unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_chain().contains(text),
            "{} does not say {text:?}",
            error.to_chain()
        );
        assert_eq!(ids(&watch.view()), ["a"]);
    }
}

#[tokio::test]
async fn lists_that_cannot_be_used_keep_the_last_good_set() {
    let header = json!({"cluster_id": "1", "revision": "9"});
    let mut cases: Vec<(Script, &str)> = [
        ("<html>", "not etcd's"),
        ("", "not etcd's"),
        ("null", "not etcd's"),
        ("[1]", "not etcd's"),
        (r#"{"header": 5}"#, "not etcd's"),
        (r#"{"header": {"revision": "x"}}"#, "not etcd's"),
        (
            r#"{"header": {"revision": "99999999999999999999"}}"#,
            "not etcd's",
        ),
        (r#"{"header": {"revision": 1.5}}"#, "not etcd's"),
        ("{}", "no revision"),
        (r#"{"header": {"revision": "-4"}}"#, "no revision"),
        (r#"{"header": {"revision": "9"}, "kvs": {}}"#, "not etcd's"),
        (
            r#"{"header": {"revision": "9"}, "kvs": [{"key": "!"}]}"#,
            "not etcd's",
        ),
        (
            r#"{"header": {"revision": "9"}, "more": true}"#,
            "without keys",
        ),
    ]
    .into_iter()
    .map(|(body, why)| (status(200, body), why))
    .collect();
    let answer = |kvs: Value| ok(json!({"header": header, "kvs": kvs, "count": "2"}));
    cases.push((answer(json!([kv("b", 5), kv("a", 5)])), "not in order"));
    cases.push((answer(json!([kv("a", 5), kv("a", 5)])), "not in order"));
    cases.push((
        answer(json!([{"key": encode("/secret/a")}])),
        "not asked for",
    ));
    cases.push((
        Script::new()
            .write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
            .close(),
        "broke off",
    ));
    for (script, why) in cases {
        let server = gateway(move |path, _, n| match (path, n) {
            // Ends, so that a list follows.
            ("/v3/watch", _) => stream(&[created(7)]).close(),
            (_, 0) => list(7, &["a"]),
            _ => script.clone(),
        })
        .await;
        let mut watch = connect(&url(&server)).watch("web").unwrap();
        let view = until(&mut watch, why, |v| {
            v.error.as_ref().is_some_and(|e| e.to_chain().contains(why))
        })
        .await;
        assert_eq!(
            (ids(&view), view.state),
            (vec!["a"], ViewState::Stale),
            "{why}"
        );
    }
}

/// ED9, ED17.
#[tokio::test]
async fn pages_are_of_one_revision_and_begin_again_after_a_compaction() {
    let server = gateway(|path, body, n| {
        let page = |ids: &[&str], more: bool| {
            let kvs: Vec<_> = ids.iter().map(|id| kv(id, 5)).collect();
            // The store goes on meanwhile.
            let revision = (7 + n).to_string();
            ok(json!({"header": {"cluster_id": "1", "revision": revision}, "kvs": kvs, "more": more, "count": "3"}))
        };
        match (path, n) {
            ("/v3/watch", _) => stream(&[created(20)]).hang(),
            (_, 0) => page(&["a", "b"], true),
            (_, 1) => {
                assert_eq!((&body["revision"], decode(&body["key"])), (&json!("7"), "/services/web/b\0".to_owned()));
                status(400, r#"{"code":11, "message":"required revision has been compacted"}"#)
            }
            (_, 2) => {
                assert_eq!((&body["revision"], decode(&body["key"])), (&json!("0"), "/services/web/".to_owned()));
                page(&["a", "c"], true)
            }
            _ => {
                assert_eq!(body["revision"], "9");
                page(&["d"], false)
            }
        }
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    let view = until(&mut watch, "the set", |v| !v.instances.is_empty()).await;
    assert_eq!(ids(&view), ["a", "c", "d"]);
    eventually(LONG, "the watch", || async {
        asked(&server, "/v3/watch").len() == 1
    })
    .await;
    let body = &asked(&server, "/v3/watch")[0]["create_request"];
    assert_eq!(
        body["start_revision"], "10",
        "after the revision of the first page"
    );
}

/// A page of 65 MiB: the limit becomes smaller until the pages fit.
#[tokio::test]
async fn a_page_that_is_too_long_is_read_in_smaller_ones() {
    let server = gateway(|path, body, _| match path {
        "/v3/watch" => stream(&[created(7)]).hang(),
        _ if body["limit"] == "1000" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 68157440\r\n\r\n";
            Script::new()
                .write(head)
                .stream(vec![b' '; 1 << 16], 68_157_440)
        }
        _ => list(7, &["a"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    until(&mut watch, "the set", |v| ids(v) == ["a"]).await;
    assert_eq!(asked(&server, "/v3/kv/range")[1]["limit"], "100");
}

/// ED16: bounded, and no loop of errors.
#[tokio::test]
async fn a_line_that_is_too_long_is_read_in_pages() {
    let server = gateway(|path, _, n| match (path, n) {
        ("/v3/watch", 0) => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
            Script::new()
                .write(head)
                .stream(vec![b' '; 1 << 16], 100 << 20)
        }
        ("/v3/watch", _) => stream(&[created(9)]).hang(),
        (_, 0) => list(7, &["a"]),
        _ => list(9, &["a", "b"]),
    })
    .await;
    let mut watch = connect(&url(&server)).watch("web").unwrap();
    let view = until(&mut watch, "the set", |v| ids(v) == ["a", "b"]).await;
    assert!(view.error.is_none(), "{:?}", view.error);
    assert!(
        server.written() < 60 << 20,
        "the line is not read to its end"
    );
}

/// Errors, `Debug` and the log at its finest level, also of the libraries below.
#[tokio::test]
async fn no_password_and_no_token_is_shown_anywhere() {
    let (log, _guard) = Log::start(tracing::Level::TRACE);
    let server = gateway(|path, _, _| match path {
        "/v3/auth/authenticate" => ok(json!({"header": {}, "token": "tok-SECRET"})),
        // Some gateways quote the request.
        _ => status(403, "denied for tok-SECRET"),
    })
    .await;
    let url = format!("etcd://me:pass-SECRET@{}?timeout=2s", server.addr());
    let registry = connect(&url);
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "the error", |v| v.error.is_some()).await;
    let registration = registry.register(instance("web", "a")).unwrap();
    let error = view.error.as_ref().unwrap().to_chain();
    assert!(error.contains("denied for [hidden]"), "{error}");
    let shown = format!("{registry:?} {watch:?} {registration:?} {view:?} {error}");
    assert!(!shown.contains("SECRET"), "{shown}");
    let sent = server.requests();
    assert!(
        sent.iter()
            .any(|head| head.header("authorization") == Some("tok-SECRET")),
        "the token was used"
    );
    registration.deregister().await.unwrap();
    let log = log.take();
    assert!(log.contains("no list yet"), "{log}");
    assert!(!log.contains("SECRET"), "{log}");
}

/// A gateway that quotes the login: as etcd's error, as text, and in an answer that is not etcd's.
#[tokio::test]
async fn a_gateway_that_quotes_the_login_does_not_make_the_password_known() {
    let quoted = r#"{"name":"me","password":"pass-SECRET"}"#;
    for answer in [
        status(
            400,
            &json!({"error": quoted, "message": quoted, "code": 13}).to_string(),
        ),
        status(502, &format!("<p>upstream refused {quoted}</p>")),
        status(200, quoted),
    ] {
        let (log, _guard) = Log::start(tracing::Level::TRACE);
        let server = gateway(move |path, _, _| match path {
            "/v3/auth/authenticate" => answer.clone(),
            _ => status(403, "denied"),
        })
        .await;
        let url = format!("etcd://me:pass-SECRET@{}?timeout=2s", server.addr());
        let mut watch = connect(&url).watch("web").unwrap();
        let view = until(&mut watch, "the error", |v| v.error.is_some()).await;
        let shown = format!("{view:?} {}", view.error.as_ref().unwrap().to_chain());
        let all = shown + &log.take();
        assert!(!all.contains("SECRET"), "{all}");
    }
}
