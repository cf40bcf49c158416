//! What the page refuses, and that it says why.

use serde_json::json;
use tower_roster::{
    ConfigError,
    telemetry::status::{StatusPage, StatusSettings},
};

use crate::kit::{Page, Rig, SERVICE, TOKEN, settings};

async fn page(settings: StatusSettings) -> Page {
    Page::serve(StatusPage::new().settings(settings).build().unwrap()).await
}

#[tokio::test]
async fn the_page_allows_its_own_script_and_nothing_else() {
    let page = page(settings()).await;
    let (one, two) = (page.get("/").await.ok(), page.get("/").await.ok());
    let header = |name: &str| one.headers[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    for part in [
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_ne!(
        policy, two.headers["content-security-policy"],
        "a nonce is new each time"
    );
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("cache-control"), "no-store");
    let html = one.text();
    assert!(html.contains("test &lt;page&gt; &amp; &quot;title&quot;"));
    assert!(!html.contains("{{") && !html.contains(" style=\"") && !html.contains(" onclick="));
    for elsewhere in ["http://", "https://"] {
        let found = html.match_indices(elsewhere);
        let named: Vec<_> = found
            .map(|(at, _)| html[at..].chars().take(30).collect::<String>())
            .filter(|url| !url.starts_with("http://www.w3.org/2000/svg"))
            .collect();
        assert!(named.is_empty(), "nothing from elsewhere: {named:?}");
    }
    assert!(!html.contains("innerHTML"));
}

#[tokio::test]
async fn requests_that_are_not_understood_are_refused() {
    let page = page(settings().orders(TOKEN)).await;
    let long = format!("/status.json?filter={}", "x".repeat(3_000));
    for (method, target, status) in [
        ("GET", "/../etc/passwd", 404),
        ("GET", "/%2e%2e/status.json", 404),
        ("GET", "/status.json/../status.json", 404),
        ("GET", "//status.json", 404),
        ("GET", "/status.json/", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", &*long, 414),
        ("GET", "/status.json?limit=0", 400),
        ("GET", "/status.json?limit=201", 400),
        ("GET", "/status.json?offset=-1", 400),
        ("GET", "/status.json?offset=99999999999999999999", 400),
        ("GET", "/status.json?sort=nothing", 400),
        ("GET", "/status.json?state=nothing", 400),
        ("GET", "/status.json?order=up", 400),
        ("GET", "/status.json?unknown=1", 400),
        ("POST", "/", 405),
        ("POST", "/status.json", 405),
        ("PUT", "/orders", 405),
        ("DELETE", "/orders", 405),
        ("GET", "/orders", 405),
    ] {
        let reply = page.send(method, target, &[], "").await;
        assert_eq!(reply.status, status, "{method} {target}: {}", reply.text());
        assert!(reply.json()["error"].is_string());
    }
    assert_eq!(
        page.json("?offset=18446744073709551615").await["view"]["offset"],
        0
    );
}

#[tokio::test]
async fn a_query_of_a_megabyte_is_refused_and_the_next_request_is_not() {
    let page = page(settings()).await;
    let target = format!("/status.json?filter={}", "x".repeat(1 << 20));
    let sent = crate::support::http1::send(page.addr, "GET", &target, &[], b"", crate::kit::WITHIN);
    // The server may close the connection while the rest is still sent.
    if let Ok(reply) = sent.await {
        assert!(matches!(reply.status, 414 | 431), "{}", reply.status);
    }
    page.get("/status.json").await.ok();
}

#[tokio::test]
async fn orders_are_refused_without_the_whole_proof() {
    let rig = Rig::start(settings().orders(TOKEN)).await;
    let origin = format!("http://{}", rig.page.addr);
    let right = format!("Bearer {TOKEN}");
    let json = ("content-type", "application/json");
    let auth = ("authorization", &*right);
    let body = json!({"service": SERVICE, "order": "eject", "id": "user-1"}).to_string();
    let shorter = format!("Bearer {}", &TOKEN[1..]);
    let longer = format!("Bearer {TOKEN}x");
    for (headers, status) in [
        (vec![json], 401),
        (
            vec![json, ("authorization", "Bearer wrong-token-of-20-letters")],
            401,
        ),
        (vec![json, ("authorization", &*shorter)], 401),
        (vec![json, ("authorization", &*longer)], 401),
        (vec![json, ("authorization", TOKEN)], 401),
        (vec![json, ("authorization", "Bearer ")], 401),
        (vec![json, auth, auth], 401),
        (vec![json, auth, ("origin", "http://evil.example")], 403),
        (vec![json, auth, ("origin", "null")], 403),
        (vec![json, auth, ("origin", "http://127.0.0.1:1")], 403),
        (vec![json, auth, ("sec-fetch-site", "cross-site")], 403),
        (vec![json, auth, ("sec-fetch-site", "same-site")], 403),
        (vec![auth, ("content-type", "text/plain")], 415),
        (vec![auth], 415),
    ] {
        let reply = rig.page.send("POST", "/orders", &headers, &body).await;
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        assert!(!reply.text().contains(TOKEN));
    }
    // A token in a URL would be in logs.
    let target = format!("/orders?token={TOKEN}");
    let reply = rig.page.send("POST", &target, &[json], &body).await;
    assert_eq!(reply.status, 401);
    let reply = rig.page.send("POST", &target, &[json, auth], &body).await;
    assert_eq!(reply.status, 400);
    let data = format!("/status.json?token={TOKEN}");
    for target in [&target, &data] {
        let reply = rig.page.get(target).await;
        assert!(
            matches!(reply.status, 400 | 405),
            "{target}: {}",
            reply.status
        );
        assert!(!reply.text().contains(TOKEN));
    }
    assert!(
        rig.endpoints().await[0].cause.is_none(),
        "nothing was ejected"
    );
    let own = [json, auth, ("origin", &*origin)];
    let reply = rig.page.send("POST", "/orders", &own, &body).await;
    reply.ok();
    assert!(rig.endpoints().await[0].cause.is_some());
}

#[tokio::test]
async fn orders_are_off_by_default() {
    let rig = Rig::start(settings()).await;
    let reply = rig
        .page
        .order(json!({"order": "eject", "id": "user-1"}))
        .await;
    assert_eq!(reply.status, 403);
    assert_eq!(rig.page.json("").await["writable"], false);
    assert!(rig.endpoints().await[0].cause.is_none());
}

#[tokio::test]
async fn an_order_whose_body_never_ends_is_given_up() {
    let page = page(settings().orders(TOKEN)).await;
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{",
        page.addr
    );
    let mut stream = tokio::net::TcpStream::connect(page.addr).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    let mut reply = [0; 12];
    let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut reply);
    tokio::time::timeout(crate::kit::WITHIN, read)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&reply, b"HTTP/1.1 408");
}

