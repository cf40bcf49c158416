//! What every transport does, on a real Consul: the same tests over hyper and over a `consulrs`
//! client.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::json;
use tower_roster::{
    Registry,
    error::ErrorKind,
    registry::{Query, RegistrationEvent, ViewState},
};

use super::scene::{Observed, SOON, encoded, event, instance, lasts, millis, passes, with_ttl};
use crate::support::{Agent, FaultProxy, eventually, need_consul};

/// Makes a registry for an address, with a token or without.
type Make = fn(&str, Option<&str>) -> Registry;

macro_rules! on_each_transport {
    ($($test:ident)*) => {
        mod hyper {
            $(#[tokio::test]
            async fn $test() {
                super::need_consul!();
                super::$test(super::over_hyper, "hyper").await;
            })*
        }

        #[cfg(feature = "consulrs")]
        mod consulrs {
            $(#[tokio::test]
            async fn $test() {
                super::need_consul!();
                super::$test(super::over_consulrs, "consulrs").await;
            })*
        }
    };
}

on_each_transport! {
    a_change_is_seen
    an_instance_is_registered_updated_and_removed
    a_lost_registration_comes_back
    missing_empty_and_unreachable_are_told_apart
    a_denied_token_is_told_and_heals
    any_name_can_be_watched
    a_name_that_no_path_can_carry_is_refused_at_once
    a_restarted_agent_is_heard_again
    a_dropped_watch_ends_its_request
}

fn over_hyper(url: &str, token: Option<&str>) -> Registry {
    let config = super::scene::config(url);
    super::scene::of(match token {
        Some(token) => config.token(token),
        None => config,
    })
}

#[cfg(feature = "consulrs")]
fn over_consulrs(url: &str, token: Option<&str>) -> Registry {
    super::consulrs::registry(url, token)
}

async fn a_change_is_seen(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let service = format!("seen-{transport}");
    let observed = Observed::new(&make(&agent.url(), None), &service);
    observed.settles(&[]).await;
    let ids = ["one", "two"].map(|id| format!("{id}-{transport}"));
    for id in &ids {
        agent.register_with_ttl(id, &service, 80, "passing").await;
    }
    observed.settles(&[&ids[0], &ids[1]]).await;
    agent.fail_check(&format!("check:{}", ids[0])).await;
    observed.settles(&[&ids[1]]).await;
    agent.pass_check(&format!("check:{}", ids[0])).await;
    observed.settles(&[&ids[0], &ids[1]]).await;
    for id in &ids {
        agent.deregister_service(id).await;
    }
    observed.settles(&[]).await;
    assert_eq!(observed.view().state, ViewState::Missing);
}

async fn an_instance_is_registered_updated_and_removed(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let service = format!("life-{transport}");
    let registry = make(&agent.url(), None);
    let observed = Observed::new(&registry, &service);
    let me = |weight| with_ttl(instance(&service, &service, 80).weight(weight), millis(900));
    let mut registration = registry.register(me(1)).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    let settled = observed.settles(&[&service]).await;
    registration.update(me(4)).await.unwrap();
    eventually(SOON, "the new weight is known", || async {
        observed
            .view()
            .instances
            .iter()
            .all(|i| i.weight.get() == 4)
    })
    .await;
    lasts(millis(1_500)).await;
    observed.never_lost(settled, &[&service]);
    registration.deregister().await.unwrap();
    observed.settles(&[]).await;
}

