//! `registry`: the embedded registry as a process of its own.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use super::{
    kit::{Program, SOON, run},
    support::{Reply, http1::send},
};

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

/// Starts it on a free port.
pub(super) async fn start(flags: &[&str]) -> (Program, SocketAddr) {
    let listen = ["--listen", "127.0.0.1:0"];
    let mut program = Program::start("registry", &[&listen, flags].concat());
    let line = program.line("its address", |l| l.starts_with("listening on "));
    let line = line.await;
    let addr = line.trim_start_matches("listening on ").parse();
    (program, addr.expect("an address"))
}

async fn request(addr: SocketAddr, method: &str, target: &str, body: &str) -> Reply {
    send(addr, method, target, JSON, body.as_bytes(), SOON)
        .await
        .expect("an answer")
}

fn saved(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

#[tokio::test]
async fn other_programs_reach_it_and_its_state_outlives_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.json");
    let state = path.to_str().expect("a path");
    let (mut registry, addr) = start(&["--state", state]).await;
    let url = format!("rest://{addr}");
    let mut watch = Program::start("watch", &[&url, "web", "--json"]);
    let mut register = Program::start("register", &[&url, "web", "127.0.0.1:80", "--id", "a"]);
    register
        .line("its registration", |l| l == "a registered")
        .await;
    watch.line("the instance", |l| l.contains("\"a\"")).await;
    assert_eq!(saved(&path)["instances"][0]["serviceId"], "a");

    registry.stop().await;
    let (mut registry, addr) = start(&["--state", state]).await;
    let list = request(addr, "GET", "/registry/services/web", "")
        .await
        .ok();
    assert_eq!(list.json()["instances"][0]["id"], "a");
    registry.signal(Signal::SIGINT);
    registry.end_well(SOON).await;
    assert_eq!(saved(&path)["instances"][0]["serviceId"], "a");
    register.kill();
}

#[tokio::test]
async fn it_tells_its_events_as_json() {
    let mut registry = Program::start("registry", &["--listen", "127.0.0.1:0", "--json"]);
    let event = registry.json("event", "listening").await;
    let addr = event["address"].as_str().expect("text").parse();
    let body = r#"{"serviceId": "a", "host": "h", "port": 80}"#;
    request(addr.expect("an address"), "PUT", "/registry/register", body)
        .await
        .ok();
    registry.signal(Signal::SIGTERM);
    let event = registry.json("event", "stopped").await;
    assert_eq!(event["instances"], 1);
    registry.end_well(SOON).await;
}

#[tokio::test]
async fn what_it_cannot_use_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.json");
    std::fs::write(&path, "[]").expect("a file");
    let state = path.to_str().expect("a path");
    let end = run("registry", &["--listen", "127.0.0.1:0", "--state", state]).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(
        end.stderr.starts_with("error: ") && end.stderr.contains("registry.json"),
        "{end:?}"
    );

    let (_first, addr) = start(&[]).await;
    let address = addr.to_string();
    let end = run("registry", &["--listen", &address]).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stderr.contains(&address), "{end:?}");
}

#[tokio::test]
async fn a_state_that_cannot_be_saved_at_the_end_is_a_failure() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).expect("a folder");
    let path = folder.join("registry.json");
    let (mut registry, addr) = start(&["--state", path.to_str().expect("a path")]).await;
    std::fs::remove_dir_all(&folder).expect("no folder");
    let body = r#"{"serviceId": "a", "host": "h", "port": 80}"#;
    let held = request(addr, "PUT", "/registry/register", body).await.ok();
    assert_eq!(held.json()["saved"], false);
    registry.signal(Signal::SIGTERM);
    let end = registry.end(SOON).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stderr.contains("error: "), "{end:?}");
    assert!(end.stderr.contains("registry.json"), "{end:?}");
    assert!(!end.stdout.contains("stopped"), "{end:?}");
}

