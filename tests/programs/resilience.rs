//! What the stack does about failures, as `call` reports it, and that several at once cost no request.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    call::listed,
    kit::{Program, SOON, Serve, consul, fields, instances, run, summary},
    support::{Agent, need_consul},
};

fn count(summary: &Value, field: &str) -> u64 {
    let count = summary[field].as_u64();
    count.unwrap_or_else(|| panic!("{field} is a count: {summary}"))
}

/// On five servers in a real Consul: one is killed, one stands still for 10 s and comes back, one is
/// replaced by one that fails half its requests, and Consul restarts. 20,000 requests.
#[tokio::test]
async fn of_all_failures_together_one_request_in_ten_thousand_is_lost_at_most() {
    need_consul!();
    const SERVICE: &str = "resilient";
    let mut agent = Agent::server().await;
    let url = consul(&agent);
    let usual = ["--register", &url, SERVICE, "--delay", "5ms"];
    let [mut killed, stopped, mut replaced] = Serve::three(&url, SERVICE, &usual[3..]).await;
    let (one, other) = tokio::join!(Serve::start(&usual), Serve::start(&usual));
    listed(&url, SERVICE, 5).await;

    let mut load = Program::start(
        "call",
        &[
            &url,
            SERVICE,
            "--rate",
            "500",
            "--duration",
            "40s",
            "--json",
        ],
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A deployment that went wrong; all that follows happens while it fails.
    let failing = Serve::start(&[&usual[..], &["--fail", "0.5"]].concat()).await;
    replaced.program.stop().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    killed.program.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stopped.program.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    agent.kill9();
    tokio::time::sleep(Duration::from_secs(1)).await;
    agent.restart().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    stopped.program.signal(Signal::SIGCONT);

    let all = summary(&load.end_well(Duration::from_secs(60)).await);
    let (requests, failed) = (count(&all, "requests"), count(&all, "failed"));
    println!("{failed} of {requests} failed: {all}");
    assert!(requests > 15_000, "the rate is kept: {all}");
    assert!(failed * 10_000 <= requests, "{failed} of {requests}: {all}");
    assert!(count(&all, "ejections") > 0, "{all}");
    assert!(count(&all, "restorations") > 0, "{all}");
    assert!(count(&all, "retries") > 0, "{all}");
    assert!(count(&all, "hedges") > 0, "{all}");
    let (_, used) = instances(&all);
    for serve in [&killed, &stopped, &replaced, &one, &other, &failing] {
        assert!(used.contains(&serve.id), "{} is used: {all}", serve.id);
    }
}

/// `call` for a second at 100 requests a second.
async fn call(url: &str, flags: &[&str]) -> Value {
    call_during(url, ["100", "1s"], flags).await
}

async fn call_during(url: &str, [rate, duration]: [&str; 2], flags: &[&str]) -> Value {
    let always = [url, "s", "--rate", rate, "--duration", duration, "--json"];
    let end = run("call", &[&always[..], flags].concat()).await;
    let all = summary(&end);
    let is_answered = count(&all, "ok") > 0;
    assert_eq!(end.code, Some(i32::from(!is_answered)), "{end:?}");
    all
}

#[tokio::test]
async fn what_fails_is_sent_again_unless_told_otherwise() {
    let (good, bad) = tokio::join!(Serve::start(&[]), Serve::start(&["--fail", "1"]));
    let url = format!("fixed:{},{}", good.addr, bad.addr);
    // Peak EWMA would ask the bad one once.
    let flags = ["--policy", "round-robin", "--no-retry"];
    let (on, off) = tokio::join!(call(&url, &flags[..2]), call(&url, &flags));
    assert_eq!(count(&on, "failed"), 0, "{on}");
    assert!(count(&on, "retries") > 0, "{on}");
    assert!(count(&on, "ejections") > 0, "{on}");
    let (answers, by) = instances(&on);
    assert_eq!((answers, by), (100, vec![good.addr.to_string()]), "{on}");
    assert!(
        on["attempts"][bad.addr.to_string()].as_u64() > Some(0),
        "{on}"
    );

    assert_eq!(count(&off, "retries"), 0, "{off}");
    assert!(count(&off, "failed") > 0, "{off}");
    assert_eq!(off["errors"], json!({ "http_500": off["failed"] }), "{off}");
}

#[tokio::test]
async fn a_breaker_is_there_when_it_is_asked_for_and_tells_what_it_does() {
    let serve = Serve::start(&["--fail", "1"]).await;
    let url = format!("fixed:{}", serve.addr);
    let flags = ["--no-retry", "--breaker"];
    let (without, with) = tokio::join!(call(&url, &flags[..1]), call(&url, &flags));
    let none = json!({ "state": null, "refused": 0, "transitions": [] });
    assert_eq!(without["breaker"], none);

    let refused = count(&with["breaker"], "refused");
    assert!(refused > 0, "{with}");
    let failed = count(&with, "failed");
    let kinds = json!({ "http_500": failed - refused, "breaker_open": refused });
    assert_eq!((failed, &with["errors"]), (100, &kinds), "{with}");
    let first = &with["breaker"]["transitions"][0];
    assert_eq!(fields(first), ["at_ms", "cause", "from", "to"]);
    assert_eq!(
        (&first["from"], &first["to"]),
        (&"closed".into(), &"open".into())
    );
    assert_eq!(first["cause"], "20 of 20 calls failed");
}

#[tokio::test]
async fn people_read_what_happens_when_it_does() {
    let (good, bad) = tokio::join!(Serve::start(&[]), Serve::start(&["--fail", "1"]));
    let url = format!("fixed:{},{}", good.addr, bad.addr);
    let flags = "s --rate 100 --duration 3s --policy round-robin";
    let flags = [&[&*url], &*flags.split(' ').collect::<Vec<_>>()].concat();
    let mut call = Program::start("call", &flags);
    let ejected = format!("ejected   {} ", bad.addr);
    let line = call
        .line("an ejection", |line| line.contains(&ejected))
        .await;
    assert!(
        line.contains("requests in a row failed, probe in 0."),
        "{line}"
    );
    let probing = format!("probing   {} ", bad.addr);
    call.line("a probe", |line| line.contains(&probing)).await;
    let done = call
        .line("a summary", |line| line.starts_with("resilience: "))
        .await;
    assert!(
        done.contains(" retries, ") && done.contains(" ejection"),
        "{done}"
    );
    call.end_well(SOON).await;
}

#[tokio::test]
async fn a_slow_answer_is_hedged_and_a_try_may_have_its_own_time() {
    let (fast, slow) = tokio::join!(Serve::start(&[]), Serve::start(&["--delay", "30s"]));
    let url = format!("fixed:{},{}", fast.addr, slow.addr);
    let flags = ["--no-hedge", "--try-timeout", "100ms"];
    let tried = call(&url, &flags).await;
    assert_eq!(count(&tried, "failed"), 0, "{tried}");
    assert_eq!(count(&tried, "hedges"), 0, "{tried}");
    assert!(count(&tried, "retries") > 0, "{tried}");
    let flags = ["--no-hedge", "--no-retry", "--try-timeout", "100ms"];
    let failed = call(&url, &flags).await;
    assert_eq!(failed["errors"], json!({ "try_timeout": failed["failed"] }));
    assert!(count(&failed, "failed") > 0, "{failed}");
}

#[tokio::test]
async fn a_key_keeps_its_instance_under_a_policy_that_hashes() {
    let (one, other) = tokio::join!(Serve::start(&[]), Serve::start(&[]));
    let url = format!("fixed:{},{}", one.addr, other.addr);
    let flags = ["--policy", "ring-hash", "--no-hedge", "--key"];
    // Slowly: what waits for the table, which unoptimised code takes long to make, comes at once,
    // and beyond an instance's cap it goes elsewhere.
    let same = call_during(&url, ["20", "5s"], &[&flags[..], &["user-7"]].concat()).await;
    let each = call(&url, &[&flags[..], &["user-{n}"]].concat()).await;
    // A few may go elsewhere, when many are in flight at once.
    let most = same["per_instance"].as_object().expect("an object");
    let most = most.values().filter_map(Value::as_u64).max();
    assert!(most > Some(90), "{same}");
    assert_eq!(instances(&each).1.len(), 2, "{each}");
}

#[tokio::test]
async fn every_policy_can_be_named() {
    let (one, other) = tokio::join!(Serve::start(&[]), Serve::start(&[]));
    let url = format!("fixed:{},{}", one.addr, other.addr);
    for policy in tower_roster::balance::policy::NAMES {
        let flags = "s --rate 100 --duration 200ms --json --policy";
        let flags = flags.split(' ').collect::<Vec<_>>();
        let all = summary(&run("call", &[&[&*url], &*flags, &[policy]].concat()).await);
        assert_eq!(count(&all, "failed"), 0, "{policy}: {all}");
        assert!(count(&all, "ok") > 10, "{policy}: {all}");
    }
    let wrong = run("call", &[&url, "s", "--policy", "magic"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(
        wrong.stderr.contains("round-robin, weighted-round-robin"),
        "{wrong:?}"
    );
}