async fn a_lost_registration_comes_back(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let service = format!("back-{transport}");
    let registry = make(&agent.url(), None);
    let mut registration = registry
        .register(with_ttl(instance(&service, &service, 80), millis(600)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    agent.deregister_service(&service).await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    passes(&agent, &service, &service).await;
}

async fn missing_empty_and_unreachable_are_told_apart(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let service = format!("states-{transport}");
    let registry = make(&agent.url(), None);
    let mut watch = registry.watch(service.as_str()).unwrap();
    assert_eq!(watch.resolved().await.unwrap().state, ViewState::Missing);
    agent
        .register_with_ttl(&service, &service, 80, "critical")
        .await;
    let empty = tokio::time::timeout(SOON, watch.wait_for(|view| view.state == ViewState::Empty));
    assert_eq!(empty.await.unwrap().unwrap().withheld.len(), 1);
    agent.deregister_service(&service).await;

    let nobody = make("http://127.0.0.1:1", None);
    let mut watch = nobody.watch(service.as_str()).unwrap();
    let told = tokio::time::timeout(SOON, watch.wait_for(|view| view.error.is_some()));
    let view = told.await.unwrap().unwrap();
    let error = view.error.clone().unwrap();
    assert_eq!(
        (view.state, error.kind()),
        (ViewState::Pending, ErrorKind::Unreachable)
    );
    let text = error.to_chain();
    assert!(
        text.contains("http://127.0.0.1:1") && text.contains(&service),
        "{text}"
    );
}

async fn a_denied_token_is_told_and_heals(make: Make, _: &str) {
    let agent = Agent::dev().acl_default_deny("root").await;
    let rules = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;
    let (accessor, secret) = agent.acl_token("all", rules).await;
    agent.acl_revoke(&accessor).await;
    let registry = make(&agent.url(), Some(&secret));
    let observed = Observed::new(&registry, "web");
    let mut registration = registry
        .register(with_ttl(instance("web", "a", 80), SOON))
        .unwrap();
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    let RegistrationEvent::RegisterFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let mut watch = observed.watch();
    let told = tokio::time::timeout(SOON, watch.wait_for(|view| view.error.is_some()));
    let error = told.await.unwrap().unwrap().error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    agent.acl_restore(&accessor, &secret, "all").await;
    observed.heals("token given", Instant::now(), &["a"]).await;
}

async fn any_name_can_be_watched(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let registry = make(&agent.url(), None);
    for name in [
        "a b",
        "a/b",
        "a/",
        "a?b#c",
        "100%",
        "%2F",
        "a%2Fb",
        "ä",
        "\u{670d}\u{52a1}",
        "a&b=c",
        "a+b",
        "a;b",
        "a\\..\\b",
        "a/...",
    ] {
        let service = format!("{transport} {name}");
        let observed = Observed::new(&registry, &service);
        observed.settles(&[]).await;
        let registration = registry
            .register(with_ttl(instance(&service, &service, 80), SOON))
            .unwrap();
        observed.settles(&[&service]).await;
        assert_eq!(agent.passing(&encoded(&service)).await, [service.as_str()]);
        registration.deregister().await.unwrap();
        observed.settles(&[]).await;
    }
}

/// An agent accepts these in a registration. Then it redirects or refuses every other request about them.
async fn a_name_that_no_path_can_carry_is_refused_at_once(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let registry = make(&agent.url(), None);
    for (name, why) in [
        ("/a", "empty path segment"),
        ("a//b", "empty path segment"),
        ("a//", "empty path segment"),
        ("..", "path segment \"..\""),
        ("a/./b", "path segment \".\""),
        ("a/..", "path segment \"..\""),
        ("a\nb", "not printable"),
        ("a\u{a0}b", "not printable"),
        ("a\u{7f}", "not printable"),
    ] {
        for refused in [
            registry.watch(name).err(),
            registry.register(instance(name, "id", 80)).err(),
            registry.register(instance("service", name, 80)).err(),
        ] {
            let error = refused.unwrap_or_else(|| panic!("{name:?} was accepted"));
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let text = error.to_string();
            assert!(
                text.contains(why) && text.contains(&format!("{name:?}")),
                "{text}"
            );
        }
        // The reason for it: what the agent itself says.
        let path = format!("/v1/health/service/{}", encoded(name));
        let answer = agent.get(&path).await.status;
        assert!(matches!(answer, 301 | 400), "{name:?}: {answer}");
    }
    let long = "ä".repeat(20_000);
    assert!(registry.watch(long.as_str()).is_err());
    assert!(registry.register(instance("service", &long, 80)).is_err());
    let tags = (0..1_000).fold(Query::new("web"), |query, n| {
        query.tag("ä".repeat(9) + &n.to_string())
    });
    let error = registry.watch(tags).unwrap_err();
    assert!(error.to_string().contains("the query has"), "{error}");

    let me = instance("kept", &format!("kept-{transport}"), 80);
    let mut registration = registry.register(me).unwrap();
    let error = registration
        .update(instance("kept", "a/..", 80))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    registration.deregister().await.unwrap();
}

async fn a_restarted_agent_is_heard_again(make: Make, _: &str) {
    let mut agent = Agent::dev().await;
    for n in 0..20 {
        let (id, service) = (format!("o-{n}"), format!("other-{n}"));
        agent
            .register_service(&id, &service, "127.0.0.1", 80, json!({}))
            .await;
    }
    agent
        .register_service("a", "web", "127.0.0.1", 80, json!({}))
        .await;
    let observed = Observed::new(&make(&agent.url(), None), "web");
    observed.settles(&["a"]).await;
    let before = agent.index("web").await;
    agent.kill9();
    observed.goes_stale().await;
    agent.restart().await;
    agent
        .register_service("b", "web", "127.0.0.1", 80, json!({}))
        .await;
    let changed = Instant::now();
    assert!(
        agent.index("web").await < before,
        "the index went backwards"
    );
    observed
        .heals("index went backwards", changed, &["b"])
        .await;
    agent
        .register_service("c", "web", "127.0.0.1", 80, json!({}))
        .await;
    observed
        .heals("… and a change after it", Instant::now(), &["b", "c"])
        .await;
}

async fn a_dropped_watch_ends_its_request(make: Make, transport: &str) {
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = make(&proxy.url(), None);
    let observed = Observed::new(&registry, &format!("ended-{transport}"));
    observed.settles(&[]).await;
    eventually(SOON, "a query waits", || async {
        proxy.count(|head| head.param("index").is_some()) == 1
    })
    .await;
    // With the registry, because the query may just have ended (others deregister on this agent,
    // which wakes every watch of a missing service), and then the connection is idle and kept.
    drop((observed, registry));
    eventually(
        Duration::from_secs(5),
        "its connection is closed",
        || async {
            match (proxy.open(), proxy.upstream_open()) {
                (0, 0) => Ok(()),
                open => Err((open, proxy.accepted())),
            }
        },
    )
    .await;
}
