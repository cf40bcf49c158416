//! What becomes of the set: health, weights, empty lists in and out of doubt.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tower_roster::{
    catalog::{Delta, EmptyGuard, diff},
    error::ErrorKind,
    instance::Status,
    registry::{
        Query, View, ViewState, WatchSettings,
        consul::{ConsulConfig, ConsulOptions},
    },
};

use crate::{
    kit::*,
    support::{
        Agent, FaultProxy, Mode, RawServer, Rule, Script, eventually, http1::reply, need_consul,
    },
};

fn with(settings: WatchSettings, url: &str, options: ConsulOptions) -> tower_roster::Registry {
    configured(ConsulConfig::new(url).options(options), settings)
}

/// W18; B11 (the last instance never removed), B12 (one removal removes all), T7. No wait ends
/// meanwhile: each change is seen because it wakes the query.
#[tokio::test]
async fn instances_come_and_go_at_once() {
    need_consul!();
    let agent = Agent::shared().await;
    let mut watch = registry(&agent.url(), long()).watch("coming").unwrap();
    see(&mut watch, "none yet", |view| {
        view.state == ViewState::Missing
    })
    .await;
    for n in 1..=3 {
        agent
            .register_service(&format!("c-{n}"), "coming", "127.0.0.1", 80 + n, json!({}))
            .await;
        see(&mut watch, "one more", |view| {
            view.instances.len() == usize::from(n)
        })
        .await;
    }
    let before = watch.view();
    agent.deregister_service("c-2").await;
    let view = see(&mut watch, "one less", |view| view.instances.len() == 2).await;
    let changes = diff(&before.instances, &view.instances);
    assert!(
        matches!(&changes[..], [Delta::Remove(gone)] if gone.id() == "c-2"),
        "{changes:?}"
    );
    agent.deregister_service("c-1").await;
    agent.deregister_service("c-3").await;
    let view = see(&mut watch, "none", |view| view.instances.is_empty()).await;
    assert_eq!(
        (view.state, trouble(&view)),
        (ViewState::Missing, String::new())
    );
}

/// W5, W24, W25, W26; B19, B20, T9. Warnings serve with their own weight, or not, as asked; maintenance is a
/// state of its own.
#[tokio::test]
async fn checks_decide_who_serves_and_how_much() {
    need_consul!();
    let agent = Agent::dev().await;
    for (id, warning) in [("w-1", 1), ("w-0", 0)] {
        let more = json!({
            "Weights": { "Passing": 10, "Warning": warning },
            "Check": { "CheckID": format!("check:{id}"), "TTL": "10m", "Status": "passing" },
        });
        agent
            .register_service(id, "web", "127.0.0.1", 80, more)
            .await;
    }
    let client = registry(&agent.url(), long());
    let mut all = client.watch("web").unwrap();
    let mut strict = client.watch(Query::new("web").passing_only()).unwrap();
    let passing = registry(&agent.url(), long().passing());
    let mut passing = passing.watch("web").unwrap();
    let weights = |view: &View| -> Vec<(String, u32)> {
        let weight =
            |i: &std::sync::Arc<tower_roster::Instance>| (i.id().to_owned(), i.weight.get());
        view.instances.iter().map(weight).collect()
    };
    let pair = |a: u32, b: u32| vec![("w-0".to_owned(), a), ("w-1".to_owned(), b)];
    see(&mut all, "both pass", |view| weights(view) == pair(10, 10)).await;

    agent.warn_check("check:w-1").await;
    agent.warn_check("check:w-0").await;
    see(&mut all, "both warn", |view| weights(view) == pair(0, 1)).await;
    let view = see(&mut strict, "none passes", |view| {
        view.state == ViewState::Empty
    })
    .await;
    assert_eq!(view.withheld.len(), 2);
    let view = see(&mut passing, "none is listed", |view| {
        view.state == ViewState::Empty
    })
    .await;
    assert_eq!(view.withheld.len(), 0);

    agent.fail_check("check:w-0").await;
    agent.pass_check("check:w-1").await;
    let view = see(&mut all, "one fails", |view| ids(view) == ["w-1"]).await;
    assert_eq!(view.withheld[0].status, Status::Critical);
    see(&mut passing, "one passes", |view| ids(view) == ["w-1"]).await;

    agent.service_maintenance("w-1", true).await;
    let view = see(&mut all, "maintenance", |view| view.instances.is_empty()).await;
    let status = |view: &View, id: &str| {
        let found = view.withheld.iter().find(|i| i.id() == id);
        found.map(|i| i.status)
    };
    assert_eq!(status(&view, "w-1"), Some(Status::Maintenance));
    agent.service_maintenance("w-1", false).await;
    see(&mut all, "it serves again", |view| ids(view) == ["w-1"]).await;
    agent.node_maintenance(true).await;
    let view = see(&mut all, "the whole node", |view| view.instances.is_empty()).await;
    assert_eq!(status(&view, "w-0"), Some(Status::Maintenance));
    agent.node_maintenance(false).await;
    see(&mut all, "it serves again", |view| ids(view) == ["w-1"]).await;
}

