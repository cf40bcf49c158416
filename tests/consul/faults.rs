//! Faults on a real Consul: what is known is never lost while one lasts, and the set is right
//! within 2 s of its heal.
//!
//! Each test observes every view of a watch, makes changes during the fault and after it, and
//! prints the time from the heal to the right set. The heal is the moment from which the agent
//! itself answers a plain read; so Consul's own elections do not count.
//!
//! | fault | test |
//! |---|---|
//! | agent killed and restarted with its state (T3) | `a_killed_agent_that_kept_its_state` |
//! | agent killed and restarted without (B26) | `a_killed_agent_that_lost_its_state` |
//! | leader killed in a cluster of three | `a_killed_leader` |
//! | agent paused for 20 s | `an_agent_paused_for_twenty_seconds` |
//! | client agent paused while others change the set | `a_paused_client_agent_catches_up` |
//! | token revoked and restored | `a_revoked_and_restored_token` |
//! | token without its policy (an empty list) | `a_token_that_lost_its_policy_empties_nothing` |
//! | token replaced in its file | `a_token_replaced_in_its_file` |
//! | token replaced under many watches | `no_watch_is_denied_after_a_token_was_replaced` |
//! | token file emptied, then written | `an_emptied_token_file_is_told_and_leaves_the_last_token` |
//! | connection limit reached (B15, B42) | `the_connection_limit_reached` |
//! | all data lost (T28) | `lost_data_is_held_for_as_long_as_the_guard_says` |
//! | client agent leaves and returns (T32) | `a_client_agent_that_leaves_and_returns` |
//! | client agent killed (T10, B21) | `a_killed_client_agent_takes_its_instances_along` |
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::json;
use tower_roster::{
    Registry,
    catalog::EmptyGuard,
    error::ErrorKind,
    registry::{
        Registration, RegistrationEvent, ViewState, Watch, WatchSettings, consul::ConsulOptions,
    },
};

use super::scene::{
    Observed, SOON, config, event, instance, lasts, millis, of, passes, registry, with_settings,
    with_ttl,
};
use crate::support::{Agent, Cluster, FaultProxy, Mode, eventually, need_consul};

/// Longer than any fault, so that it is never the check that takes an instance out.
const TTL: Duration = Duration::from_secs(60);

fn register(registry: &Registry, service: &str, ids: &[&str]) -> Vec<Registration> {
    let register = |id: &&str| registry.register(with_ttl(instance(service, id, 80), TTL));
    ids.iter().map(|id| register(id).unwrap()).collect()
}

/// Gives an agent a past: the index of one that starts again is then below it, as with any agent
/// that has been in use.
async fn age(agent: &Agent) {
    for n in 0..20 {
        direct(agent, &format!("past-{n}"), &format!("past-{n}")).await;
    }
    // The agent writes them in an order of its own.
    eventually(SOON, "all of it is written", || async {
        let services = agent.get("/v1/catalog/services").await.ok().json();
        services
            .as_object()
            .is_some_and(|services| services.len() > 20)
    })
    .await;
}

async fn direct(agent: &Agent, service: &str, id: &str) {
    agent
        .register_service(id, service, "127.0.0.1", 80, json!({}))
        .await;
}

#[tokio::test]
async fn a_killed_agent_that_kept_its_state() {
    need_consul!();
    let mut agent = Agent::server().await;
    let registry = registry(&agent.url());
    let observed = Observed::new(&registry, "web");
    let mut kept = register(&registry, "web", &["a", "b"]);
    direct(&agent, "web", "c").await;
    observed.settles(&["a", "b", "c"]).await;

    let fault = Instant::now();
    agent.kill9();
    let error = observed.goes_stale().await;
    assert!(error.is_unreachable(), "{error}");
    kept.extend(register(&registry, "web", &["d"]));
    lasts(Duration::from_secs(3)).await;
    agent.restart().await;
    let healed = Instant::now();
    let all = ["a", "b", "c", "d"];
    observed
        .heals("agent killed, state kept", healed, &all)
        .await;
    observed.never_lost(fault, &["a", "b", "c"]);

    let changed = Instant::now();
    agent.deregister_service("c").await;
    observed
        .heals("… and a change after it", changed, &["a", "b", "d"])
        .await;
    observed.never_lost(fault, &["a", "b"]);
}

