//! `watch`: one line for each change.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tower_roster::{Instance, registry::Announcement};

use super::{
    kit::{Program, SOON, consul, fields, rest, unique},
    support::{Agent, need_consul},
};

/// Beside the fields that programs rely on stand only these.
fn assert_change(line: &Value) {
    let all = [
        "address", "at_ms", "change", "id", "key", "status", "tags", "weight", "zone",
    ];
    assert_eq!(fields(line), all, "{line}");
}

fn assert_state(line: &Value) {
    let all = ["age_ms", "at_ms", "change", "reason", "state"];
    assert_eq!(fields(line), all, "{line}");
    assert_eq!(line["change"], "state");
}

#[tokio::test]
async fn prints_one_json_object_for_each_change_in_consul() {
    need_consul!();
    let agent = Agent::shared().await;
    let service = unique("watched");
    let mut watch = Program::start("watch", &[&consul(&agent), &service, "--json"]);
    let line = watch.json("change", "state").await;
    assert_state(&line);
    assert_eq!(line["state"], "missing");
    assert_eq!(line["reason"], "no such service");

    let id = unique("w");
    let weights = |passing: u32| {
        json!({
            "Weights": { "Passing": passing, "Warning": 1 },
            "Tags": ["v1", "blue"],
            "Meta": { "zone": "z1" },
        })
    };
    agent
        .register_service(&id, &service, "127.0.0.1", 4001, weights(3))
        .await;
    let line = watch.json("change", "insert").await;
    assert_change(&line);
    assert_eq!(line["id"], id);
    assert_eq!(line["address"], "127.0.0.1:4001");
    assert_eq!(line["weight"], 3);
    assert_eq!(line["tags"], json!(["v1", "blue"]));
    let line = watch.json("change", "state").await;
    assert_state(&line);
    assert_eq!(
        (&line["state"], &line["reason"]),
        (&"live".into(), &Value::Null)
    );
    assert!(line["age_ms"].is_u64(), "{line}");

    agent
        .register_service(&id, &service, "127.0.0.1", 4001, weights(7))
        .await;
    let line = watch.json("change", "update").await;
    assert_change(&line);
    assert_eq!(
        (&line["id"], &line["weight"]),
        (&id.as_str().into(), &7.into())
    );

    agent.service_maintenance(&id, true).await;
    let line = watch.json("change", "remove").await;
    assert_change(&line);
    assert_eq!(line["id"], id);
    let line = watch.json("change", "state").await;
    assert_eq!(line["state"], "empty");
    assert!(line["reason"].is_string(), "{line}");

    agent.deregister_service(&id).await;
    assert_eq!(watch.json("change", "state").await["state"], "missing");
    watch.stop().await;
}

#[tokio::test]
async fn tells_of_a_consul_that_is_not_there_yet_dies_and_comes_back() {
    need_consul!();
    let mut agent = Agent::server().await;
    agent
        .register_service("a", "kept", "127.0.0.1", 4001, json!({}))
        .await;
    agent.kill9();
    let mut watch = Program::start("watch", &[&consul(&agent), "kept", "--json"]);
    let line = watch.json("state", "stale").await;
    assert_state(&line);
    assert_eq!(line["age_ms"], Value::Null, "never confirmed: {line}");
    let reason = line["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("kept") && reason.contains("consul"),
        "{reason}"
    );

    agent.restart().await;
    assert_eq!(watch.json("change", "insert").await["id"], "a");
    watch.json("state", "live").await;

    agent.kill9();
    let line = watch.json("state", "stale").await;
    assert!(
        line["age_ms"].is_u64() && line["reason"].is_string(),
        "{line}"
    );
    agent.restart().await;
    watch.json("state", "live").await;

    let changes = watch.lines();
    let changes = changes.iter().filter(|line| !line.contains("\"state\":"));
    assert_eq!(changes.count(), 1, "the set is kept: {:?}", watch.lines());
    watch.stop().await;
}