/// W24; B21, T10, T32. When a node dies only its own check tells; when it leaves, its instances
/// leave with it; the others are not touched.
#[tokio::test]
async fn a_node_that_dies_takes_its_instances_out() {
    need_consul!();
    let fast = json!({ "gossip_lan": {
        "probe_interval": "200ms", "probe_timeout": "100ms", "suspicion_mult": 1,
        "gossip_interval": "50ms",
    }});
    let server = Agent::server().config(fast.clone()).await;
    let mut client = Agent::client_of(&server).config(fast).await;
    server
        .register_with_ttl("stays", "web", 80, "passing")
        .await;
    client.register_with_ttl("dies", "web", 81, "passing").await;
    // A check without a beat comes back critical.
    client.pass_check("check:dies").await;
    let mut watch = registry(&server.url(), long()).watch("web").unwrap();
    see(&mut watch, "both", |view| ids(view) == ["dies", "stays"]).await;
    let history = History::of(&watch);
    client.kill9();
    let view = see(&mut watch, "its node is dead", |view| {
        ids(view) == ["stays"]
    })
    .await;
    assert_eq!(view.withheld.len(), 1, "still listed, and critical");
    client.restart().await;
    see(&mut watch, "it is back", |view| view.instances.len() == 2).await;
    // Seen while it leaves: an agent that has just started may write its services once more.
    tokio::join!(
        client.terminate(),
        see(&mut watch, "it has left", |view| ids(view) == ["stays"])
    );
    assert!(history.smallest_set() >= 1);
    assert_eq!(history.troubles(), [""; 0]);
}

/// W28; T22. Labels are updated in place; nothing is removed and inserted again.
#[tokio::test]
async fn changes_of_labels_are_updates() {
    need_consul!();
    let agent = Agent::shared().await;
    let register = async |n: u32| {
        let more = json!({ "Tags": [format!("v{n}")], "Meta": { "n": n.to_string() } });
        agent
            .register_service("label-1", "label", "127.0.0.1", 80, more)
            .await;
    };
    register(0).await;
    let mut watch = registry(&agent.url(), long()).watch("label").unwrap();
    see(&mut watch, "it is listed", |view| view.instances.len() == 1).await;
    let history = History::of(&watch);
    for n in 1..=20 {
        register(n).await;
    }
    see(&mut watch, "the last labels", |view| {
        view.instances
            .iter()
            .next()
            .is_some_and(|i| i.tags == ["v20"] && i.metadata["n"] == "20")
    })
    .await;
    for pair in history.views().windows(2) {
        for change in diff(&pair[0].instances, &pair[1].instances) {
            assert!(matches!(change, Delta::Update { .. }), "{change:?}");
        }
    }
    // A new address is an update of the same key too; what follows is for the user of the change.
    let before = watch.view();
    agent
        .register_service("label-1", "label", "127.0.0.1", 81, json!({}))
        .await;
    let view = see(&mut watch, "the new port", |view| {
        view.instances
            .iter()
            .next()
            .is_some_and(|i| i.address.port() == 81)
    })
    .await;
    let changes = diff(&before.instances, &view.instances);
    assert!(
        matches!(&changes[..], [Delta::Update { .. }]),
        "{changes:?}"
    );
}

