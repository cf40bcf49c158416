//! What a client does with a server that is none, or is broken: it says so, keeps the last good set,
//! and goes on.

use bytes::Bytes;
use http::Response;
use tower_roster::error::ErrorKind;

use super::{
    support::{FaultProxy, Mode, Rule, eventually, http1::reply},
    *,
};
use tower_roster::registry::ViewState;

fn answer(index: &str, epoch: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = reply(200, body);
    for (name, value) in [("x-registry-index", index), ("x-registry-epoch", epoch)] {
        let name = http::HeaderName::from_static(name);
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

#[tokio::test]
async fn answers_that_cannot_be_used_keep_the_last_good_set() {
    let front = Front::start().await;
    front
        .memory
        .register(registry::Announcement::new(instance("a")).health(registry::Health::Unchecked))
        .unwrap();
    let mut proxy = FaultProxy::http(front.addr).await;
    let registry = registry::connect(&format!("rest://{}", proxy.addr())).unwrap();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let redirect = {
        let mut redirect = reply(302, "");
        let to = front.url().parse().unwrap();
        redirect.headers_mut().insert("location", to);
        redirect
    };
    let cases: Vec<(&str, Response<Bytes>, ErrorKind, &str)> = vec![
        (
            "html",
            answer("5", "1", "<html>"),
            ErrorKind::Malformed,
            "not a list",
        ),
        (
            "empty",
            answer("5", "1", ""),
            ErrorKind::Malformed,
            "not a list",
        ),
        (
            "other",
            answer("5", "1", "{}"),
            ErrorKind::Malformed,
            "not a list",
        ),
        (
            "null",
            answer("5", "1", "null"),
            ErrorKind::Malformed,
            "not a list",
        ),
        (
            "types",
            answer("5", "1", r#"{"exists": true, "instances": {}}"#),
            ErrorKind::Malformed,
            "not a list",
        ),
        (
            "no utf-8",
            answer(
                "5",
                "1",
                &b"{\"exists\": true, \"instances\": [\"\xff\xfe\"]}"[..],
            ),
            ErrorKind::Malformed,
            "not a list",
        ),
        (
            "index",
            answer("x", "1", "{}"),
            ErrorKind::Malformed,
            "x-registry-index is \"x\"",
        ),
        (
            "zero",
            answer("0", "1", "{}"),
            ErrorKind::Malformed,
            "x-registry-index",
        ),
        (
            "epoch",
            answer("5", "-1", "{}"),
            ErrorKind::Malformed,
            "x-registry-epoch",
        ),
        ("none", reply(200, "{}"), ErrorKind::Malformed, "is missing"),
        (
            "400",
            reply(400, r#"{"error": "no"}"#),
            ErrorKind::Refused,
            "400",
        ),
        ("403", reply(403, ""), ErrorKind::Denied, "403"),
        ("404", reply(404, ""), ErrorKind::Refused, "404"),
        ("429", reply(429, ""), ErrorKind::Limited, "429"),
        ("503", reply(503, ""), ErrorKind::Unavailable, "503"),
        (
            "redirect",
            redirect,
            ErrorKind::Refused,
            "redirects are not followed",
        ),
    ];
    for (what, response, kind, cause) in cases {
        proxy.add(Rule::path("/registry/services").respond(response));
        proxy.disconnect().await;
        let view = until(&mut watch, what, |v| {
            v.error
                .as_ref()
                .is_some_and(|e| e.kind() == kind && e.to_chain().contains(cause))
        })
        .await;
        assert_eq!(
            (ids(&view), view.state),
            (vec!["a"], ViewState::Stale),
            "{what}"
        );
        let error = view.error.unwrap();
        assert_eq!(error.service(), "web", "{what}");
        proxy.clear();
        let mut fresh = registry::connect(&format!("rest://{}", proxy.addr()))
            .unwrap()
            .watch("web")
            .unwrap();
        until(&mut fresh, what, |v| ids(v) == ["a"]).await;
        until(&mut watch, what, |v| v.state == ViewState::Live).await;
    }
    for mode in [Mode::Refuse, Mode::Reset] {
        proxy.set(mode).await;
        let view = until(&mut watch, "the failure", |v| v.state == ViewState::Stale).await;
        assert!(view.error.unwrap().is_unreachable());
        proxy.set(Mode::Pass).await;
        until(&mut watch, "the heal", |v| v.state == ViewState::Live).await;
    }
}

#[tokio::test]
async fn a_bad_record_costs_itself_only() {
    let body = r#"{"exists": true, "instances": [
        {"id": "good", "serviceId": "good", "serviceName": "web", "host": "h", "port": 80},
        {"id": "port", "serviceId": "port", "serviceName": "web", "host": "h", "port": 70000},
        {"id": "host", "serviceId": "host", "serviceName": "web", "host": "", "port": 80},
        {"id": "weight", "serviceId": "weight", "serviceName": "web", "host": "h", "port": 80,
         "weight": -1},
        {"id": "foreign", "serviceId": "foreign", "serviceName": "db", "host": "h", "port": 80},
        17, null, "text", []
    ]}"#;
    let server = support::RawServer::start(move |request| {
        if request.param("index").is_some() {
            support::Script::new().hang()
        } else {
            support::Script::respond(&answer("5", "7", body))
        }
    })
    .await;
    let registry = registry::connect(&format!("rest://{}", server.addr())).unwrap();
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "the good one", |v| ids(v) == ["good"]).await;
    assert_eq!(view.state, ViewState::Live);
    let told: Vec<_> = view.rejected.iter().map(|r| &*r.record).collect();
    assert_eq!(
        told,
        ["port", "host", "weight", "foreign", "#5", "#6", "#7", "#8"]
    );
    assert!(view.rejected[0].reason.contains("port is 70000"));
    drop(watch);
    eventually(LONG, "the open request ends", || async {
        server.open() == 0
    })
    .await;
}

#[tokio::test]
async fn an_index_that_goes_back_is_a_new_beginning() {
    let listing = |id: &str| {
        format!(
            r#"{{"exists": true, "instances": [
            {{"id": "{id}", "serviceId": "{id}", "serviceName": "web", "host": "h", "port": 80}}]}}"#
        )
    };
    let first = listing("a");
    let then = listing("b");
    let reads = std::sync::atomic::AtomicUsize::new(0);
    let server = support::RawServer::start(move |request| {
        use std::sync::atomic::Ordering::SeqCst;
        match request.param("index") {
            None if reads.fetch_add(1, SeqCst) == 0 => {
                support::Script::respond(&answer("50", "7", first.clone()))
            }
            // What a registry says that started anew must not be taken for a change.
            Some("50") => support::Script::respond(&answer("3", "7", listing("wrong"))),
            None => support::Script::respond(&answer("3", "7", then.clone())),
            Some(_) => support::Script::new().hang(),
        }
    })
    .await;
    let registry = registry::connect(&format!("rest://{}", server.addr())).unwrap();
    let mut watch = registry.watch("web").unwrap();
    let mut seen = Vec::new();
    loop {
        let view = watch.changed().await.unwrap();
        seen.extend(view.instances.iter().map(|i| i.id().to_owned()));
        if seen.last().is_some_and(|id| id == "b") {
            break;
        }
    }
    assert_eq!(seen, ["a", "b"]);
    eventually(LONG, "it waits at the new index", || {
        let waits = server
            .requests()
            .iter()
            .any(|r| r.param("index") == Some("3"));
        async move { waits }
    })
    .await;
}

#[tokio::test]
async fn an_answer_beyond_the_limits_of_the_client_says_which() {
    let fields = |fields: usize, bytes: usize| {
        let field = |n| format!("x-{n:05}: {}\r\n", "0".repeat(bytes));
        (0..fields).map(field).collect::<String>()
    };
    let head = |fields| format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
    let trailers = |fields| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n";
        format!("{head}{fields}\r\n")
    };
    for (what, answer) in [
        ("the head", head(fields(600, 10))),
        ("the head", head(fields(1, 600_000))),
        ("the trailers", trailers(fields(600, 10))),
        ("the trailers", trailers(fields(1, 600_000))),
    ] {
        let answer = Bytes::from(answer);
        let answer = move |_: &_| support::Script::new().write(answer.clone());
        let server = support::RawServer::start(answer).await;
        let url = format!("rest://{}", server.addr());
        let mut watch = registry::connect(&url).unwrap().watch("web").unwrap();
        let view = until(&mut watch, what, |view| view.error.is_some()).await;
        let error = view.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error:?}");
        let told = error.to_chain();
        let limit = format!("{what} of an answer has more than 512 fields or 262144 bytes");
        assert!(told.contains(&limit), "{told}");
    }
}
