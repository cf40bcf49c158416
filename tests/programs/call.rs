//! `call`: load through the whole stack, and what came of it.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    kit::{End, Program, SOON, Serve, consul, fields, instances, rest, run, summary, unique},
    support::{Agent, Etcd, eventually, need_consul, need_etcd},
};

/// Sorted.
const FIELDS: [&str; 18] = [
    "attempts",
    "breaker",
    "budget_refused",
    "ejections",
    "errors",
    "failed",
    "failed_attempts",
    "hedges",
    "ok",
    "p50_ms",
    "p9999_ms",
    "p999_ms",
    "p99_ms",
    "per_instance",
    "requests",
    "restorations",
    "retries",
    "unsent",
];

/// 500 requests a second for 2 s, all answered, over all of these.
fn assert_all_answered(end: &End, ids: &[&str]) {
    let summary = summary(end);
    assert_eq!(fields(&summary), FIELDS);
    let count = |field: &str| summary[field].as_u64().expect("a count");
    assert_eq!(count("failed"), 0, "{summary}");
    assert_eq!(summary["errors"], json!({}));
    assert_eq!(count("requests"), count("ok"));
    // What a busy machine sends late, it sends at once: no more than the end may be missing.
    let requests = count("requests");
    assert!(
        (800..=1_000).contains(&requests),
        "the rate is kept: {summary}"
    );
    let (sum, mut used) = instances(&summary);
    assert_eq!(
        sum, requests,
        "each is counted with one instance: {summary}"
    );
    let attempts = summary["attempts"].as_object().expect("an object");
    let attempts: u64 = attempts.values().filter_map(Value::as_u64).sum();
    let again = count("retries") + count("hedges");
    assert_eq!(attempts, requests + again, "{summary}");
    used.sort();
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    assert_eq!(used, ids, "every instance is used: {summary}");
    let ms = ["p50_ms", "p99_ms", "p999_ms", "p9999_ms"]
        .map(|field| summary[field].as_f64().expect("ms"));
    assert!(
        0.0 < ms[0] && ms[0] <= ms[1] && ms[1] <= ms[2] && ms[2] <= ms[3],
        "{summary}"
    );
}

fn call(url: &str, service: &str) -> Program {
    let args = [url, service, "--rate", "500", "--duration", "2s", "--json"];
    Program::start("call", &args)
}

#[tokio::test]
async fn keeps_its_rate_over_all_instances_in_consul() {
    need_consul!();
    let agent = Agent::shared().await;
    let service = unique("called");
    let url = consul(&agent);
    let serves = Serve::three(&url, &service, &[]).await;
    listed(&url, &service, 3).await;
    let end = call(&url, &service).end_well(SOON).await;
    assert_all_answered(&end, &serves.each_ref().map(|serve| &*serve.id));
}

#[tokio::test]
async fn is_the_same_on_etcd() {
    need_etcd!();
    let etcd = Etcd::server().await;
    let url = format!("{}?prefix=/programs&ttl=2s", etcd.url());
    let serves = Serve::three(&url, "called", &[]).await;
    listed(&url, "called", 3).await;
    let end = call(&url, "called").end_well(SOON).await;
    assert_all_answered(&end, &serves.each_ref().map(|serve| &*serve.id));
    assert_eq!(etcd.keys().await.len(), 3);

    let args = [
        &*url,
        "users",
        "127.0.0.1:4001",
        "--id",
        "u1",
        "--ttl",
        "2s",
        "--json",
    ];
    let mut register = Program::start("register", &args);
    register.json("event", "registered").await;
    assert!(etcd.keys().await.contains(&"/programs/users/u1".to_owned()));
    // Paused for longer than its TTL, as a laptop that sleeps.
    register.signal(Signal::SIGSTOP);
    eventually(SOON, "its key ends with its lease", || async {
        etcd.keys().await.len() == 3
    })
    .await;
    register.signal(Signal::SIGCONT);
    register.json("event", "reregistered").await;
    assert_eq!(etcd.keys().await.len(), 4);
    register.signal(Signal::SIGTERM);
    register.json("event", "deregistered").await;
    register.end_well(SOON).await;
    assert_eq!(etcd.keys().await.len(), 3, "it is taken out");
}