/// W29, W30; B37, T23. Nobody looks while all instances are replaced: the next look is up to date, and
/// no state in between was empty.
#[tokio::test]
async fn a_rolling_replacement_is_never_empty_and_needs_no_reader() {
    need_consul!();
    let agent = Agent::shared().await;
    for n in 0..3 {
        agent
            .register_service(&format!("roll-{n}"), "roll", "127.0.0.1", 80, json!({}))
            .await;
    }
    let mut watch = registry(&agent.url(), long()).watch("roll").unwrap();
    see(&mut watch, "the first three", |view| {
        view.instances.len() == 3
    })
    .await;
    let history = History::of(&watch);
    for n in 3..30 {
        agent
            .register_service(&format!("roll-{n}"), "roll", "127.0.0.1", 80, json!({}))
            .await;
        agent.deregister_service(&format!("roll-{}", n - 3)).await;
    }
    eventually(SOON, "the view is up to date", || {
        let view = watch.view();
        async move {
            let expected = ["roll-27", "roll-28", "roll-29"];
            if ids(&view) == expected {
                Ok(())
            } else {
                Err(format!("{:?}", ids(&view)))
            }
        }
    })
    .await;
    assert!(history.smallest_set() >= 3, "{}", history.smallest_set());
}

/// W17, W18; B8, B9, T28. A registry that was wiped lists nothing: held for its time, and then
/// believed; at once by those who want that. New registrations need no restart of the client.
#[tokio::test]
async fn a_wiped_registry_is_believed_after_the_guard() {
    need_consul!();
    let mut agent = Agent::server().await;
    for n in 0..30 {
        agent
            .catalog_instance("other", &format!("o-{n}"), "other", "127.0.0.1", 1)
            .await;
    }
    agent
        .catalog_instance("n-1", "web-1", "web", "127.0.0.1", 80)
        .await;
    let time = Duration::from_secs(2);
    let guard = |guard| WatchSettings::default().empty_guard(guard);
    let held = with(guard(EmptyGuard::HoldDoubtful(time)), &agent.url(), short());
    let at_once = with(guard(EmptyGuard::ApplyAtOnce), &agent.url(), short());
    let mut held = held.watch("web").unwrap();
    let mut at_once = at_once.watch("web").unwrap();
    see(&mut held, "listed", |view| view.state == ViewState::Live).await;
    see(&mut at_once, "listed", |view| view.state == ViewState::Live).await;

    agent.restart_wiped().await;
    let view = see(&mut held, "held", |view| {
        trouble(view).contains("held back")
    })
    .await;
    let from = Instant::now();
    see(&mut at_once, "believed", |view| {
        view.state == ViewState::Missing
    })
    .await;
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["web-1"]));
    assert!(trouble(&view).contains("its index "), "{}", trouble(&view));
    let view = see(&mut held, "believed", |view| view.instances.is_empty()).await;
    assert_eq!(
        (view.state, trouble(&view)),
        (ViewState::Missing, String::new())
    );
    assert!(
        from.elapsed() + Duration::from_millis(200) >= time,
        "{:?}",
        from.elapsed()
    );
    agent
        .catalog_instance("n-1", "web-1", "web", "127.0.0.1", 80)
        .await;
    see(&mut held, "registered again", |view| ids(view) == ["web-1"]).await;
    see(&mut at_once, "registered again", |view| {
        ids(view) == ["web-1"]
    })
    .await;
}

/// W17, W18. The time of the guard passes while the registry is away: it has not said so again.
#[tokio::test]
async fn a_held_list_is_not_believed_while_the_registry_is_away() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("held-1", "held", "127.0.0.1", 80, json!({}))
        .await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let time = Duration::from_millis(1_500);
    let settings = WatchSettings::default().empty_guard(EmptyGuard::Hold(time));
    let mut watch = with(settings, &proxy.url(), short()).watch("held").unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    agent.deregister_service("held-1").await;
    see(&mut watch, "held", |view| {
        trouble(view).contains("held back")
    })
    .await;
    let held = Instant::now();
    proxy.set(Mode::Refuse).await;
    see(&mut watch, "away", |view| {
        view.error
            .as_ref()
            .is_some_and(|e| e.kind() == ErrorKind::Unreachable)
    })
    .await;
    eventually(SOON, "its time passes", || async {
        held.elapsed() > time * 2
    })
    .await;
    let view = watch.view();
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["held-1"]));
    proxy.set(Mode::Pass).await;
    see(&mut watch, "said again", |view| {
        view.state == ViewState::Missing
    })
    .await;
}