/// A client that needs an instance all the time.
async fn picks(watch: Watch, ended: tokio::sync::watch::Receiver<bool>) {
    let mut interval = tokio::time::interval(millis(10));
    while !*ended.borrow() {
        assert!(!watch.view().instances.is_empty(), "there is an instance");
        interval.tick().await;
    }
}

#[tokio::test]
async fn a_killed_agent_that_lost_its_state() {
    need_consul!();
    let mut agent = Agent::dev().await;
    age(&agent).await;
    let registry = registry(&agent.url());
    let observed = Observed::new(&registry, "web");
    let own = ["a", "b", "c", "d", "e", "f"];
    let mut kept = register(&registry, "web", &own);
    // Nobody will register this one again.
    direct(&agent, "web", "x").await;
    observed.settles(&["a", "b", "c", "d", "e", "f", "x"]).await;

    let fault = Instant::now();
    agent.kill9();
    observed.goes_stale().await;
    kept.extend(register(&registry, "web", &["g"]));
    let heal = async {
        lasts(Duration::from_secs(3)).await;
        agent.restart().await;
        let healed = Instant::now();
        let all = ["a", "b", "c", "d", "e", "f", "g"];
        observed
            .heals("agent killed, state lost", healed, &all)
            .await;
    };
    observed.beside(heal, picks).await;
    observed.never_lost(fault, &own);

    let changed = Instant::now();
    kept.pop().unwrap().deregister().await.unwrap();
    observed
        .heals("… and a change after it", changed, &own)
        .await;
    observed.never_lost(fault, &own);
}