#[tokio::test]
async fn is_the_same_on_rest_and_on_a_fixed_set() {
    let (_memory, url) = rest().await;
    let serves = Serve::three(&url, "called", &[]).await;
    listed(&url, "called", 3).await;
    let end = call(&url, "called").end_well(SOON).await;
    assert_all_answered(&end, &serves.each_ref().map(|serve| &*serve.id));

    let addresses = serves.each_ref().map(|serve| serve.addr.to_string());
    let url = format!("fixed:{}", addresses.join(","));
    let end = call(&url, "called").end_well(SOON).await;
    assert_all_answered(&end, &addresses.each_ref().map(|address| &**address));
}

#[tokio::test]
async fn equal_servers_get_equal_shares() {
    let serves = tokio::join!(Serve::start(&[]), Serve::start(&[]));
    let url = format!("fixed:{},{}", serves.0.addr, serves.1.addr);
    let args = [
        &*url,
        "equal",
        "--rate",
        "200",
        "--duration",
        "3s",
        "--json",
    ];
    let end = Program::start("call", &args).end_well(SOON).await;
    let summary = summary(&end);
    let (requests, used) = instances(&summary);
    assert_eq!(used.len(), 2, "both are used: {summary}");
    // Four fifths of its due, and less by four standard deviations of a fair draw.
    let due = requests as f64 / 2.0;
    let least = 0.8 * due - 4.0 * (requests as f64 * 0.25).sqrt();
    for id in used {
        let got = summary["per_instance"][&id].as_u64().expect("a count");
        assert!(
            got as f64 >= least,
            "{got} of {requests} for {id}: {summary}"
        );
    }
}

/// Waits until a watch of its own lists this many instances.
pub(super) async fn listed(url: &str, service: &str, instances: usize) {
    let mut watch = Program::start("watch", &[url, service, "--json"]);
    for _ in 0..instances {
        watch.json("change", "insert").await;
    }
}

#[tokio::test]
async fn a_service_without_instances_is_an_error_and_no_hang() {
    let (_memory, url) = rest().await;
    let args = "nobody --rate 20 --duration 1s --timeout 300ms --json";
    let args = [&[&*url], &*args.split(' ').collect::<Vec<_>>()].concat();
    let mut end = Program::start("call", &args);
    let end = end.end(SOON).await;
    assert_eq!(end.code, Some(1), "{end:?}");
    let summary = summary(&end);
    assert!(summary["requests"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["ok"], 0, "{summary}");
    assert_eq!(
        summary["errors"],
        json!({ "no_instance": summary["requests"] })
    );
    assert_eq!(summary["per_instance"], json!({}));
}

#[tokio::test]
async fn errors_are_counted_by_kind() {
    let serve = Serve::start(&["--fail", "0.25"]).await;
    let url = format!("fixed:{}", serve.addr);
    let end = run(
        "call",
        &[
            &url,
            "s",
            "--rate",
            "100",
            "--duration",
            "1s",
            "--json",
            "--no-retry",
            "--no-hedge",
        ],
    )
    .await;
    let all = summary(&end);
    let (requests, failed) = (all["requests"].as_u64(), all["failed"].as_u64());
    assert_eq!(failed, requests.map(|n| n / 4), "{all}");
    assert_eq!(all["errors"], json!({ "http_500": failed }));

    // Nothing listens on port 1 of loopback.
    let flags = "s --rate 20 --duration 1s --timeout 300ms --json";
    let flags = [
        &["fixed:127.0.0.1:1"],
        &*flags.split(' ').collect::<Vec<_>>(),
    ]
    .concat();
    let all = summary(&run("call", &flags).await);
    assert_eq!(all["ok"], 0);
    assert_eq!(all["errors"], json!({ "connect": all["failed"] }), "{all}");
    let flags = "s --rate 20 --duration 1s --timeout 300ms --json";
    let flags = [
        &["consul://127.0.0.1:1"],
        &*flags.split(' ').collect::<Vec<_>>(),
    ]
    .concat();
    let all = summary(&run("call", &flags).await);
    assert_eq!(
        all["errors"],
        json!({ "unreachable": all["failed"] }),
        "{all}"
    );
    assert_ne!(all["failed"], Value::from(0));
}

#[tokio::test]
async fn tells_people_what_came_of_it() {
    let serve = Serve::start(&["--fail", "0.5"]).await;
    let url = format!("fixed:{}", serve.addr);
    let flags = "s --rate 100 --duration 500ms --no-retry --no-hedge";
    let flags = [&[&*url], &*flags.split(' ').collect::<Vec<_>>()].concat();
    let end = run("call", &flags).await;
    assert_eq!(end.code, Some(0), "{end:?}");
    let lines = end
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines[0], "50 requests: 25 ok, 25 failed");
    assert!(lines[1].starts_with("latency: p50 "), "{end:?}");
    assert_eq!(lines[2..4], ["failed by kind:", "25 http_500"]);
    let heading = "sent failed requests p50 p99 instance";
    let at = lines.iter().position(|line| line == heading);
    let at = at.unwrap_or_else(|| panic!("{end:?}"));
    let bars = &lines[4..at];
    assert!((1..=10).contains(&bars.len()), "{end:?}");
    assert!(bars.iter().all(|line| line.starts_with("< ")), "{end:?}");
    let shares = bars.iter().map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        words[words.len() - 2].parse::<f64>().expect("a share")
    });
    assert!((shares.sum::<f64>() - 100.0).abs() < 0.1, "{end:?}");
    let row = &lines[at + 1];
    assert!(row.starts_with("50 25 100.0 % "), "{end:?}");
    assert!(row.ends_with(&format!(" {}", serve.addr)), "{end:?}");
    assert!(!end.stdout.contains('\u{1b}'), "no colours in a pipe");
    assert_eq!(lines.len(), at + 2, "{end:?}");
}