/// W19. A grace for what is no longer listed; its end says nothing about the registry.
#[tokio::test]
async fn the_end_of_a_grace_hides_no_error() {
    need_consul!();
    let agent = Agent::shared().await;
    for id in ["grace-1", "grace-2"] {
        agent
            .register_service(id, "grace", "127.0.0.1", 80, json!({}))
            .await;
    }
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let grace = Duration::from_millis(1_500);
    let settings = WatchSettings::default().removal_grace(grace);
    let mut watch = with(settings, &proxy.url(), long()).watch("grace").unwrap();
    see(&mut watch, "listed", |view| view.instances.len() == 2).await;
    agent.deregister_service("grace-1").await;
    let from = Instant::now();
    see(&mut watch, "one left", |view| ids(view) == ["grace-2"]).await;
    assert!(from.elapsed() >= grace / 2, "it stayed for a while");
    let asked = proxy.requests().len();
    agent.deregister_service("grace-2").await;
    eventually(SOON, "it is seen", || async {
        proxy.requests().len() > asked
    })
    .await;
    assert_eq!(ids(&watch.view()), ["grace-2"], "its grace has begun");
    proxy.set(Mode::Refuse).await;
    let view = see(&mut watch, "the grace ends", |view| {
        view.instances.is_empty()
    })
    .await;
    assert_eq!(view.state, ViewState::Stale);
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Unreachable);
    proxy.set(Mode::Pass).await;
    see(&mut watch, "back", |view| view.state == ViewState::Missing).await;
}

/// W6, W18 and the table of answers; B40, B41. A token that loses its rights sees an empty list at the same
/// index; one that is revoked is refused; both keep the set, and both heal.
#[tokio::test]
async fn a_token_without_rights_takes_nothing_away() {
    need_consul!();
    let ttl = json!({ "acl": { "token_ttl": "100ms", "policy_ttl": "100ms", "role_ttl": "100ms" }});
    let agent = Agent::dev()
        .acl_default_deny("the-master")
        .config(ttl)
        .await;
    agent
        .register_service("web-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    let rules = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let (accessor, secret) = agent.acl_token("reader", rules).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let config = || ConsulConfig::new(agent.url()).options(short());
    let mut literal = configured(config().token(&secret), WatchSettings::default())
        .watch("web")
        .unwrap();
    let mut from_file = configured(config().token_file(&file), WatchSettings::default())
        .watch("web")
        .unwrap();
    see(&mut literal, "listed", |view| view.state == ViewState::Live).await;
    see(&mut from_file, "listed", |view| {
        view.state == ViewState::Live
    })
    .await;
    let history = History::of(&literal);

    agent.acl_set_policies(&accessor, &[]).await;
    let view = see(&mut literal, "an empty list", |view| view.error.is_some()).await;
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Doubtful);
    assert!(
        trouble(&view).contains("at the same index"),
        "{}",
        trouble(&view)
    );
    agent.acl_set_policies(&accessor, &["reader"]).await;
    see(&mut literal, "healed", |view| view.state == ViewState::Live).await;

    agent.acl_revoke(&accessor).await;
    let denied = |view: &View| {
        let error = view.error.as_ref();
        error.is_some_and(|error| error.kind() == ErrorKind::Denied)
    };
    let view = see(&mut literal, "refused", denied).await;
    assert!(
        trouble(&view).contains("ACL not found"),
        "{}",
        trouble(&view)
    );
    assert_eq!(ids(&view), ["web-1"]);
    see(&mut from_file, "refused", denied).await;
    // Whoever keeps the file replaces the token in it.
    let (_, secret) = agent.acl_token("reader-2", rules).await;
    std::fs::write(&file, &secret).unwrap();
    see(&mut from_file, "the new token", |view| {
        view.state == ViewState::Live
    })
    .await;
    assert!(denied(&literal.view()), "no file, no new token");
    assert_eq!(history.smallest_set(), 1, "the set was there all the time");
}