#[tokio::test]
async fn a_killed_leader() {
    need_consul!();
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    let registry = registry(&client.url());
    let observed = Observed::new(&registry, "web");
    let mut kept = register(&registry, "web", &["a", "b"]);
    observed.settles(&["a", "b"]).await;

    let leader = cluster.leader().await;
    let fault = Instant::now();
    cluster[leader].kill9();
    observed.goes_stale().await;
    kept.extend(register(&registry, "web", &["c"]));
    eventually(3 * SOON, "a leader is elected", || async {
        let path = "/v1/health/service/web";
        let reply = client.request("GET", path, None, None, SOON).await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    let healed = Instant::now();
    println!("election: {} ms", (healed - fault).as_millis());
    observed
        .heals("leader killed", healed, &["a", "b", "c"])
        .await;
    let changed = Instant::now();
    kept.remove(0).deregister().await.unwrap();
    observed
        .heals("… and a change after it", changed, &["b", "c"])
        .await;
    observed.never_lost(fault, &["b"]);
}

#[tokio::test]
async fn an_agent_paused_for_twenty_seconds() {
    need_consul!();
    let mut agent = Agent::dev().await;
    let registry = registry(&agent.url());
    let observed = Observed::new(&registry, "web");
    let mut kept = register(&registry, "web", &["a", "b"]);
    observed.settles(&["a", "b"]).await;

    let fault = Instant::now();
    agent.pause();
    kept.extend(register(&registry, "web", &["c"]));
    let mut beaten = kept.remove(0);
    event(&mut beaten, |e| {
        matches!(e, RegistrationEvent::HeartbeatFailed { .. })
    })
    .await;
    lasts(Duration::from_secs(20).saturating_sub(fault.elapsed())).await;
    agent.resume();
    let healed = Instant::now();
    observed
        .heals("agent paused for 20 s", healed, &["a", "b", "c"])
        .await;
    let changed = Instant::now();
    direct(&agent, "web", "d").await;
    observed
        .heals("… and a change after it", changed, &["a", "b", "c", "d"])
        .await;
    observed.never_lost(fault, &["a", "b"]);
    event(&mut beaten, |e| matches!(e, RegistrationEvent::Recovered)).await;
}

#[tokio::test]
async fn a_paused_client_agent_catches_up() {
    need_consul!();
    let server = Agent::server().await;
    let mut client = Agent::client_of(&server).await;
    let registry = registry(&client.url());
    let observed = Observed::new(&registry, "web");
    direct(&server, "web", "a").await;
    direct(&server, "web", "b").await;
    observed.settles(&["a", "b"]).await;

    let fault = Instant::now();
    client.pause();
    server.deregister_service("b").await;
    direct(&server, "web", "c").await;
    // Long enough for the server to give the client up.
    lasts(Duration::from_secs(6)).await;
    client.resume();
    let healed = Instant::now();
    observed
        .heals("client agent paused for 6 s", healed, &["a", "c"])
        .await;
    let changed = Instant::now();
    direct(&server, "web", "d").await;
    observed
        .heals("… and a change after it", changed, &["a", "c", "d"])
        .await;
    observed.never_lost(fault, &["a"]);
}

/// A query that waits does not notice a revocation; so it waits briefly here.
fn impatient() -> ConsulOptions {
    ConsulOptions::default().wait(millis(300))
}

const READ: &str = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;

#[tokio::test]
async fn a_revoked_and_restored_token() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let (accessor, secret) = agent.acl_token("all", READ).await;
    let registry = of(config(&agent.url())
        .token(secret.as_str())
        .options(impatient()));
    let observed = Observed::new(&registry, "web");
    let _kept = register(&registry, "web", &["a", "b"]);
    observed.settles(&["a", "b"]).await;

    let fault = Instant::now();
    agent.acl_revoke(&accessor).await;
    let error = observed.goes_stale().await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    direct(&agent, "web", "c").await;
    lasts(Duration::from_secs(5)).await;
    agent.acl_restore(&accessor, &secret, "all").await;
    let healed = Instant::now();
    observed
        .heals("token revoked and restored", healed, &["a", "b", "c"])
        .await;
    let changed = Instant::now();
    agent.deregister_service("c").await;
    observed
        .heals("… and a change after it", changed, &["a", "b"])
        .await;
    observed.never_lost(fault, &["a", "b"]);
}

/// What such a token gets is an empty list, with the index that the full one had.
#[tokio::test]
async fn a_token_that_lost_its_policy_empties_nothing() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let (accessor, secret) = agent.acl_token("all", READ).await;
    let config = config(&proxy.url()).token(secret.as_str());
    let registry = of(config.options(impatient()));
    let observed = Observed::new(&registry, "web");
    direct(&agent, "web", "a").await;
    observed.settles(&["a"]).await;

    let fault = Instant::now();
    agent.acl_set_policies(&accessor, &[]).await;
    // Until the first read from scratch, which follows an error, there is only "nothing newer".
    proxy.set(Mode::Refuse).await;
    observed.goes_stale().await;
    proxy.set(Mode::Pass).await;
    let mut watch = observed.watch();
    let doubted = watch.wait_for(|view| {
        view.error
            .as_ref()
            .is_some_and(|e| e.kind() == ErrorKind::Doubtful)
    });
    let doubted = tokio::time::timeout(SOON, doubted).await;
    doubted.expect("the empty list is doubted").unwrap();
    lasts(Duration::from_secs(2)).await;
    agent.acl_set_policies(&accessor, &["all"]).await;
    let healed = Instant::now();
    observed
        .heals("policy taken and given back", healed, &["a"])
        .await;
    let changed = Instant::now();
    direct(&agent, "web", "b").await;
    observed
        .heals("… and a change after it", changed, &["a", "b"])
        .await;
    observed.never_lost(fault, &["a"]);
}

#[tokio::test]
async fn a_token_replaced_in_its_file() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let (old, secret) = agent.acl_token("all", READ).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, &secret).unwrap();
    let registry = of(config(&agent.url()).token_file(&file).options(impatient()));
    let observed = Observed::new(&registry, "web");
    let _kept = register(&registry, "web", &["a"]);
    observed.settles(&["a"]).await;

    let fault = Instant::now();
    let (_, secret) = agent.acl_token("next", READ).await;
    agent.acl_revoke(&old).await;
    observed.goes_stale().await;
    direct(&agent, "web", "b").await;
    lasts(Duration::from_secs(3)).await;
    std::fs::write(&file, &secret).unwrap();
    let healed = Instant::now();
    observed
        .heals("token replaced in its file", healed, &["a", "b"])
        .await;
    observed.never_lost(fault, &["a"]);
}

