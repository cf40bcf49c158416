//! `registry`: the embedded registry as a process of its own.

use std::{net::SocketAddr, path::Path};

use nix::sys::signal::Signal;
use serde_json::Value;

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