/// W18 and the table of headers, through a header that 1.8.7 does not send.
#[tokio::test]
async fn a_list_cut_by_access_rules_says_so() {
    need_consul!();
    let agent = Agent::shared().await;
    for id in ["seen-1", "seen-2"] {
        agent
            .register_service(id, "seen", "127.0.0.1", 80, json!({}))
            .await;
    }
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let mut watch = registry(&proxy.url(), short()).watch("seen").unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    let cut = |list: &'static str| {
        move |_: &crate::support::RequestHead, answer: &mut http::Response<bytes::Bytes>| {
            let header = http::HeaderValue::from_static("true");
            answer
                .headers_mut()
                .insert("x-consul-results-filtered-by-acls", header);
            if list == "none" {
                *answer.body_mut() = "[]".into();
            }
        }
    };
    proxy.rewrite(cut("some"));
    let view = see(&mut watch, "told", |view| !view.rejected.is_empty()).await;
    assert_eq!((view.state, view.instances.len()), (ViewState::Live, 2));
    assert!(view.rejected[0].to_string().contains("may not see"));
    proxy.clear();
    proxy.rewrite(cut("none"));
    let view = see(&mut watch, "doubted", |view| view.error.is_some()).await;
    assert!(
        trouble(&view).contains("access rules"),
        "{}",
        trouble(&view)
    );
    assert_eq!(view.instances.len(), 2);
    proxy.clear();
    see(&mut watch, "whole", |view| view.state == ViewState::Live).await;
}

/// The table of headers; B10. A leader that is not known is no error.
#[tokio::test]
async fn an_unknown_leader_is_no_error() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    proxy.rewrite(|_, answer| {
        let no = http::HeaderValue::from_static("false");
        answer.headers_mut().insert("x-consul-knownleader", no);
    });
    let mut watch = registry(&proxy.url(), long()).watch("leaderless").unwrap();
    see(&mut watch, "none", |view| view.state == ViewState::Missing).await;
    agent
        .register_service("l-1", "leaderless", "127.0.0.1", 80, json!({}))
        .await;
    let view = see(&mut watch, "one", |view| ids(view) == ["l-1"]).await;
    assert_eq!(
        (view.state, trouble(&view)),
        (ViewState::Live, String::new())
    );
}

/// W4. An agent that ignores a parameter would answer with other instances: it is not asked.
#[tokio::test]
async fn an_agent_too_old_for_an_option_is_not_asked() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("old-1", "old", "127.0.0.1", 80, json!({}))
        .await;
    for (options, says) in [
        (short().partition("team"), "partition"),
        (short().peer("other"), "peer"),
    ] {
        let proxy = FaultProxy::http(agent.http_addr()).await;
        let mut watch = registry(&proxy.url(), options).watch("old").unwrap();
        let view = see(&mut watch, says, |view| view.error.is_some()).await;
        assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Refused);
        assert!(trouble(&view).contains("ignores"), "{}", trouble(&view));
        assert!(trouble(&view).contains(says), "{}", trouble(&view));
        assert_eq!((view.state, view.instances.len()), (ViewState::Pending, 0));
        assert_eq!(proxy.count(|head| head.path().contains("health")), 0);
    }
    let mut watch = registry(&agent.url(), short().namespace("team"))
        .watch("old")
        .unwrap();
    let view = see(&mut watch, "refused", |view| view.error.is_some()).await;
    assert_eq!(view.error.as_ref().unwrap().kind(), ErrorKind::Refused);
    assert!(trouble(&view).contains("400"), "{}", trouble(&view));
}

/// W4, W34. That the first agent is new enough says nothing about the next.
#[tokio::test]
async fn the_version_of_each_agent_is_looked_at() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("mixed-1", "mixed", "127.0.0.1", 80, json!({}))
        .await;
    let old = FaultProxy::http(agent.http_addr()).await;
    let new = RawServer::start(|head| {
        if head.path() == "/v1/agent/self" {
            let about = json!({ "Config": { "Version": "1.15.2+ent" } });
            Script::respond(&reply(200, about.to_string()))
        } else {
            assert_eq!(head.param("partition"), Some("team"));
            Script::new().reset()
        }
    })
    .await;
    let config = ConsulConfig::new(new.url()).fallback(old.url());
    let config = config.options(short().partition("team"));
    let mut watch = configured(config, WatchSettings::default())
        .watch("mixed")
        .unwrap();
    see(&mut watch, "the old one is found out", |view| {
        trouble(view).contains("1.8.7")
    })
    .await;
    assert_eq!(old.count(|head| head.path().contains("health")), 0);
}