#[tokio::test]
async fn pages_of_other_sites_cannot_read_it() {
    let page = page(settings().host("status.example")).await;
    let port = page.addr.port();
    let own = format!("status.example:{port}");
    let other = format!("evil.example:{port}");
    let get = |host: String, more: Vec<(&'static str, String)>| {
        let page = &page;
        async move {
            let mut stream = tokio::net::TcpStream::connect(page.addr).await.unwrap();
            let more: String = more.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
            let head = format!(
                "GET /status.json HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n"
            );
            tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
                .await
                .unwrap();
            let mut reply = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut reply)
                .await
                .unwrap();
            reply[9..12].parse::<u16>().unwrap()
        }
    };
    let ip = format!("127.0.0.1:{port}");
    for (host, status) in [
        (&ip, 200),
        (&format!("localhost:{port}"), 200),
        (&format!("[::1]:{port}"), 200),
        (&own, 200),
        (&other, 403),
        (&format!("status.example.evil.example:{port}"), 403),
        (&"a@status.example".to_owned(), 400),
    ] {
        assert_eq!(get(host.clone(), vec![]).await, status, "{host}");
    }
    let site = |site: &str| vec![("sec-fetch-site", site.to_owned())];
    assert_eq!(get(ip.clone(), site("cross-site")).await, 403);
    assert_eq!(get(ip.clone(), site("same-origin")).await, 200);
    assert_eq!(get(ip.clone(), site("none")).await, 200);
    let origin = |origin: &str| vec![("origin", origin.to_owned())];
    assert_eq!(get(ip.clone(), origin("http://evil.example")).await, 403);
    assert_eq!(
        get(ip.clone(), origin("https://status.example")).await,
        200,
        "a proxy changed the host"
    );
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let build = |settings: StatusSettings| -> ConfigError {
        StatusPage::new().settings(settings).build().unwrap_err()
    };
    let one = StatusSettings::new;
    let ms = std::time::Duration::from_millis;
    for (settings, field) in [
        (one().title("x".repeat(201)), "status.title"),
        (one().at("status"), "status.at"),
        (one().at("/status/"), "status.at"),
        (one().at("/a b"), "status.at"),
        (one().host(""), "status.host"),
        (one().host("http://a"), "status.host"),
        (one().interval(ms(249)), "status.interval"),
        (one().interval(ms(60_001)), "status.interval"),
        (one().streams(0), "status.streams"),
        (one().streams(1_001), "status.streams"),
        (one().orders("fifteen-letters"), "status.orders"),
        (one().orders("sixteen letters!"), "status.orders"),
    ] {
        let error = build(settings.clone());
        assert_eq!(error.field(), field, "{error}");
        assert_ne!(settings, one());
    }
    let secret = one().orders(TOKEN);
    assert!(!format!("{secret:?}").contains(TOKEN));
}