#[tokio::test]
async fn follows_a_rest_registry_and_only_the_instances_with_every_tag() {
    let (memory, url) = rest().await;
    let mut instance = Instance::new("users", "u1", "127.0.0.1:4001".parse().expect("an address"));
    instance.tags = vec!["v1".into(), "blue".into()];
    instance.zone = Some("z1".into());
    let other = Instance::new("users", "u2", "127.0.0.1:4002".parse().expect("an address"));
    let tags = ["--tag", "blue", "--tag", "v1"];
    let mut json = Program::start("watch", &[&[&url, "users", "--json"], &tags[..]].concat());
    let mut text = Program::start("watch", &[&[&url, "users"], &tags[..]].concat());
    json.json("state", "missing").await;
    text.line("missing", |l| l.contains(" s  state   missing"))
        .await;

    for instance in [other, instance.clone()] {
        memory.register(Announcement::new(instance)).expect("valid");
    }
    let line = json.json("change", "insert").await;
    assert_change(&line);
    assert_eq!((&line["id"], &line["zone"]), (&"u1".into(), &"z1".into()));
    json.json("state", "live").await;
    let line = text.line("u1", |l| l.contains(" s  insert")).await;
    let words: Vec<_> = line.split_whitespace().collect();
    let wanted = "insert u1 127.0.0.1:4001 weight 1 zone z1 tags v1,blue";
    assert_eq!(words[2..], wanted.split(' ').collect::<Vec<_>>());
    let seconds: f64 = words[0].parse().expect("seconds since the start");
    assert!(seconds < SOON.as_secs_f64() && words[1] == "s", "{line}");

    memory.register(instance.weight(5)).expect("valid");
    assert_eq!(json.json("change", "update").await["weight"], 5);
    text.line("the weight", |l| {
        l.contains(" s  update") && l.contains("weight 5")
    })
    .await;
    memory.deregister("u1");
    json.json("change", "remove").await;
    text.line("remove", |l| l.contains(" s  remove")).await;
    json.json("state", "empty").await;
    json.stop().await;
    text.stop().await;
}

#[tokio::test]
async fn lists_a_fixed_set_and_ends_well_on_either_signal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let url = "fixed:127.0.0.1:4001,[::1]:4002;weight=3";
        let mut watch = Program::start("watch", &[url, "anything", "--json"]);
        let (a, b) = (
            watch.json("change", "insert").await,
            watch.json("change", "insert").await,
        );
        let addresses = [&a["address"], &b["address"]];
        assert_eq!(addresses, ["127.0.0.1:4001", "[::1]:4002"]);
        watch.json("state", "live").await;
        watch.signal(signal);
        watch.end_well(SOON).await;
    }
}

#[tokio::test]
async fn ends_quietly_when_nobody_reads() {
    let mut watch = Program::start_unread("watch", &["fixed:127.0.0.1:4001", "s"]);
    watch.end_well(SOON).await;
}

#[tokio::test]
async fn goes_on_when_no_registry_is_there() {
    // Nothing listens on port 1 of loopback.
    let mut watch = Program::start("watch", &["consul://127.0.0.1:1", "s"]);
    let line = watch
        .line("stale", |l| l.contains(" s  state   stale"))
        .await;
    assert!(
        line.contains("127.0.0.1:1"),
        "who cannot be reached: {line}"
    );
    watch.stop().await;
}

#[tokio::test]
async fn columns_stay_aligned_whatever_ids_are_called() {
    let (memory, url) = rest().await;
    for (id, port) in [
        ("a", 4001),
        ("a-very-long-id-of-an-instance-in-zone-eu-1a", 4002),
    ] {
        let address = format!("127.0.0.1:{port}").parse().expect("an address");
        let instance = Instance::new("users", id, address);
        memory.register(Announcement::new(instance)).expect("valid");
    }
    let mut watch = Program::start("watch", &[&url, "users"]);
    watch.line("live", |l| l.ends_with("state   live")).await;
    let lines = watch.lines();
    let columns: Vec<_> = lines.iter().filter_map(|l| l.find("127.0.0.1:")).collect();
    assert_eq!(columns.len(), 2, "{lines:?}");
    assert_eq!(columns[0], columns[1], "{lines:?}");
    watch.stop().await;
}
