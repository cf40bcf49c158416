//! More watches than an agent grants connections, and longer lists than one reads for nothing.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tower_roster::{
    Registry,
    error::ErrorKind,
    instance::Instance,
    registry::{
        View, ViewState, Watch, WatchSettings,
        consul::{ConsulConfig, ConsulOptions},
    },
};

use crate::{
    kit::*,
    support::{Agent, FaultProxy, eventually, need_consul},
};

/// Within which all must be live, and within which a change is seen.
const WITHIN: Duration = Duration::from_secs(5);

fn name(service: usize) -> String {
    format!("service-{service:03}")
}

/// One instance of each of so many services.
async fn services(agent: &Agent, count: usize) {
    for service in 0..count {
        let name = name(service);
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
    }
}

fn watch_all(registry: &Registry, count: usize) -> Vec<Watch> {
    let watches = (0..count).map(|service| registry.watch(name(service)).unwrap());
    watches.collect()
}

async fn all(watches: &mut [Watch], within: Duration, wanted: impl Fn(&View) -> bool + Copy) {
    let waits = watches.iter_mut().map(|watch| watch.wait_for(wanted));
    let began = Instant::now();
    if tokio::time::timeout(within, join_all(waits)).await.is_err() {
        let late = watches.iter().filter(|watch| !wanted(&watch.view()));
        let late: Vec<_> = late
            .map(|watch| {
                (
                    watch.query().service().clone(),
                    watch.view().state,
                    trouble(&watch.view()),
                )
            })
            .collect();
        panic!(
            "after {:?} {} are not as wanted: {:?}",
            began.elapsed(),
            late.len(),
            &late[..late.len().min(5)]
        );
    }
}

fn is_live(view: &View) -> bool {
    view.state == ViewState::Live && view.error.is_none()
}

fn troubles(watches: &[Watch]) -> Vec<String> {
    let all = watches.iter().map(|watch| trouble(&watch.view()));
    all.filter(|trouble| !trouble.is_empty()).collect()
}

/// Lets this much time pass, in which something must not happen.
async fn pass(time: Duration) {
    let began = Instant::now();
    eventually(time * 10, "time passes", || async {
        began.elapsed() >= time
    })
    .await;
}

#[tokio::test]
async fn five_hundred_services_are_live_within_seconds_and_every_change_is_seen() {
    need_consul!();
    const SERVICES: usize = 500;
    let agent = Agent::server().await;
    services(&agent, SERVICES).await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url(), ConsulOptions::default());
    let mut watches = watch_all(&registry, SERVICES);
    all(&mut watches, WITHIN, is_live).await;
    let histories: Vec<_> = watches.iter().map(History::of).collect();

    let (began, before) = (Instant::now(), proxy.requests().len());
    pass(WITHIN * 2).await;
    let rate = (proxy.requests().len() - before) as f64 / began.elapsed().as_secs_f64();
    assert!(
        rate <= 130.0,
        "{rate:.0} requests a second while nothing happens"
    );
    let open = proxy.accepted();

    let changed = [0, 100, 200, 300, 400, SERVICES - 1];
    join_all(changed.map(|service| {
        let agent = &agent;
        async move { agent.deregister_service(&name(service)).await }
    }))
    .await;
    let mut those: Vec<_> = changed
        .iter()
        .map(|service| watches[*service].clone())
        .collect();
    all(&mut those, WITHIN + Duration::from_secs(2), |view| {
        view.instances.is_empty()
    })
    .await;
    pass(WITHIN * 2).await;
    let stale = watches.iter().filter(|watch| !watch.view().is_fresh());
    assert_eq!(stale.count(), 0, "every copy is confirmed");
    for history in histories {
        assert_eq!(history.troubles(), [""; 0]);
    }
    let more = proxy.accepted() - open;
    assert!(more < 2_000, "{more} new connections in 20 s");
}

#[tokio::test]
async fn an_agent_that_grants_few_connections_is_followed_and_registrations_do_not_starve() {
    need_consul!();
    const SERVICES: usize = 100;
    let limit = json!({ "limits": { "http_max_conns_per_client": 50 } });
    let agent = Agent::server().config(limit).await;
    services(&agent, SERVICES).await;
    let registry = registry(&agent.url(), ConsulOptions::default());
    let mut watches = watch_all(&registry, SERVICES);
    all(&mut watches, WITHIN * 2, is_live).await;
    pass(WITHIN).await;

    let mut kept = Vec::new();
    for id in ["a", "b", "c"] {
        let instance = Instance::new("late", id, "127.0.0.1:80".parse().unwrap());
        let registration = registry.register(instance).unwrap();
        let registered = tokio::time::timeout(WITHIN, registration.registered()).await;
        assert!(registered.is_ok(), "{id} found no connection");
        kept.push(registration);
    }
    let late = registry.watch("late").unwrap();
    all(&mut [late], WITHIN * 2, |view| view.instances.len() == 3).await;
    pass(WITHIN * 2).await;
    assert_eq!(troubles(&watches), [""; 0]);
    for registration in kept {
        let left = tokio::time::timeout(WITHIN, registration.deregister()).await;
        left.expect("in time").unwrap();
    }
}