#[tokio::test]
async fn a_limit_that_cannot_be_is_named_by_its_flag() {
    for flags in [
        ["--checks-at-once", "0"],
        ["--connections", "0"],
        ["--check-network", "10.0.0.0/33"],
        ["--host", "a b"],
        ["--save-pause", "1"],
        ["--write-within", "0s"],
    ] {
        let end = run(
            "registry",
            &[&["--listen", "127.0.0.1:0"], &flags[..]].concat(),
        )
        .await;
        assert_eq!(end.code, Some(2), "{flags:?}: {end:?}");
        let name = flags[0].trim_start_matches("--");
        let named = end.stderr.contains(name) || end.stderr.contains(&name.replace('-', "_"));
        assert!(named, "{flags:?}: {end:?}");
    }
}

/// The resident memory of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse().ok()).expect("a size")
}

/// How many connections this process can have: fewer than 5,000 where it may open few files.
fn many() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    most.unwrap_or(256_usize).saturating_sub(400).min(5_000)
}

/// The 50 MB of `docs::registry`, which are 10 KB for each request that waits.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn five_thousand_waiting_clients_need_less_than_50_mb() {
    let (registry, addr) = start(&[]).await;
    for n in 0..500 {
        let body = format!(
            r#"{{"serviceId": "i{n}", "serviceName": "web", "host": "10.0.0.1", "port": 80,
                "heartbeatInterval": 0, "tags": ["a", "b"], "metadata": {{"model": "large"}}}}"#
        );
        request(addr, "PUT", "/registry/register", &body).await.ok();
    }
    let list = request(addr, "GET", "/registry/services/web", "")
        .await
        .ok();
    let index = list.headers["x-registry-index"].to_str().expect("a number");
    let ask = format!(
        "GET /registry/services/web?index={index}&wait=10m HTTP/1.1\r\nHost: localhost\r\n\
         Connection: close\r\n\r\n"
    );
    let before = memory(registry.id());
    let (many, mut clients) = (many(), Vec::new());
    for _ in 0..many {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(ask.as_bytes()).await.expect("it is sent");
        clients.push(stream);
    }
    // Served after them; then their memory does not grow any more.
    request(addr, "GET", "/registry/health", "").await.ok();
    let mut waiting = memory(registry.id());
    loop {
        sleep(Duration::from_millis(300)).await;
        let now = memory(registry.id());
        if now == waiting {
            break;
        }
        waiting = now;
    }
    let bound = 50_000 * many as u64 / 5_000;
    let grown = waiting.saturating_sub(before);
    println!(
        "{many} clients that wait: {grown} KiB, {} bytes each",
        grown * 1_024 / many as u64
    );
    assert!(grown < bound, "{many} clients that wait need {grown} KiB");

    // One change: all of them get one body.
    let start = Instant::now();
    let mut answers = JoinSet::new();
    for mut stream in clients {
        answers.spawn(async move {
            let (mut answer, mut length) = (vec![0; 64 << 10], 0);
            let mut status = String::new();
            while let Ok(n @ 1..) = stream.read(&mut answer).await {
                if length == 0 {
                    status = String::from_utf8_lossy(&answer[..12]).into_owned();
                }
                length += n;
            }
            (status, length)
        });
    }
    let body = r#"{"serviceId": "new", "serviceName": "web", "host": "10.0.0.1", "port": 80}"#;
    request(addr, "PUT", "/registry/register", body).await.ok();
    let mut most = 0;
    let health = async {
        let start = Instant::now();
        request(addr, "GET", "/registry/health", "").await.ok();
        start.elapsed()
    };
    let health = health.await;
    while let Some(answer) = answers.join_next().await {
        let (status, length) = answer.expect("no panic");
        assert_eq!(status, "HTTP/1.1 200");
        assert!(length > 50_000, "{length}");
        most = most.max(memory(registry.id()));
    }
    let grown = most.saturating_sub(before);
    println!(
        "one change: {grown} KiB, health after {health:?}, all after {:?}",
        start.elapsed()
    );
    assert!(grown < 4 * bound, "one change needs {grown} KiB");
    assert!(health < SOON / 4, "a short request took {health:?}");
}
