//! What clients send that cannot be used: refused with the reason, and the registry goes on.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Service, ServiceExt};

use super::*;

async fn refused(front: &Front, method: &str, target: &str, body: &str, status: u16, cause: &str) {
    let reply = front.send(method, target, body).await;
    let what = format!(
        "{method} {target} {}",
        body.chars().take(80).collect::<String>()
    );
    assert_eq!(reply.status, status, "{what}: {}", reply.text());
    let body = reply.json();
    let error = body["error"]
        .as_str()
        .unwrap_or_else(|| panic!("{what}: {body}"));
    assert!(error.contains(cause), "{what}: {error:?} without {cause:?}");
    assert!(error.len() < 400, "{what}: a message is short");
    assert_eq!(reply.headers["content-type"], "application/json");
}

#[tokio::test]
async fn registrations_that_cannot_be_used_name_the_field_and_its_range() {
    let front = Front::start().await;
    let with = |fields: &str| format!(r#"{{"serviceId": "a", "host": "h", {fields}}}"#);
    let port = |fields: &str| with(&format!(r#""port": 80, {fields}"#));
    let long = "x".repeat(2_000);
    for (body, cause) in [
        (String::new(), "not JSON"),
        ("{".to_owned(), "not JSON"),
        ("\u{0}".to_owned(), "not JSON"),
        ("[".repeat(5_000), "not JSON"),
        ("[]".to_owned(), "JSON object"),
        ("null".to_owned(), "JSON object"),
        (
            r#"{"host": "h", "port": 80}"#.to_owned(),
            "serviceId is missing",
        ),
        (
            r#"{"serviceId": "", "host": "h", "port": 80}"#.to_owned(),
            "serviceId",
        ),
        (
            r#"{"serviceId": " \t", "host": "h", "port": 80}"#.to_owned(),
            "serviceId",
        ),
        (
            r#"{"serviceId": "a\nERROR b", "host": "h", "port": 80}"#.to_owned(),
            "no control characters",
        ),
        (port(r#""serviceName": "\u001b[2J""#), "serviceName"),
        (port(r#""zone": "a\u0085""#), "zone"),
        (
            r#"{"serviceId": 5, "host": "h", "port": 80}"#.to_owned(),
            "serviceId is 5",
        ),
        (
            format!(r#"{{"serviceId": "{long}", "host": "h", "port": 80}}"#),
            "serviceId",
        ),
        (
            r#"{"serviceId": "a", "port": 80}"#.to_owned(),
            "host is missing",
        ),
        (
            r#"{"serviceId": "a", "host": "", "port": 80}"#.to_owned(),
            "host",
        ),
        (
            r#"{"serviceId": "a", "host": "a b", "port": 80}"#.to_owned(),
            "host",
        ),
        (
            r#"{"serviceId": "a", "host": "0.0.0.0", "port": 80}"#.to_owned(),
            "host",
        ),
        (
            r#"{"serviceId": "a", "host": "h:80", "port": 80}"#.to_owned(),
            "host",
        ),
        (
            r#"{"serviceId": "a", "host": 1, "port": 80}"#.to_owned(),
            "host is 1",
        ),
        (with(r#""x": 1"#), "port is missing"),
        (
            with(r#""port": 0"#),
            "port is 0; it must be a whole number in 1..=65535",
        ),
        (
            with(r#""port": -1"#),
            "port is -1; it must be a whole number in 1..=65535",
        ),
        (with(r#""port": 70000"#), "port is 70000"),
        (with(r#""port": 80.5"#), "port is 80.5"),
        (with(r#""port": "80""#), "port"),
        (with(r#""port": 1e400"#), "not JSON"),
        (port(r#""serviceName": """#), "serviceName"),
        (
            port(r#""weight": -1"#),
            "weight is -1; it must be a whole number in 0..=65535",
        ),
        (port(r#""weight": 65536"#), "weight is 65536"),
        (port(r#""zone": 7"#), "zone"),
        (port(r#""status": "fine""#), "status"),
        (port(r#""tags": "v1""#), "tags"),
        (port(r#""tags": [1]"#), "tags"),
        (port(r#""metadata": []"#), "metadata"),
        (port(r#""metadata": {"k": {}}"#), "metadata.k"),
        (
            port(r#""heartbeatInterval": -1"#),
            "heartbeatInterval is -1",
        ),
        (port(r#""heartbeatInterval": "10s""#), "heartbeatInterval"),
        (
            port(r#""heartbeatInterval": 99999999999999999999"#),
            "heartbeatInterval",
        ),
        (port(r#""ttl": 0"#), "ttl is 0"),
        (port(r#""ttl": 10, "heartbeatInterval": 20"#), "ttl"),
        (port(r#""healthCheck": "/health""#), "healthCheck"),
        (
            port(r#""healthCheck": {"path": "health"}"#),
            "healthCheck.path",
        ),
        (
            port(r#""healthCheck": {"path": "/\r\nHost: x"}"#),
            "healthCheck.path",
        ),
        (
            port(r#""healthCheck": {"interval": 0}"#),
            "healthCheck.interval",
        ),
        (
            port(r#""healthCheck": {"timeout": -1}"#),
            "healthCheck.timeout",
        ),
        (
            port(r#""healthCheck": {"maxFailures": 0}"#),
            "healthCheck.maxFailures",
        ),
    ] {
        refused(&front, "PUT", "/registry/register", &body, 400, cause).await;
    }
    assert!(
        front.memory.services().is_empty(),
        "nothing was kept of them"
    );
}

#[tokio::test]
async fn requests_that_cannot_be_used_say_why() {
    let front = Front::start().await;
    let id = |id: &str| format!(r#"{{"serviceId": "{id}"}}"#);
    let post = "/registry/heartbeat";
    refused(&front, "POST", post, "?", 400, "not JSON").await;
    refused(&front, "POST", post, "{}", 400, "serviceId is missing").await;
    refused(
        &front,
        "POST",
        post,
        &id("none"),
        404,
        "\"none\" is unknown",
    )
    .await;
    let body = r#"{"serviceId": "a", "port": -5}"#;
    refused(&front, "POST", post, body, 400, "port is -5").await;
    refused(
        &front,
        "DELETE",
        "/registry/none",
        "",
        404,
        "\"none\" is unknown",
    )
    .await;
    refused(
        &front,
        "DELETE",
        "/registry/a?port=-5",
        "",
        400,
        "port is -5",
    )
    .await;
    refused(&front, "DELETE", "/registry/%ff", "", 400, "UTF-8").await;
    refused(&front, "DELETE", "/registry/%20", "", 400, "blank").await;
    refused(&front, "DELETE", "/registry/a%0a", "", 400, "control").await;
    let name = "/registry/services/a%1b";
    refused(&front, "GET", name, "", 400, "control").await;
    for wait in ["5", "-5s", "5x", "s", "", "1e9s", "%00"] {
        let target = format!("/registry/services/web?index=1&wait={wait}");
        refused(&front, "GET", &target, "", 400, "wait is").await;
    }
    for index in ["-1", "x", "", "99999999999999999999999"] {
        let target = format!("/registry/services/web?index={index}");
        refused(&front, "GET", &target, "", 400, "index is").await;
    }
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/registry"),
        ("GET", "/registry/"),
        ("GET", "/registry/services/a/b"),
        ("GET", "/other/services/a"),
        ("PUT", "/registry/register/"),
    ] {
        refused(&front, method, target, "", 404, "no such path").await;
    }
    for (method, target, allow) in [
        ("POST", "/registry/register", "PUT"),
        ("GET", "/registry/heartbeat", "POST"),
        ("GET", "/registry/some-id", "DELETE"),
        ("PUT", "/registry/services/web", "GET"),
        ("PATCH", "/registry/services", "GET"),
        ("POST", "/registry/health", "GET"),
    ] {
        refused(&front, method, target, "", 405, allow).await;
        let reply = front.send(method, target, "").await;
        let header = reply.headers["allow"].to_str().unwrap();
        assert!(header.contains(allow), "{method} {target}: {header}");
    }
}

#[tokio::test]
async fn an_expired_id_is_unknown() {
    let front = Front::start().await;
    let body = r#"{"serviceId": "a", "host": "h", "port": 80, "heartbeatInterval": 10}"#;
    front.put(body).await.ok();
    let expired = || async { front.memory.instances("a").is_empty() };
    support::eventually(LONG, "the instance expires", expired).await;
    let body = r#"{"serviceId": "a-h-80"}"#;
    refused(&front, "POST", "/registry/heartbeat", body, 404, "expired").await;
}

fn head(length: &str) -> String {
    format!(
        "PUT /registry/register HTTP/1.1\r\nHost: 127.0.0.1\r\n\
         Content-Type: application/json\r\n{length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_however_it_comes() {
    let front = Front::start().await;
    let body = |len: usize| {
        let pad = "x".repeat(len);
        format!(r#"{{"serviceId": "a", "host": "h", "port": 80, "metadata": {{"k": "{pad}"}}}}"#)
    };
    let small = body(60_000);
    front.put(&small).await.ok();
    for len in [70_000, 1_000_000, 3_000_000] {
        refused(
            &front,
            "PUT",
            "/registry/register",
            &body(len),
            413,
            "65536 bytes",
        )
        .await;
    }
    // Announced as endless, so that nothing of it is read.
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let head = self::head("Content-Length: 99999999999");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // Without any length, in chunks.
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let head = self::head("Transfer-Encoding: chunked");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..4 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(front.memory.instances("a").len(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_in_its_body_harms_nobody() {
    let front = Front::start().await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(front.addr).await.unwrap();
        let head = head("Content-Length: 100") + "{";
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    front.get("/registry/health").await.ok();
}

/// A body of which nothing more ever comes.
struct Stalled;

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_is_waited_for_10_s() {
    let server = RestServer::new(Memory::new());
    let start = tokio::time::Instant::now();
    let request = Request::put("http://localhost/registry/register")
        .header("content-type", "application/json")
        .body(Stalled)
        .unwrap();
    let reply = server.oneshot(request).await.unwrap();
    assert_eq!(reply.status(), 408);
    let after = start.elapsed();
    assert!(
        after >= SECOND * 10 && after < SECOND * 11,
        "after {after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_dropped_leaves_nothing_behind() {
    let memory = Memory::new();
    let mut server = RestServer::new(memory.clone());
    memory.register(instance("a")).unwrap();
    let get = |index: u64| {
        let target = format!("http://localhost/registry/services/web?index={index}&wait=60s");
        Request::get(target).body(Full::<Bytes>::default()).unwrap()
    };
    let mut waiting = server.call(get(memory.index()));
    assert!(tokio::time::timeout(SECOND, &mut waiting).await.is_err());
    assert_eq!(memory.watchers("web"), 1);
    drop(waiting);
    assert_eq!(memory.watchers("web"), 0);
    let reply = server.clone().oneshot(get(1)).await.unwrap();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(b"{"));
}

#[tokio::test]
async fn names_in_paths_are_no_longer_than_those_in_registrations() {
    let front = Front::start().await;
    let (longest, longer) = ("x".repeat(512), "x".repeat(513));
    let services = "/registry/services";
    front.get(&format!("{services}/{longest}")).await.ok();
    let cause = "512 bytes";
    let target = format!("{services}/{longer}");
    refused(&front, "GET", &target, "", 400, cause).await;
    let target = format!("/registry/{longer}");
    refused(&front, "DELETE", &target, "", 400, cause).await;
}