/// Each of many requests that carry the old token finds that it was replaced.
#[tokio::test]
async fn no_watch_is_denied_after_a_token_was_replaced() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let (old, secret) = agent.acl_token("all", READ).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, &secret).unwrap();
    let registry = of(config(&agent.url()).token_file(&file).options(impatient()));
    direct(&agent, "web", "a").await;
    let watches = (0..20).map(|n| {
        // Each query is another one, so that each has its own requests.
        let query = tower_roster::registry::Query::new("web");
        registry.watch(query.tag(format!("t{n}"))).unwrap()
    });
    let watches: Vec<_> = watches.collect();
    for mut watch in watches.clone() {
        watch
            .wait_for(|view| view.confirmed.is_some())
            .await
            .unwrap();
    }
    let histories: Vec<_> = watches.iter().map(crate::kit::History::of).collect();
    let (_, secret) = agent.acl_token("next", READ).await;
    std::fs::write(&file, &secret).unwrap();
    agent.acl_revoke(&old).await;
    lasts(Duration::from_secs(4)).await;
    for (n, history) in histories.iter().enumerate() {
        let troubles = history.troubles();
        assert!(troubles.is_empty(), "watch {n}: {troubles:?}");
    }
}

/// Some programs empty a file before they write it.
#[tokio::test]
async fn an_emptied_token_file_is_told_and_leaves_the_last_token() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let (old, secret) = agent.acl_token("all", READ).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, &secret).unwrap();
    let registry = of(config(&agent.url()).token_file(&file).options(impatient()));
    let observed = Observed::new(&registry, "web");
    direct(&agent, "web", "a").await;
    observed.settles(&["a"]).await;
    std::fs::write(&file, "").unwrap();
    // Longer than it takes until the file is looked at.
    direct(&agent, "web", "b").await;
    lasts(Duration::from_secs(2)).await;
    observed.settles(&["a", "b"]).await;
    let fault = Instant::now();
    agent.acl_revoke(&old).await;
    let error = observed.goes_stale().await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(
        error.to_chain().contains("the token is empty"),
        "{}",
        error.to_chain()
    );
    let (_, secret) = agent.acl_token("next", READ).await;
    std::fs::write(&file, &secret).unwrap();
    let healed = Instant::now();
    observed
        .heals("token file emptied and written", healed, &["a", "b"])
        .await;
    observed.never_lost(fault, &["a", "b"]);
}

#[tokio::test]
async fn the_connection_limit_reached() {
    need_consul!();
    let limit = json!({ "limits": { "http_max_conns_per_client": 20 } });
    let agent = Agent::dev().config(limit).await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let observed = Observed::new(&registry, "web");
    let mut kept = register(&registry, "web", &["a", "b"]);
    observed.settles(&["a", "b"]).await;

    // Others take every connection while ours are down.
    let fault = Instant::now();
    proxy.set(Mode::Refuse).await;
    let mut others = Vec::new();
    eventually(SOON, "nobody gets in any more", || {
        let more = (0..10).map(|_| std::net::TcpStream::connect(agent.http_addr()).unwrap());
        others.extend(more);
        async {
            let path = "/v1/status/leader";
            agent.request("GET", path, None, None, SOON).await.is_err()
        }
    })
    .await;
    proxy.set(Mode::Pass).await;
    observed.goes_stale().await;
    kept.extend(register(&registry, "web", &["c"]));
    proxy.forget_requests();
    let connections = proxy.accepted();
    lasts(Duration::from_secs(5)).await;
    // Three beats and one watch, each at most once a second or with its backoff.
    let tries = proxy.accepted() - connections;
    assert!(tries <= 80, "{tries} connections in 5 s");
    drop(others);
    eventually(SOON, "the agent noticed", || async {
        let path = "/v1/status/leader";
        agent.request("GET", path, None, None, SOON).await.is_ok()
    })
    .await;
    let healed = Instant::now();
    observed
        .heals("connection limit reached", healed, &["a", "b", "c"])
        .await;
    let changed = Instant::now();
    direct(&agent, "web", "d").await;
    observed
        .heals("… and a change after it", changed, &["a", "b", "c", "d"])
        .await;
    observed.never_lost(fault, &["a", "b"]);
}

