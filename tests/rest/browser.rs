//! The page of another site in a browser is no client.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const BODY: &str = r#"{"serviceId": "a", "host": "h", "port": 80}"#;

/// The status of the answer to a registration with these lines in its head.
async fn status(addr: SocketAddr, lines: &[&str]) -> u16 {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = BODY.len();
    let mut request = "PUT /registry/register HTTP/1.1\r\nConnection: close\r\n".to_owned();
    for line in lines {
        request.push_str(&format!("{line}\r\n"));
    }
    request.push_str(&format!("Content-Length: {length}\r\n\r\n{BODY}"));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.rsplit(' ').next().unwrap().parse().unwrap()
}

const TYPE: &str = "Content-Type: application/json";

#[tokio::test]
async fn a_request_must_be_for_one_host_of_the_listener() {
    let front = Front::start().await;
    let own = format!("Host: {}", front.addr);
    for (hosts, expected) in [
        (&[&*own][..], 200),
        (&["Host: 127.0.0.1"], 200),
        (&["Host: localhost:1234"], 200),
        (&["Host: LOCALHOST"], 200),
        (&["Host: evil.example"], 403),
        (&["Host: 127.0.0.1.evil.example"], 403),
        (&["Host: 127.0.0.2"], 403),
        (&["Host: 10.0.0.1:80"], 403),
        (&["Host: [::1]"], 403),
        (&["Host: localhost@evil.example"], 400),
        (&["Host: "], 400),
        (&[], 400),
        (&["Host: localhost", "Host: localhost"], 400),
        (&["Host: localhost", "Host: evil.example"], 400),
    ] {
        let lines = [&[TYPE], hosts].concat();
        assert_eq!(status(front.addr, &lines).await, expected, "{hosts:?}");
    }
    // Reads show as much as writes change.
    let headers = &[("Host", "evil.example")];
    let reply = support::http1::send(front.addr, "GET", "/registry/services", headers, b"", LONG);
    assert_eq!(reply.await.unwrap().status, 400, "two hosts");
    // The URI of a request can name its host, too.
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let request =
        "GET http://evil.example/registry/services HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
}

#[tokio::test]
async fn a_listener_on_all_addresses_serves_the_one_that_is_asked() {
    let any = (Ipv4Addr::UNSPECIFIED, 0).into();
    let front = Front::over(Memory::new(), any).await;
    let port = front.addr.port();
    for own in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let addr = SocketAddr::from((own, port));
        let registry = registry::connect(&format!("rest://{addr}")).unwrap();
        let registration = registry.register(instance("a")).unwrap();
        registration.registered().await;
        registration.deregister().await.unwrap();
    }
    let addr = ([127, 0, 0, 1], port).into();
    assert_eq!(status(addr, &[TYPE, "Host: 127.0.0.2"]).await, 403);
    assert_eq!(status(addr, &[TYPE, "Host: 0.0.0.0"]).await, 400);
}

#[tokio::test]
async fn a_list_of_hosts_adds_to_those_of_the_listener() {
    let settings = RestServerSettings::new().host("registry.internal".parse().unwrap());
    let settings = settings.host("10.0.0.5".parse().unwrap());
    let addr = "127.0.0.1:0".parse().unwrap();
    let front = Front::with(Memory::new(), addr, settings).await;
    for (host, expected) in [
        ("Host: registry.internal:80", 200),
        ("Host: Registry.Internal", 200),
        ("Host: 10.0.0.5", 200),
        ("Host: localhost", 200),
        ("Host: 127.0.0.1", 200),
        ("Host: 127.0.0.2", 403),
        ("Host: evil.example", 403),
    ] {
        assert_eq!(status(front.addr, &[TYPE, host]).await, expected, "{host}");
    }
}

#[tokio::test]
async fn the_page_of_another_site_is_refused() {
    let front = Front::start().await;
    let host = format!("Host: {}", front.addr);
    for (lines, expected) in [
        (vec![format!("Origin: http://{}", front.addr)], 200),
        (vec!["Sec-Fetch-Site: same-origin".to_owned()], 200),
        (vec!["Sec-Fetch-Site: none".to_owned()], 200),
        (vec!["Origin: http://evil.example".to_owned()], 403),
        (vec!["Origin: null".to_owned()], 403),
        // Another program on this machine.
        (vec!["Origin: http://127.0.0.1:1".to_owned()], 403),
        (
            vec![format!("Origin: http://{}.evil.example", front.addr)],
            403,
        ),
        (
            vec![
                format!("Origin: http://{}", front.addr),
                "Origin: http://evil.example".to_owned(),
            ],
            403,
        ),
        (vec!["Sec-Fetch-Site: cross-site".to_owned()], 403),
        (vec!["Sec-Fetch-Site: same-site".to_owned()], 403),
    ] {
        let mut head: Vec<&str> = lines.iter().map(String::as_str).collect();
        head.extend([TYPE, &host]);
        assert_eq!(status(front.addr, &head).await, expected, "{lines:?}");
    }
}

#[tokio::test]
async fn a_write_without_the_type_of_json_is_refused() {
    let front = Front::start().await;
    front.put(BODY).await.ok();
    for (header, expected) in [
        (&[("Content-Type", "application/json")][..], 200),
        (&[("Content-Type", "Application/JSON; charset=utf-8")], 200),
        (&[("Content-Type", "text/plain")], 415),
        (&[("Content-Type", "text/plain; application/json")], 415),
        (
            &[("Content-Type", "application/x-www-form-urlencoded")],
            415,
        ),
        (&[], 415),
        (
            &[
                ("Content-Type", "application/json"),
                ("Content-Type", "text/plain"),
            ],
            415,
        ),
    ] {
        let beat = br#"{"serviceId": "a"}"#;
        for (method, path, body) in [
            ("POST", "/registry/heartbeat", &beat[..]),
            ("PUT", "/registry/register", BODY.as_bytes()),
        ] {
            let reply = support::http1::send(front.addr, method, path, header, body, LONG);
            let reply = reply.await.unwrap();
            assert_eq!(reply.status, expected, "{method} {header:?}");
        }
    }
    // A browser asks before it sends a DELETE, and is not allowed to.
    let reply = front.send("OPTIONS", "/registry/a", "").await;
    assert_eq!(reply.status, 405);
    assert!(
        reply
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("access-control"))
    );
}