/// W1, W20, W23; B25. Through the mesh: proxies, whose configuration holds what it likes; and the
/// address that was asked for.
#[tokio::test]
async fn proxies_and_tagged_addresses_are_found() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("meshed-1", "meshed", "127.0.0.1", 80, json!({}))
        .await;
    let mesh = registry(&agent.url(), long().connect());
    let mut mesh = mesh.watch("meshed").unwrap();
    see(&mut mesh, "no proxy yet", |view| {
        view.state == ViewState::Empty
    })
    .await;
    let more = json!({
        "Kind": "connect-proxy",
        "Proxy": {
            "DestinationServiceName": "meshed",
            "Config": { "limit": 3, "nested": { "on": true }, "list": [1, "a"] },
        },
        "TaggedAddresses": { "wan": { "Address": "198.18.0.1", "Port": 9_000 } },
    });
    agent
        .register_service("meshed-proxy", "meshed-proxy", "127.0.0.1", 81, more)
        .await;
    see(&mut mesh, "the proxy", |view| ids(view) == ["meshed-proxy"]).await;
    for (tag, address) in [("wan", "198.18.0.1:9000"), ("none", "127.0.0.1:81")] {
        let options = long().connect().tagged_address(tag);
        let mut watch = registry(&agent.url(), options).watch("meshed").unwrap();
        let view = see(&mut watch, tag, |view| view.state == ViewState::Live).await;
        let found = view.instances.iter().next().map(|i| i.address.to_string());
        assert_eq!(found.as_deref(), Some(address), "{tag}");
    }
}

/// W38. Sorted by the servers; the order is no change here.
#[tokio::test]
async fn near_changes_no_set() {
    need_consul!();
    let agent = Agent::shared().await;
    for node in ["near-b", "near-a"] {
        agent
            .catalog_instance(node, node, "near", "127.0.0.1", 80)
            .await;
    }
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let reversed = std::sync::atomic::AtomicBool::new(false);
    proxy.add(Rule::path("/v1/health").rewrite(move |_, answer| {
        if reversed.fetch_not(std::sync::atomic::Ordering::SeqCst) {
            let mut list: Vec<Value> = serde_json::from_slice(answer.body()).unwrap();
            list.reverse();
            *answer.body_mut() = Value::from(list).to_string().into();
        }
    }));
    let mut watch = registry(
        &proxy.url(),
        short().near("_agent").wait(Duration::from_millis(100)),
    )
    .watch("near")
    .unwrap();
    see(&mut watch, "both", |view| ids(view) == ["near-a", "near-b"]).await;
    let history = History::of(&watch);
    eventually(SOON, "some rounds", || async { proxy.requests().len() > 5 }).await;
    assert_eq!(proxy.requests()[0].param("near"), Some("_agent"));
    assert_eq!(history.views().len(), 1);
    for node in ["near-b", "near-a"] {
        agent.catalog_deregister(json!({ "Node": node })).await;
    }
}

/// W2. The embedded registry tells them apart; see `names_are_exact` there.
#[tokio::test]
async fn names_are_found_regardless_of_case() {
    need_consul!();
    let agent = Agent::shared().await;
    for (id, name, asked) in [("case-1", "CaSe", "cAsE"), ("case-2", "ÄRGER", "ärger")] {
        agent
            .register_service(id, name, "127.0.0.1", 80, json!({}))
            .await;
        let mut watch = registry(&agent.url(), long()).watch(asked).unwrap();
        let view = see(&mut watch, "found", |view| ids(view) == [id]).await;
        let instance = view.instances.iter().next().unwrap();
        assert_eq!(&*instance.service, asked, "it has the name of the query");
        // The same when no instance passes the filter: the service exists.
        let filtered = long().filter("Service.Port == 1");
        let mut watch = registry(&agent.url(), filtered).watch(asked).unwrap();
        see(&mut watch, "empty", |view| view.state == ViewState::Empty).await;
        agent.deregister_service(id).await;
    }
}
