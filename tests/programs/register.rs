//! `register`: an instance is registered for as long as the program runs, and no longer.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    kit::{Program, SOON, Serve, consul, fields, rest, unique},
    support::{Agent, FaultProxy, Mode, eventually, need_consul},
};

#[tokio::test]
async fn survives_a_consul_that_loses_its_state_and_leaves_politely() {
    need_consul!();
    let mut agent = Agent::dev().await;
    let url = consul(&agent);
    let args = [
        &url,
        "users",
        "127.0.0.1:4001",
        "--id",
        "u1",
        "--ttl",
        "2s",
        "--json",
    ];
    let mut register = Program::start("register", &args);
    let line = register.json("event", "registered").await;
    assert_eq!(fields(&line), ["error", "event", "id"]);
    assert_eq!((&line["id"], &line["error"]), (&"u1".into(), &Value::Null));
    eventually(SOON, "the instance passes", || async {
        agent.passing("users").await == ["u1"]
    })
    .await;

    agent.kill9();
    let line = register.json("event", "heartbeat_failed").await;
    let error = line["error"].as_str().expect("why");
    assert!(
        error.contains("consul") && error.contains("users"),
        "{error}"
    );
    agent.restart().await;
    register.json("event", "reregistered").await;
    eventually(SOON, "the instance passes again", || async {
        agent.passing("users").await == ["u1"]
    })
    .await;

    register.signal(Signal::SIGTERM);
    register.json("event", "deregistered").await;
    register.end_well(SOON).await;
    assert!(agent.health("users").await.is_empty(), "it is taken out");
}

#[tokio::test]
async fn starts_before_its_registry() {
    need_consul!();
    let mut agent = Agent::dev().await;
    agent.kill9();
    let mut register = Program::start("register", &[&consul(&agent), "s", "127.0.0.1:4001"]);
    register
        .line("the failure", |l| {
            l.starts_with("s-127.0.0.1-4001 register failed: ")
        })
        .await;
    agent.restart().await;
    register
        .line("the success", |l| l == "s-127.0.0.1-4001 registered")
        .await;
    register.signal(Signal::SIGINT);
    register
        .line("its end", |l| l == "s-127.0.0.1-4001 deregistered")
        .await;
    register.end_well(SOON).await;
}

#[tokio::test]
async fn registers_what_the_flags_say() {
    need_consul!();
    let agent = Agent::shared().await;
    let (service, id) = (unique("flags"), unique("f"));
    let url = consul(&agent);
    let address = "127.0.0.1:4001";
    let flags = "--weight 7 --tag v1 --tag blue --meta team=a --meta k=v=w --zone z1 --ttl 30s";
    let mut args = vec![&*url, &service, address, "--id", &id, "--json"];
    args.extend(flags.split(' '));
    let mut register = Program::start("register", &args);
    register.json("event", "registered").await;
    let entry = eventually(SOON, "the instance passes", || async {
        let entry = agent.health(&service).await.pop()?;
        let passing = entry["Checks"].as_array()?.iter();
        passing
            .clone()
            .all(|check| check["Status"] == "passing")
            .then_some(entry)
    })
    .await;
    let found = &entry["Service"];
    assert_eq!(found["ID"], id);
    assert_eq!(
        (&found["Address"], &found["Port"]),
        (&"127.0.0.1".into(), &4001.into())
    );
    assert_eq!(found["Weights"]["Passing"], 7);
    assert_eq!(found["Tags"], json!(["v1", "blue"]));
    assert_eq!(
        (&found["Meta"]["team"], &found["Meta"]["k"]),
        (&"a".into(), &"v=w".into())
    );

    let mut watch = Program::start("watch", &[&url, &service, "--json"]);
    let line = watch.json("change", "insert").await;
    assert_eq!((&line["weight"], &line["zone"]), (&7.into(), &"z1".into()));
    register.stop().await;
    watch.json("change", "remove").await;
}

#[tokio::test]
async fn lets_consul_check_a_real_server() {
    need_consul!();
    let agent = Agent::shared().await;
    let service = unique("checked");
    let mut serve = Serve::start(&[]).await;
    let (url, address) = (consul(&agent), serve.addr.to_string());
    let check = ["--http-check", "/health", "--check-interval", "100ms"];
    let args = [&[&*url, &service, &address, "--json"], &check[..]].concat();
    let mut register = Program::start("register", &args);
    register.json("event", "registered").await;
    eventually(SOON, "the server passes", || async {
        agent.passing(&service).await.len() == 1
    })
    .await;
    serve.program.kill();
    eventually(SOON, "the dead server fails", || async {
        agent.passing(&service).await.is_empty()
    })
    .await;
    register.stop().await;
}

#[tokio::test]
async fn does_the_same_on_a_rest_registry() {
    let (memory, url) = rest().await;
    let args = [
        &url,
        "users",
        "127.0.0.1:4001",
        "--weight",
        "3",
        "--ttl",
        "1s",
        "--json",
    ];
    let mut register = Program::start("register", &args);
    register.json("event", "registered").await;
    let listed = || memory.instances("users").len();
    assert_eq!(memory.instances("users")[0].id(), "users-127.0.0.1-4001");
    assert_eq!(memory.instances("users")[0].weight.get(), 3);
    memory.fail_next(1);
    register.json("event", "heartbeat_failed").await;
    memory.wipe();
    register.json("event", "reregistered").await;
    assert_eq!(listed(), 1);
    register.signal(Signal::SIGTERM);
    register.json("event", "deregistered").await;
    register.end_well(SOON).await;
    assert_eq!(listed(), 0);
}

#[tokio::test]
async fn a_second_signal_ends_it_while_the_registry_does_not_answer() {
    let (memory, url) = rest().await;
    let upstream = url
        .trim_start_matches("rest://")
        .parse()
        .expect("an address");
    let mut proxy = FaultProxy::tcp(upstream).await;
    let url = format!("rest://{}", proxy.addr());
    let mut register = Program::start("register", &[&url, "s", "127.0.0.1:4001", "--json"]);
    register.json("event", "registered").await;
    proxy.set(Mode::Blackhole).await;
    register.signal(Signal::SIGTERM);
    // Signals of one kind that come together count as one: the other kind is a second.
    register.signal(Signal::SIGINT);
    let end = register.end(SOON).await;
    assert_eq!(end.code, Some(1), "it did not deregister: {end:?}");
    // Without the second it would tell, after 5 s, that the registry did not answer.
    assert!(end.stderr.contains("stopped again"), "{end:?}");
    assert!(end.stderr.contains("s-127.0.0.1-4001"), "{end:?}");
    drop(memory);
}

#[tokio::test]
async fn stays_registered_when_nobody_reads() {
    let (memory, url) = rest().await;
    let mut register = Program::start_unread("register", &[&url, "s", "127.0.0.1:4001"]);
    let listed = |n| {
        let memory = memory.clone();
        eventually(SOON, "the instances listed", move || {
            let found = memory.instances("s").len();
            async move { if found == n { Ok(()) } else { Err(found) } }
        })
    };
    listed(1).await;
    memory.wipe();
    listed(1).await;
    assert!(register.is_running());
    register.stop().await;
    assert_eq!(memory.instances("s").len(), 0, "it is taken out");
}