#[tokio::test]
async fn a_run_without_an_answer_fails_and_shows_the_instance_that_only_failed() {
    let end = run(
        "call",
        &["fixed:127.0.0.1:1", "s", "--rate", "50", "--duration", "1s"],
    )
    .await;
    assert_eq!(end.code, Some(1), "{end:?}");
    assert_eq!(
        end.stderr, "error: none of 50 requests succeeded\n",
        "{end:?}"
    );

    // Every attempt there fails, and retries make them good at the other one.
    let serve = Serve::start(&[]).await;
    let url = format!("fixed:127.0.0.1:1,{}", serve.addr);
    let args = [&*url, "s", "--rate", "100", "--duration", "1s"];
    let end = run("call", &args).await;
    assert_eq!(end.code, Some(0), "{end:?}");
    let failed = end.stdout.lines().find(|l| l.ends_with("127.0.0.1:1"));
    let failed = failed.unwrap_or_else(|| panic!("it is listed: {}", end.stdout));
    let counts: Vec<_> = failed.split_whitespace().collect();
    assert_eq!(
        counts[0], counts[1],
        "all that was sent there failed: {failed}"
    );
    assert_eq!(counts[2], "0.0", "{failed}");
}

#[tokio::test]
async fn tells_how_much_of_the_rate_could_not_be_sent() {
    let serve = Serve::start(&["--delay", "300ms"]).await;
    let url = format!("fixed:{}", serve.addr);
    let args = [
        &*url,
        "s",
        "--rate",
        "100",
        "--duration",
        "1s",
        "--concurrency",
        "4",
    ];
    let all = summary(&run("call", &[&args[..], &["--json"]].concat()).await);
    let count = |field: &str| all[field].as_u64().expect("a count");
    assert_eq!(count("requests") + count("unsent"), 100, "{all}");
    assert!(
        count("unsent") > 50,
        "four at a time, each for 300 ms: {all}"
    );
    let end = run("call", &args).await;
    let told = " of the 100 requests asked for were not sent: all 4 places (--concurrency)";
    assert!(end.stdout.contains(told), "{end:?}");
}

#[tokio::test]
async fn sends_no_more_at_once_than_it_may() {
    let serve = Serve::start(&["--delay", "100ms"]).await;
    let url = format!("fixed:{}", serve.addr);
    let args = "s --rate 0 --concurrency 2 --duration 1s --json";
    let args = [&[&*url], &*args.split(' ').collect::<Vec<_>>()].concat();
    let all = summary(&run("call", &args).await);
    // Two at a time, each for a tenth of the second; the last two may begin at its end.
    assert!(
        (1..=22).contains(&all["requests"].as_u64().unwrap_or(0)),
        "{all}"
    );
    assert_eq!(all["failed"], 0, "{all}");
}
