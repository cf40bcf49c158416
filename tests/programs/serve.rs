//! `serve`: a backend that behaves as told, and leaves without losing a request.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    kit::{Program, SOON, Serve, consul, rest, run, unique},
    support::{Agent, Reply, eventually, http1::send, need_consul},
};

async fn get(addr: SocketAddr, path: &str) -> Reply {
    send(addr, "GET", path, &[], b"", SOON)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn answers_with_its_delay_and_its_share_of_failures() {
    let mut serve = Serve::start(&["--delay", "20ms", "--fail", "0.57", "--id", "s1"]).await;
    assert_eq!(serve.id, "s1");
    let mut failed = 0;
    for _ in 0..100 {
        let start = Instant::now();
        let reply = get(serve.addr, "/anything").await;
        assert!(
            start.elapsed() >= Duration::from_millis(20),
            "the delay is kept"
        );
        match reply.status {
            200 => assert_eq!(reply.text(), "s1\n"),
            500 => failed += 1,
            other => panic!("{other} {}", reply.text()),
        }
    }
    assert_eq!(failed, 57, "the share of failures is exact");
    assert_eq!(get(serve.addr, "/health").await.status, 200);
    let end = serve.program.stop().await;
    assert!(end.stdout.contains("s1 served 100 requests"), "{end:?}");
}

#[tokio::test]
async fn deregisters_first_then_finishes_what_is_in_flight() {
    need_consul!();
    let agent = Agent::shared().await;
    let service = unique("drained");
    let url = consul(&agent);
    let flags = [
        "--register",
        &url,
        &service,
        "--delay",
        "2500ms",
        "--drain",
        "200ms",
    ];
    let mut serve = Serve::start(&flags).await;
    let wanted = format!("{service}-127.0.0.1-{}", serve.addr.port());
    assert_eq!(serve.id, wanted, "the id of a restart is the same");
    eventually(SOON, "it is registered and passes", || async {
        agent.passing(&service).await == [wanted.as_str()]
    })
    .await;

    // A connection that never sends anything must not keep it.
    let _idle = TcpStream::connect(serve.addr).await.expect("a connection");
    let mut slow = TcpStream::connect(serve.addr).await.expect("a connection");
    let request = b"GET /slow HTTP/1.1\r\nHost: slow\r\nConnection: close\r\n\r\n";
    slow.write_all(request).await.expect("it is sent");
    // Connections are accepted in the order they were made: so the slow one's is.
    assert_eq!(get(serve.addr, "/health").await.status, 200);
    serve.program.signal(Signal::SIGTERM);
    // A supervisor signals the process and its group: that is one order.
    serve.program.signal(Signal::SIGTERM);
    serve.program.signal(Signal::SIGINT);
    serve
        .program
        .line("deregistered", |l| l.ends_with(" deregistered"))
        .await;
    assert!(agent.health(&service).await.is_empty(), "it is taken out");
    let answered = timeout(Duration::ZERO, slow.readable()).await;
    assert!(answered.is_err(), "that comes before the answer");
    let mut reply = String::new();
    slow.read_to_string(&mut reply).await.expect("an answer");
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(reply.ends_with(&format!("{wanted}\n")), "{reply}");
    serve.program.end_well(SOON).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = Serve::start(&[]).await;
    let address = first.addr.to_string();
    let end = run("serve", &["--listen", &address]).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(
        end.stderr.starts_with("error: ") && end.stderr.contains(&address),
        "{end:?}"
    );
    assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
}

#[tokio::test]
async fn serves_and_leaves_politely_when_nobody_reads() {
    let (memory, url) = rest().await;
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--register",
        &url,
        "s",
        "--drain",
        "10ms",
    ];
    let mut serve = Program::start_unread("serve", &flags);
    let address = eventually(SOON, "it is registered", || async {
        Some(memory.instances("s").first()?.address.to_string())
    })
    .await;
    let addr = address.parse().expect("an address");
    assert_eq!(get(addr, "/").await.status, 200);
    serve.stop().await;
    assert!(memory.instances("s").is_empty(), "it is taken out");
}

#[tokio::test]
async fn a_further_signal_a_second_later_ends_it_at_once() {
    let (_memory, url) = rest().await;
    let mut serve = Serve::start(&["--register", &url, "s", "--drain", "10m"]).await;
    serve.program.signal(Signal::SIGTERM);
    serve
        .program
        .line("deregistered", |l| l.ends_with(" deregistered"))
        .await;
    let first = Instant::now();
    // Those that come within a second of the first are taken for the same.
    eventually(SOON, "its end", || {
        serve.program.signal(Signal::SIGTERM);
        std::future::ready(!serve.program.is_running())
    })
    .await;
    let end = serve.program.end(SOON).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(
        first.elapsed() > Duration::from_millis(800),
        "not the same order again"
    );
}
