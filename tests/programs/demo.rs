//! `demo`: the whole story, from start to end, and when it is cut short.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    kit::{End, Program, SOON, children, consul, instances, runs, summary},
    support::{Agent, eventually, need_consul},
};

/// A run must take less.
const RUN: Duration = Duration::from_secs(30);

pub(super) fn assert_report(end: &End) {
    let report = summary(end);
    let count = |field: &str| report[field].as_u64().expect("a count");
    assert_eq!(count("requests"), count("ok") + count("failed"), "{report}");
    assert!(count("ok") > 2_000, "200 a second for 20 s: {report}");
    assert_eq!(count("unexplained"), 0, "{report}");
    assert!(
        report["p50_ms"].as_f64() <= report["p99_ms"].as_f64(),
        "{report}"
    );
    let (_, used) = instances(&report);
    let all = ["user-1", "user-2", "user-3", "user-4", "user-5", "user-6"];
    assert_eq!(used, all, "each had its share: {report}");

    let events = report["events"].as_array().expect("a list");
    let at = |event: &str, instance: &str| {
        let found = events
            .iter()
            .find(|e| e["event"] == event && e["instance"] == instance);
        let found = found.unwrap_or_else(|| panic!("{event} of {instance}: {events:?}"));
        found["at_ms"].as_u64().expect("a time")
    };
    assert!(at("crash", "user-2") < at("remove", "user-2"));
    assert!(at("leave", "user-4") <= at("remove", "user-4"));
    assert!(at("join", "user-6") <= at("insert", "user-6"));
    at("slow", "user-1");
}

async fn run_to_its_end(args: &[&str]) {
    let start = Instant::now();
    let mut demo = Program::start("demo", args);
    let servers = eventually(SOON, "its servers", || {
        let servers = children(demo.id());
        async move {
            if servers.len() == 5 {
                Ok(servers)
            } else {
                Err(servers)
            }
        }
    })
    .await;
    let end = demo.end_well(RUN * 2).await;
    assert_report(&end);
    assert!(start.elapsed() < RUN, "it took {:?}", start.elapsed());
    assert!(
        !servers.into_iter().any(runs),
        "it leaves no process behind"
    );
}

/// Together, for each takes its time and little else.
#[tokio::test]
async fn tells_its_story_or_why_not_without_a_server() {
    tokio::join!(
        run_to_its_end(&["--json"]),
        servers_end_with_a_demo_that_is_killed(),
        a_registry_that_is_not_there_is_named(),
        the_table_needs_its_lines(),
    );
}

#[tokio::test]
async fn is_interrupted_and_then_tells_its_story_on_a_real_consul() {
    need_consul!();
    let agent = Agent::dev().await;
    let url = consul(&agent);
    let listed = || async { agent.passing("user-service").await.len() };

    let mut demo = Program::start("demo", &["--registry", &url]);
    demo.line("live", |l| l.ends_with("live")).await;
    assert_eq!(listed().await, 5);
    let servers = children(demo.id());
    // As Ctrl-C in a terminal does: to every process of the group.
    for pid in servers.iter().copied().chain([demo.id()]) {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
        kill(pid, Signal::SIGINT).expect("it runs");
    }
    let end = demo.end(SOON).await;
    assert_eq!(end.code, Some(130), "{end:?}");
    assert_eq!(end.stderr, "", "{end:?}");
    let rest = end.stdout.split_once("stopped after ");
    let (_, rest) = rest.unwrap_or_else(|| panic!("it says so: {end:?}"));
    assert!(rest.contains(" requests: "), "and what came of it: {end:?}");
    assert_eq!(listed().await, 0, "its servers left politely");
    assert!(
        !servers.into_iter().any(runs),
        "it leaves no process behind"
    );

    run_to_its_end(&["--registry", &url, "--json"]).await;
    assert_eq!(listed().await, 0, "its servers left politely");
}

async fn servers_end_with_a_demo_that_is_killed() {
    let mut demo = Program::start("demo", &[]);
    demo.line("live", |l| l.ends_with("live")).await;
    let servers = children(demo.id());
    assert_eq!(servers.len(), 5);
    demo.kill();
    eventually(SOON, "the servers end by themselves", || async {
        let left: Vec<_> = servers.iter().copied().filter(|pid| runs(*pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

async fn a_registry_that_is_not_there_is_named() {
    // Nothing listens on port 1 of loopback.
    let mut demo = Program::start("demo", &["--registry", "consul://127.0.0.1:1", "--json"]);
    let servers = eventually(SOON, "its servers", || {
        let servers = children(demo.id());
        async move {
            if servers.len() == 5 {
                Ok(servers)
            } else {
                Err(servers)
            }
        }
    })
    .await;
    let end = demo.end(RUN).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert_eq!(end.stdout, "");
    let error: Vec<_> = end
        .stderr
        .lines()
        .filter(|l| l.starts_with("error: "))
        .collect();
    assert_eq!(error.len(), 1, "it is told once: {end:?}");
    assert!(error[0].contains("127.0.0.1:1"), "{end:?}");
    assert!(
        !servers.into_iter().any(runs),
        "it leaves no process behind"
    );
}

/// On a terminal of too few lines the table cannot be drawn over itself.
async fn the_table_needs_its_lines() {
    let shown = |rows: u16| async move {
        let (mut demo, terminal) = Program::start_on_terminal("demo", &[], rows).await;
        let wanted = match rows {
            24 => "in flight",
            _ => "the table is not shown: it needs 11 lines, and this terminal has 8",
        };
        eventually(SOON, wanted, || async {
            let shown = terminal.text();
            if shown.contains(wanted) {
                Ok(())
            } else {
                Err(shown)
            }
        })
        .await;
        demo.kill();
        terminal.text()
    };
    let (low, high) = tokio::join!(shown(8), shown(24));
    assert!(!low.contains("in flight"), "no part of a table: {low}");
    assert!(!high.contains("not shown"), "{high}");
}
