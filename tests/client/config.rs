//! Routers from a configuration, and changes while they run.

use std::time::Duration;

use tower_roster::{
    client::{ResponseExt, Router, config::ClientConfig},
    registry::memory::Memory,
};

use crate::kit::{Server, list, tasks, until};

const MS: Duration = Duration::from_millis(1);

fn read(name: &str, text: &str) -> ClientConfig {
    toml::from_str(&format!("registry.url = 'memory:{name}'\n{text}")).unwrap()
}

fn made(config: &ClientConfig) -> Result<Router, String> {
    Router::from_config(config).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_value_out_of_range_is_named_by_its_path() {
    for (text, path) in [
        (
            "services.a.retry.try_timeout = '0s'",
            "services.a.retry.try_timeout",
        ),
        (
            "services.a.retry.budget.ratio = 50",
            "services.a.retry.budget.ratio",
        ),
        ("services.a.timeout = '0s'", "services.a.timeout"),
        ("services.a.policy = 'fastest'", "services.a.policy"),
        (
            "defaults.ejection.max_ejected = 2",
            "defaults.ejection.max_ejected",
        ),
        ("services.a.hedge.share = 2", "services.a.hedge.share"),
        ("services.a.split.shares.v2 = -1", "services.a.split.shares"),
        (
            "services.a.breaker = { enabled = true, probes = 100 }",
            "services.a.breaker.probes",
        ),
        ("router.max_services = 0", "router.max_services"),
    ] {
        let error =
            Router::<http_body_util::Full<bytes::Bytes>>::from_config(&read("ranges", text));
        assert_eq!(error.unwrap_err().field(), path, "{text}");
    }
}

#[tokio::test]
async fn a_registry_url_with_a_password_is_not_shown() {
    let config: ClientConfig =
        toml::from_str("registry.url = 'nothing://user:SECRET@host'").unwrap();
    let error = made(&config).unwrap_err();
    assert!(!error.contains("SECRET"), "{error}");
}

#[tokio::test]
async fn timeouts_and_retries_change_while_it_runs_and_connections_stay() {
    let server = Server::start("one").await;
    let memory = Memory::named("changes");
    list(&memory, server.instance("web"));
    let config = |timeout: &str| read("changes", &format!("services.web.timeout = '{timeout}'"));
    let router = made(&config("30s")).unwrap();
    for _ in 0..3 {
        let response = router.get("http://web/").await.unwrap();
        assert_eq!(response.text(100).await.unwrap(), "one");
    }
    let clone = router.clone();
    router.apply(&config("50ms")).unwrap();
    for router in [&router, &clone] {
        let hangs = tokio::time::timeout(Duration::from_secs(5), router.get("http://web/hang"));
        assert!(hangs.await.unwrap().is_err(), "after 50 ms");
    }
    let response = router.get("http://web/").await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "one");
    let client = router.client("web").unwrap();
    let endpoints = client.handle().endpoints().await.unwrap();
    assert_eq!(endpoints[0].requests, 6, "the balancer is the same");
}

#[tokio::test]
async fn weights_and_shares_change_while_it_runs() {
    let servers = [Server::start("one").await, Server::start("two").await];
    let memory = Memory::named("weights");
    for (server, version) in servers.iter().zip(["v1", "v2"]) {
        list(&memory, server.instance("web").meta("version", version));
    }
    let id = format!("web-{}", servers[0].addr.port());
    let config = |weight: u16, v2: f64| {
        let text = format!(
            "[services.web]\nweights.{id} = {weight}\n[services.web.split]\nrest = {}\nshares.v2 = {v2}",
            1.0 - v2
        );
        read("weights", &text)
    };
    let router = made(&config(7, 0.0)).unwrap();
    router.get("http://web/").await.unwrap();
    let client = router.client("web").unwrap();
    let weight = async || {
        let all = client.handle().endpoints().await.unwrap();
        let one = all.into_iter().find(|one| one.key.id() == id).unwrap();
        one.weight.get()
    };
    let reaches = async |expected: u32| {
        let wait = async {
            while weight().await != expected {
                tokio::time::sleep(2 * MS).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), wait).await;
        assert!(waited.is_ok(), "weight {expected}");
    };
    reaches(7).await;
    router.apply(&config(9, 1.0)).unwrap();
    reaches(9).await;
    assert_eq!(client.handle().split().unwrap().shares().share("v2"), 1.0);
    // Also of an instance that is listed later.
    drop((router, client));
}

#[tokio::test]
async fn what_needs_a_new_client_is_refused_by_name_and_nothing_changes() {
    let server = Server::start("one").await;
    let memory = Memory::named("refused");
    list(&memory, server.instance("web"));
    let router = made(&read("refused", "")).unwrap();
    router.get("http://web/").await.unwrap();
    for (text, path) in [
        ("services.web.policy = 'random'", "services.web.policy"),
        ("defaults.wait = '1s'", "services.web.wait"),
        ("router.max_services = 3", "router.max_services"),
        ("registry.linger = '1s'", "registry.linger"),
        (
            "services.web.split.shares.v2 = 1",
            "services.web.split.shares",
        ),
    ] {
        let error = router.apply(&read("refused", text)).unwrap_err();
        assert_eq!(error.field(), path, "{text}");
        assert!(
            error.to_string().contains("while the router runs"),
            "{error}"
        );
    }
    // Of a service that has no client yet, all can change.
    router
        .apply(&read("refused", "services.other.policy = 'random'"))
        .unwrap();
    let error = Router::new(&tower_roster::registry::connect("memory:refused").unwrap())
        .apply(&read("refused", ""))
        .unwrap_err();
    assert!(
        error.to_string().contains("not made from a configuration"),
        "{error}"
    );
}

#[tokio::test]
async fn a_configured_router_leaves_nothing_behind() {
    let server = Server::start("one").await;
    let memory = Memory::named("behind");
    list(&memory, server.instance("web"));
    let before = tasks();
    let router = made(&read("behind", "")).unwrap();
    let response = router.get("http://web/").await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "one");
    router
        .apply(&read("behind", "defaults.timeout = '1s'"))
        .unwrap();
    router.get("http://web/").await.unwrap();
    drop(router);
    until("its connections close", || server.open() == 0).await;
    until("its tasks end", || tasks() <= before).await;
}