#[tokio::test]
async fn two_registries_of_one_process_share_what_an_agent_grants() {
    need_consul!();
    const SERVICES: usize = 150;
    let agent = Agent::server().await;
    services(&agent, SERVICES).await;
    let options = ConsulOptions::default;
    let (one, two) = (
        registry(&agent.url(), options()),
        registry(&agent.url(), options()),
    );
    let mut watches = watch_all(&one, SERVICES);
    watches.extend(watch_all(&two, SERVICES));
    all(&mut watches, WITHIN * 2, is_live).await;
    pass(WITHIN * 2).await;
    assert_eq!(troubles(&watches), [""; 0]);
    agent.deregister_service(&name(SERVICES - 1)).await;
    let mut both = [
        watches[SERVICES - 1].clone(),
        watches[2 * SERVICES - 1].clone(),
    ];
    all(&mut both, WITHIN + Duration::from_secs(2), |view| {
        view.instances.is_empty()
    })
    .await;
}

/// Some 200 instances, which is a long list; the rules of the index hold for its probe. The names of the
/// nodes have the separator of scopes in them.
#[tokio::test]
async fn an_idle_long_list_is_confirmed_without_being_read() {
    need_consul!();
    let mut agent = Agent::server().await;
    for id in 0..200 {
        let (node, id) = (format!("rack 7/node-{id}"), format!("web-{id:03}"));
        agent
            .catalog_instance(&node, &id, "web", "127.0.0.1", 80)
            .await;
    }
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url(), short());
    let mut watch = registry.watch("web").unwrap();
    let view = see(&mut watch, "it is listed", |view| {
        view.instances.len() == 200
    })
    .await;
    // The list itself is watched until a wait has ended without a change.
    eventually(SOON, "it is probed", || async {
        proxy.count(|request| request.target.contains("filter=")) > 0
    })
    .await;
    proxy.forget_requests();
    pass(WITHIN).await;
    let requests = proxy.requests();
    let probes = requests
        .iter()
        .filter(|request| request.target.contains("filter="));
    assert_eq!(probes.count(), requests.len(), "{requests:?}");
    assert!((3..=8).contains(&requests.len()), "{requests:?}");
    let now = watch.view();
    assert!(now.confirmed > view.confirmed && is_live(&now));
    assert!(now.instances.is_same(&view.instances));

    agent
        .catalog_instance("node-new", "web-new", "web", "127.0.0.1", 81)
        .await;
    see(&mut watch, "a new one", |view| view.instances.len() == 201).await;
    // While changes follow one another, no probe delays them.
    proxy.forget_requests();
    agent
        .catalog_instance("node-newer", "web-newer", "web", "127.0.0.1", 81)
        .await;
    see(&mut watch, "a second", |view| view.instances.len() == 202).await;
    assert_eq!(
        proxy.count(|request| request.target.contains("filter=")),
        0,
        "{:?}",
        proxy.requests()
    );
    // A check changes, and the service does not.
    for (status, left) in [("critical", 201), ("passing", 202)] {
        pass(Duration::from_secs(2)).await;
        let began = std::time::Instant::now();
        let check = serde_json::json!({
            "Node": "rack 7/node-7", "Address": "127.0.0.1",
            "Check": {"CheckID": "disk", "Name": "disk", "Status": status},
        });
        agent.catalog_register(check).await;
        see(&mut watch, status, |view| view.instances.len() == left).await;
        let took = began.elapsed();
        assert!(
            took < Duration::from_millis(1_500),
            "it wakes the probe: {took:?}"
        );
    }
    // The agent comes back with nothing of the index that was known, and knows one more.
    agent.kill9();
    agent.restart().await;
    agent
        .catalog_instance("node-last", "web-last", "web", "127.0.0.1", 82)
        .await;
    see(&mut watch, "one after a restart", |view| {
        view.instances.len() == 203 && is_live(view)
    })
    .await;
}

/// Consul answers a token without rights with an empty list at the index of the full one.
#[tokio::test]
async fn rights_that_are_lost_show_at_the_next_confirmation_of_a_long_list() {
    need_consul!();
    let ttl = json!({ "acl": { "token_ttl": "100ms", "policy_ttl": "100ms", "role_ttl": "100ms" }});
    let agent = Agent::dev().acl_default_deny("root").config(ttl).await;
    for id in 0..200 {
        let (node, id) = (format!("node-{id}"), format!("web-{id:03}"));
        agent
            .catalog_instance(&node, &id, "web", "127.0.0.1", 80)
            .await;
    }
    let rules = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let (accessor, secret) = agent.acl_token("reader", rules).await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let config = ConsulConfig::new(proxy.url()).options(short());
    let registry = configured(config.token(&secret), WatchSettings::default());
    let mut watch = registry.watch("web").unwrap();
    see(&mut watch, "it is listed", |view| {
        view.instances.len() == 200
    })
    .await;
    pass(Duration::from_millis(2_500)).await;
    let last = proxy.requests().pop().unwrap();
    assert!(last.target.contains("filter="), "it is probed: {last:?}");

    agent.acl_set_policies(&accessor, &[]).await;
    let began = Instant::now();
    let view = see(&mut watch, "an empty list", |view| view.error.is_some()).await;
    let took = began.elapsed();
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Doubtful);
    assert_eq!(view.instances.len(), 200);
    assert!(took < Duration::from_secs(4), "after {took:?}");
    agent.acl_set_policies(&accessor, &["reader"]).await;
    see(&mut watch, "healed", is_live).await;
}