#[tokio::test]
async fn lost_data_is_held_for_as_long_as_the_guard_says() {
    need_consul!();
    let mut agent = Agent::server().await;
    age(&agent).await;
    let hold = Duration::from_secs(4);
    let guard = WatchSettings::default().empty_guard(EmptyGuard::HoldDoubtful(hold));
    let registry = with_settings(config(&agent.url()), guard);
    let observed = Observed::new(&registry, "web");
    direct(&agent, "web", "a").await;
    observed.settles(&["a"]).await;

    let fault = Instant::now();
    agent.kill9();
    observed.goes_stale().await;
    agent.restart_wiped().await;
    let mut watch = observed.watch();
    let doubtful = |view: &tower_roster::registry::View| {
        view.error
            .as_ref()
            .is_some_and(|error| error.kind() == ErrorKind::Doubtful)
    };
    let held = tokio::time::timeout(SOON, watch.wait_for(doubtful)).await;
    let held = held.unwrap_or_else(|_| panic!("not doubted: {:#?}", observed.view()));
    let held = held.unwrap();
    assert_eq!((held.state, held.instances.len()), (ViewState::Stale, 1));
    let since = Instant::now();
    observed.never_lost(fault, &["a"]);
    observed.settles(&[]).await;
    let took = since.elapsed();
    assert!(
        (millis(3_500)..millis(6_000)).contains(&took),
        "applied after {took:?}"
    );
    assert_eq!(observed.view().state, ViewState::Missing);
    let changed = Instant::now();
    direct(&agent, "web", "b").await;
    observed
        .heals("all data lost, then registered", changed, &["b"])
        .await;
}

#[tokio::test]
async fn a_client_agent_that_leaves_and_returns() {
    need_consul!();
    let server = Agent::server().await;
    let mut client = Agent::client_of(&server).await;
    let registry = registry(&server.url());
    let observed = Observed::new(&registry, "web");
    let _own = register(&registry, "web", &["s"]);
    let at_client = super::scene::registry(&client.url());
    let _theirs = register(&at_client, "web", &["c"]);
    observed.settles(&["c", "s"]).await;

    // An agent synchronises in full within 3 s after it found a server, and when it is leaving just
    // then it puts itself back into the catalog.
    lasts(Duration::from_secs(4)).await;
    let fault = Instant::now();
    client.terminate().await;
    observed.settles(&["s"]).await;
    client.restart().await;
    passes(&server, "web", "c").await;
    let healed = Instant::now();
    observed
        .heals("client agent left and returned", healed, &["c", "s"])
        .await;
    observed.never_lost(fault, &["s"]);
}

#[tokio::test]
async fn a_killed_client_agent_takes_its_instances_along() {
    need_consul!();
    let server = Agent::server().await;
    let mut client = Agent::client_of(&server).await;
    let registry = registry(&server.url());
    let observed = Observed::new(&registry, "web");
    direct(&server, "web", "s").await;
    client.register_with_ttl("c", "web", 80, "passing").await;
    // A check without a beat comes back critical.
    client.pass_check("check:c").await;
    observed.settles(&["c", "s"]).await;
    let fault = Instant::now();
    client.kill9();
    observed.settles(&["s"]).await;
    let view = observed.view();
    assert_eq!(
        view.withheld.len(),
        1,
        "its own check passes still; its node's does not"
    );
    observed.never_lost(fault, &["s"]);
    client.restart().await;
    passes(&server, "web", "c").await;
    let healed = Instant::now();
    observed
        .heals("client agent killed and restarted", healed, &["c", "s"])
        .await;
}
