//! Registration on a real agent, rule by rule of what a correct registrar does, and the bugs that
//! other clients had.
//!
//! | rule or bug | test |
//! |---|---|
//! | R1, B36 | `registrations_stay_on_the_first_agent` |
//! | R2 | `without_a_leader_a_registration_is_accepted_and_comes_true_later` |
//! | R3 | `only_fields_that_are_set_are_sent`, `what_the_agent_refuses_is_told` |
//! | R4 | `what_nobody_could_call_is_refused_before_it_is_sent` |
//! | R5 | `the_same_id_is_one_instance_and_outlives_its_predecessor` |
//! | R6 | `only_fields_that_are_set_are_sent`, `any_id_can_be_registered_renewed_and_removed` |
//! | R7, B32, B35 | `a_ttl_instance_passes_from_the_start`, `what_nobody_could_call_…`, the three checks |
//! | R8, B29 | `beats_come_every_third_of_the_ttl_and_at_least_every_second`, `stalls_…` |
//! | R9 | `a_beaten_check_passes_after_a_restart_of_the_agent` |
//! | R10 | `beats_write_nothing_to_the_catalog` |
//! | R11, B26, B27 | `a_lost_check_is_registered_again_whatever_the_version_says`, `repeating_…` |
//! | R12 | `a_loss_is_noticed_without_a_heartbeat_too` |
//! | R13, B28 | `an_agent_that_comes_later_gets_the_registration` |
//! | R14 | `an_update_replaces_weight_tags_and_check`, `a_refused_update_leaves_…` |
//! | R15 | `an_agent_that_lost_its_data_gets_the_registration_back`, and the tests of faults |
//! | R16, B31 | `leaving_…`, `a_late_registration_cannot_undo_the_end` |
//! | R17, B33 | `a_reaped_instance_comes_back` |
//! | R18 | `a_denied_token_is_told_and_heals`, `a_token_file_is_read_again` |
//! | R19 | `maintenance_survives_beats_and_repetitions` |
//! | B30 | `one_failed_beat_does_not_stop_the_beats` |
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tower_roster::{
    error::ErrorKind,
    registry::{Announcement, Health, RegistrationEvent},
};

use super::{
    grpc_health::GrpcHealth,
    scene::{
        Observed, SOON, checks_of, config, encoded, event, instance, lasts, millis, of, passes,
        registry, throughout, with_ttl,
    },
};
use crate::support::{
    Agent, Backend, FaultProxy, Mode, RequestHead, Rule, eventually,
    http1::{self, reply},
    need_consul,
};

const REGISTER: &str = "/v1/agent/service/register";
const DEREGISTER: &str = "/v1/agent/service/deregister/";
const PASS: &str = "/v1/agent/check/pass/";

fn is_register(head: &RequestHead) -> bool {
    head.path() == REGISTER
}

fn is_beat(head: &RequestHead) -> bool {
    head.path().starts_with(PASS)
}

/// R3, R6.
#[tokio::test]
async fn only_fields_that_are_set_are_sent() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };

    let bare = Announcement::new(instance("fields", "bare", 1)).health(Health::Unchecked);
    let bare = registry.register(bare).unwrap();
    bare.registered().await;
    let sent = proxy
        .requests()
        .into_iter()
        .find(is_register)
        .expect("it was sent");
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(keys(&sent), ["Address", "ID", "Name", "Port", "Weights"]);

    proxy.forget_requests();
    let full = instance("fields", "full", 2)
        .weight(7)
        .zone("z1")
        .tag("t")
        .meta("k", "v");
    let full = registry.register(with_ttl(full, SOON)).unwrap();
    full.registered().await;
    let sent = proxy
        .requests()
        .into_iter()
        .find(is_register)
        .expect("it was sent");
    assert_eq!(sent.param("replace-existing-checks"), Some("true"));
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    let all = [
        "Address", "Checks", "ID", "Meta", "Name", "Port", "Tags", "Weights",
    ];
    assert_eq!(keys(&sent), all);
    assert_eq!(sent["Meta"], json!({"k": "v", "zone": "z1"}));
    let check = &sent["Checks"][0];
    let all = [
        "CheckID",
        "DeregisterCriticalServiceAfter",
        "Name",
        "Status",
        "TTL",
    ];
    assert_eq!(keys(check), all);
    assert_eq!(
        check["CheckID"], "full:ttl",
        "the id of a check is always explicit"
    );
    let held = agent.get("/v1/agent/service/full").await.ok().json();
    assert_eq!(held["Weights"]["Passing"], 7);
    assert_eq!(
        (&held["Tags"], &held["Meta"]["k"]),
        (&json!(["t"]), &json!("v"))
    );
}

/// R3: what only the agent can judge comes back with its reason.
#[tokio::test]
async fn what_the_agent_refuses_is_told() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let refused = instance("refused", "refused-1", 1).meta("not a key!", "v");
    let mut registration = registry.register(refused).unwrap();
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    let RegistrationEvent::RegisterFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
    let text = error.to_chain();
    for part in ["consul http://", "refused", "400", "not a key!"] {
        assert!(text.contains(part), "{text:?} names {part:?}");
    }
    assert!(!registration.is_registered());
}

/// R4, R7, R19, B35.
#[tokio::test]
async fn what_nobody_could_call_is_refused_before_it_is_sent() {
    // Nothing is sent, so nothing need listen.
    let registry = registry("http://127.0.0.1:1");
    let good = || instance("web", "web-1", 80);
    let health = |health: Health| Announcement::new(good()).health(health);
    let http = |interval: Duration, timeout: Duration| Health::Http {
        target: "/health".into(),
        interval,
        timeout,
    };
    let cases = [
        (instance(" ", "web-1", 80).into(), "no name"),
        (instance("web", "", 80).into(), "no id"),
        (good().weight(0).into(), "from 1 to 65535"),
        (health(Health::Ttl(Duration::ZERO)), "TTL of 0ns"),
        (health(Health::http("health")), "\"health\""),
        (health(Health::http("httpd")), "\"httpd\""),
        (health(Health::http("/a\nb")), "control character"),
        (health(Health::http("http://")), "no host"),
        (health(Health::http("https:///health")), "no host"),
        (health(http(Duration::ZERO, SOON)), "interval 0ns"),
        (health(http(SOON, Duration::ZERO)), "timeout 0ns"),
    ];
    for (announcement, reason) in cases {
        let error = registry.register(announcement).expect_err(reason);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{reason}");
        let text = error.to_string();
        assert!(text.contains(reason), "{text:?} says {reason:?}");
        assert!(
            text.starts_with("consul http://127.0.0.1:1: service"),
            "{text:?}"
        );
    }
    // These are not even addresses.
    for address in [
        "web:0",
        "web:70000",
        "web:-1",
        "0.0.0.0:80",
        "[::]:80",
        "[::ffff:0.0.0.0]:80",
        "224.0.0.1:80",
        "0:80",
    ] {
        address
            .parse::<tower_roster::instance::Address>()
            .expect_err(address);
    }
}

/// R7, B32.
#[tokio::test]
async fn a_ttl_instance_passes_from_the_start() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let registration = registry
        .register(with_ttl(instance("fresh", "fresh-1", 1), SOON))
        .unwrap();
    let first = eventually(Duration::from_secs(1), "it is listed", || async {
        agent.health("fresh").await.pop()
    })
    .await;
    let checks = first["Checks"].as_array().expect("checks");
    assert!(
        checks.iter().all(|check| check["Status"] == "passing"),
        "{checks:?}"
    );
    drop(registration);
}

/// R8, B29.
#[tokio::test]
async fn beats_come_every_third_of_the_ttl_and_at_least_every_second() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let short = with_ttl(instance("beats", "short", 1), millis(1_200));
    let long = with_ttl(instance("beats", "long", 1), Duration::from_secs(600));
    let _both = (
        registry.register(short).unwrap(),
        registry.register(long).unwrap(),
    );
    for (id, interval) in [("short", 400), ("long", 1_000)] {
        let beats = || {
            let mut beats = proxy.requests();
            beats.retain(|head| head.path() == format!("{PASS}{id}%3Attl"));
            beats
        };
        eventually(SOON, "five beats", || async { beats().len() >= 5 }).await;
        let beats = beats();
        // The first follows the registration; the mean of the others bears no single delay.
        let mean = (beats[4].at - beats[1].at) / 3;
        let bounds = millis(interval * 8 / 10)..millis(interval * 2);
        assert!(bounds.contains(&mean), "{id}: a beat every {mean:?}");
    }
    assert_eq!(proxy.count(is_register), 2, "beats suffice");
}

/// R9: an agent writes only updates of a check to its disk.
#[tokio::test]
async fn a_beaten_check_passes_after_a_restart_of_the_agent() {
    need_consul!();
    let mut agent = Agent::server().await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let ttl = Duration::from_secs(120);
    let registration = registry
        .register(with_ttl(instance("kept", "kept-1", 1), ttl))
        .unwrap();
    registration.registered().await;
    eventually(Duration::from_secs(1), "a beat at once", || async {
        proxy.count(is_beat) > 0
    })
    .await;
    passes(&agent, "kept", "kept-1").await;
    // From here on neither beats nor registrations help.
    proxy.set(Mode::Refuse).await;
    agent.kill9();
    agent.restart().await;
    let passing = vec![("kept-1:ttl".to_owned(), "passing".to_owned())];
    assert_eq!(checks_of(&agent, "kept-1").await, passing);
    assert_eq!(agent.passing("kept").await, ["kept-1"]);
}

/// R10.
#[tokio::test]
async fn beats_write_nothing_to_the_catalog() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let registration = registry
        .register(with_ttl(instance("quiet", "quiet-1", 1), millis(300)))
        .unwrap();
    registration.registered().await;
    passes(&agent, "quiet", "quiet-1").await;
    eventually(SOON, "the first beats", || async {
        proxy.count(is_beat) >= 2
    })
    .await;
    let index = agent.index("quiet").await;
    eventually(SOON, "more beats", || async { proxy.count(is_beat) >= 12 }).await;
    assert_eq!(agent.index("quiet").await, index, "beats change nothing");
}

/// R11, B26, B27.
#[tokio::test]
async fn a_lost_check_is_registered_again_whatever_the_version_says() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let mut registration = registry
        .register(with_ttl(instance("lost", "lost-1", 1), millis(900)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    let answers = [
        (
            404,
            r#"Unknown check ID "lost-1:ttl". Ensure that the check ID is passed"#,
        ),
        (500, r#"CheckID "lost-1:ttl" does not have associated TTL"#),
        (500, r#"Unknown check "lost-1:ttl""#),
        (404, ""),
    ];
    for (status, body) in answers {
        proxy.forget_requests();
        proxy.add(Rule::path(PASS).once().respond(reply(status, body)));
        event(&mut registration, |e| {
            matches!(e, RegistrationEvent::Reregistered)
        })
        .await;
        assert_eq!(
            proxy.count(is_register),
            1,
            "{status} {body}: registered once"
        );
        eventually(SOON, "a beat follows at once", || async {
            proxy.requests().last().is_some_and(is_beat)
        })
        .await;
    }
    // And what this agent says itself.
    agent.deregister_service("lost-1").await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    passes(&agent, "lost", "lost-1").await;
}

/// R11: the agent's text names the id, however long that is.
#[tokio::test]
async fn a_lost_check_with_a_long_id_is_registered_again() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let id = "long-".repeat(100);
    let mut registration = registry
        .register(with_ttl(instance("long-id", &id, 1), millis(600)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    agent.deregister_service(&id).await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    passes(&agent, "long-id", &id).await;
}

/// R11: an agent that says each time that it lost the check is not asked in a loop.
#[tokio::test]
async fn a_check_that_is_lost_each_time_makes_no_hot_loop() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    proxy.add(Rule::path(PASS).respond(reply(404, "Unknown check ID")));
    let registry = registry(&proxy.url());
    let registration = registry
        .register(with_ttl(instance("loop", "loop-1", 1), SOON))
        .unwrap();
    registration.registered().await;
    lasts(millis(1_500)).await;
    let requests = proxy.requests().len();
    assert!(requests <= 40, "{requests} requests in 1.5 s");
}

/// R11: repeating a registration is harmless.
#[tokio::test]
async fn repeating_a_registration_changes_nothing() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let backend = Backend::start("repeated").await;
    let registry = registry(&proxy.url());
    let ttl = with_ttl(instance("repeated", "by-ttl", 1), Duration::from_secs(60));
    let http = Announcement::new(instance("repeated", "by-http", backend.port()));
    let http = http.health(Health::Http {
        target: "/health".into(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    });
    let kept = (
        registry.register(ttl).unwrap(),
        registry.register(http).unwrap(),
    );
    kept.0.registered().await;
    kept.1.registered().await;
    passes(&agent, "repeated", "by-ttl").await;
    passes(&agent, "repeated", "by-http").await;
    let index = agent.index("repeated").await;
    for sent in proxy.requests().iter().filter(|head| is_register(head)) {
        for _ in 0..3 {
            let again = http1::send(
                agent.http_addr(),
                "PUT",
                &sent.target,
                &[],
                &sent.body,
                SOON,
            );
            again.await.unwrap().ok();
            let passing = agent.passing("repeated").await;
            assert_eq!(passing, ["by-http", "by-ttl"], "the status is kept");
            assert_eq!(
                agent.index("repeated").await,
                index,
                "and nothing is written"
            );
        }
    }
}

/// R12.
#[tokio::test]
async fn a_loss_is_noticed_without_a_heartbeat_too() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let backend = Backend::start("unbeaten").await;
    let unchecked = Announcement::new(instance("unbeaten", "unchecked", 1));
    let tcp = Announcement::new(instance("unbeaten", "by-tcp", backend.port()));
    // Consul has other requests at `/v1/agent/service/register` and below `…/deregister/`.
    let reserved = [
        "register",
        "deregister/x",
        "maintenance/x",
        "deregister",
        "a/",
    ];
    let reserved = reserved.map(|id| Announcement::new(instance("unbeaten", id, 1)));
    for announcement in [
        unchecked.health(Health::Unchecked),
        tcp.health(Health::tcp()),
    ]
    .into_iter()
    .chain(reserved.map(|one| one.health(Health::Unchecked)))
    {
        let id = announcement.instance().id().to_owned();
        let mut registration = registry.register(announcement).unwrap();
        event(&mut registration, |e| {
            matches!(e, RegistrationEvent::Registered)
        })
        .await;
        agent.deregister_service(&id).await;
        event(&mut registration, |e| {
            matches!(e, RegistrationEvent::Reregistered)
        })
        .await;
        registration.deregister().await.unwrap();
        let services = agent.get("/v1/agent/services").await.ok().json();
        assert!(services.get(&id).is_none(), "{id} is gone");
    }
}

/// R13, B28.
#[tokio::test]
async fn an_agent_that_comes_later_gets_the_registration() {
    need_consul!();
    let mut agent = Agent::dev().await;
    agent.kill9();
    let registry = registry(&agent.url());
    let mut registration = registry
        .register(with_ttl(instance("early", "early-1", 1), SOON))
        .unwrap();
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    let RegistrationEvent::RegisterFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    lasts(Duration::from_secs(2)).await;
    assert!(!registration.is_registered());
    agent.restart().await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    passes(&agent, "early", "early-1").await;
}

/// R15, B26: heartbeats are answered with an error, and the registration follows.
#[tokio::test]
async fn an_agent_that_lost_its_data_gets_the_registration_back() {
    need_consul!();
    let mut agent = Agent::server().await;
    let registry = registry(&agent.url());
    let mut registration = registry
        .register(with_ttl(instance("wiped", "wiped-1", 1), SOON))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    agent.restart_wiped().await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    passes(&agent, "wiped", "wiped-1").await;
}

/// R14: no check of an earlier kind stays behind, neither in the list nor as a timer.
#[tokio::test]
async fn an_update_replaces_weight_tags_and_check() {
    need_consul!();
    let agent = Agent::shared().await;
    let backend = Backend::start("updated").await;
    let registry = registry(&agent.url());
    let base = || instance("updated", "updated-1", backend.port());
    let mut registration = registry.register(with_ttl(base(), millis(2_000))).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    passes(&agent, "updated", "updated-1").await;

    let heavier = base().weight(9).tag("new").meta("k", "v");
    registration
        .update(with_ttl(heavier, millis(2_000)))
        .await
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Updated)
    })
    .await;
    assert_eq!(registration.instance().weight.get(), 9);
    let entry = eventually(SOON, "the update is visible", || async {
        let entry = agent.health("updated").await.pop()?;
        (entry["Service"]["Weights"]["Passing"] == 9).then_some(entry)
    })
    .await;
    assert_eq!(entry["Service"]["Tags"], json!(["new"]));
    assert_eq!(
        agent.passing("updated").await,
        ["updated-1"],
        "an update is no outage"
    );

    let http = Health::Http {
        target: "/health".into(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    };
    let checked = |health: &Health| Announcement::new(base()).health(health.clone());
    registration.update(checked(&http)).await.unwrap();
    eventually(SOON, "the agent asks the instance", || async {
        backend.probes() > 0
    })
    .await;
    passes(&agent, "updated", "updated-1").await;
    assert_eq!(checks_of(&agent, "updated-1").await.len(), 1, "one check");
    throughout(millis(3_000), "the TTL of before runs no more", || async {
        agent.passing("updated").await == ["updated-1"]
    })
    .await;

    registration
        .update(with_ttl(base(), millis(2_000)))
        .await
        .unwrap();
    passes(&agent, "updated", "updated-1").await;
    let probes = backend.probes();
    throughout(millis(3_000), "beats keep it passing", || async {
        agent.passing("updated").await == ["updated-1"]
    })
    .await;
    assert!(backend.probes() <= probes + 1, "the agent no longer asks");
    assert_eq!(checks_of(&agent, "updated-1").await.len(), 1);

    registration
        .update(checked(&Health::Unchecked))
        .await
        .unwrap();
    assert_eq!(checks_of(&agent, "updated-1").await, []);
    throughout(millis(1_500), "without a check it passes", || async {
        agent.passing("updated").await == ["updated-1"]
    })
    .await;

    let error = registration
        .update(instance("updated", "other", 1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "an id cannot change");
    registration.deregister().await.unwrap();
}

/// R14: an update that the agent refuses must not cost the registration that stands.
#[tokio::test]
async fn a_refused_update_leaves_what_stood() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let good = || with_ttl(instance("steady", "steady-1", 1), millis(600));
    let mut registration = registry.register(good()).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    passes(&agent, "steady", "steady-1").await;
    let bad = instance("steady", "steady-1", 2).meta("not a key!", "v");
    let error = registration.update(bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(registration.is_registered(), "what stood stands");
    assert_eq!(registration.instance().address.port(), 1);
    throughout(millis(1_500), "its beats go on", || async {
        agent.passing("steady").await == ["steady-1"]
    })
    .await;
    registration.update(good()).await.unwrap();
}

/// R5: a process that took over an id gets it back when its predecessor leaves late.
#[tokio::test]
async fn the_same_id_is_one_instance_and_outlives_its_predecessor() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let me = |port| with_ttl(instance("heir", "heir-1", port), millis(900));
    let old = registry.register(me(1)).unwrap();
    old.registered().await;
    let mut new = registry.register(me(2)).unwrap();
    event(&mut new, |e| matches!(e, RegistrationEvent::Registered)).await;
    let listed = eventually(SOON, "the new port is listed", || async {
        let listed = agent.health("heir").await;
        (listed.first()?["Service"]["Port"] == 2).then_some(listed)
    })
    .await;
    assert_eq!(listed.len(), 1, "one instance");
    old.deregister().await.unwrap();
    event(&mut new, |e| matches!(e, RegistrationEvent::Reregistered)).await;
    passes(&agent, "heir", "heir-1").await;
}

/// R6: ids are escaped wherever they stand in a path.
#[tokio::test]
async fn any_id_can_be_registered_renewed_and_removed() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
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
        "a\"b",
        "a:b",
        "a+b",
    ] {
        proxy.forget_requests();
        let service = format!("odd {name}");
        let mut registration = registry
            .register(with_ttl(instance(&service, name, 1), millis(300)))
            .unwrap();
        event(&mut registration, |e| {
            matches!(e, RegistrationEvent::Registered)
        })
        .await;
        passes(&agent, &service, name).await;
        eventually(SOON, "three beats", || async { proxy.count(is_beat) >= 3 }).await;
        assert_eq!(
            proxy.count(is_register),
            1,
            "{name}: its beats find its check"
        );
        registration.deregister().await.unwrap();
        let services = agent.get("/v1/agent/services").await.ok().json();
        assert!(services.get(name).is_none(), "{name} is gone");
        eventually(SOON, "it is gone from the catalog", || async {
            agent.health(&encoded(&service)).await.is_empty()
        })
        .await;
    }
}

/// R1, B36: an instance registered on two agents would stand twice, and flap.
#[tokio::test]
async fn registrations_stay_on_the_first_agent() {
    need_consul!();
    let (one, two) = tokio::join!(Agent::dev(), Agent::shared());
    let mut first = FaultProxy::http(one.http_addr()).await;
    let second = FaultProxy::http(two.http_addr()).await;
    let both = config(&first.url()).fallback(second.url());
    let registry = of(both);
    let observed = Observed::new(&registry, "at-home");
    let mut registration = registry
        .register(with_ttl(instance("at-home", "home-1", 1), millis(600)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    observed.settles(&["home-1"]).await;
    first.set(Mode::Refuse).await;
    eventually(SOON, "the watch turned to the second", || async {
        second.count(|head| head.method == "GET") > 0
    })
    .await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::HeartbeatFailed { .. })
    })
    .await;
    lasts(Duration::from_secs(1)).await;
    first.set(Mode::Pass).await;
    event(&mut registration, |e| {
        matches!(
            e,
            RegistrationEvent::Recovered | RegistrationEvent::Reregistered
        )
    })
    .await;
    registration.deregister().await.unwrap();
    assert_eq!(
        second.count(|head| head.method == "PUT"),
        0,
        "the second heard nothing of it"
    );
}

/// R2: 200 means that the agent took it, and it becomes visible when there is a leader again.
#[tokio::test]
async fn without_a_leader_a_registration_is_accepted_and_comes_true_later() {
    need_consul!();
    let mut server = Agent::server().await;
    let client = Agent::client_of(&server).await;
    let registry = registry(&client.url());
    let gone = registry
        .register(with_ttl(instance("leaderless", "gone", 1), SOON))
        .unwrap();
    gone.registered().await;
    passes(&client, "leaderless", "gone").await;
    server.kill9();
    let came = registry
        .register(with_ttl(instance("leaderless", "came", 1), SOON))
        .unwrap();
    tokio::time::timeout(SOON, came.registered())
        .await
        .expect("the agent takes it");
    gone.deregister().await.expect("the agent takes that too");
    server.restart().await;
    eventually(3 * SOON, "both come true", || async {
        let reply = client.get("/v1/health/service/leaderless?passing").await;
        let list = reply.json();
        let ids: Vec<_> = list
            .as_array()
            .into_iter()
            .flatten()
            .map(|e| &e["Service"]["ID"])
            .collect();
        if reply.status == 200 && ids == ["came"] {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
}

/// R16, B31: the beats end first, then the instance is taken out, and nothing follows.
#[tokio::test]
async fn leaving_awaits_the_beat_and_nothing_follows() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let mut registration = registry
        .register(with_ttl(instance("leaves", "leaves-1", 1), millis(2_400)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    eventually(SOON, "the first beats", || async {
        proxy.count(is_beat) >= 2
    })
    .await;
    // The second may still be under way: only one that comes from now on is delayed.
    let from = Instant::now();
    let next = move |head: &RequestHead| is_beat(head) && head.at >= from;
    proxy.add(Rule::when(next).once().after(millis(500)).pass());
    eventually(SOON, "a beat is under way", || async {
        proxy.count(next) > 0
    })
    .await;
    registration.deregister().await.unwrap();
    let requests = proxy.requests();
    let [beat, end] = &requests[requests.len() - 2..] else {
        panic!("two requests")
    };
    assert!(is_beat(beat) && end.path().starts_with(DEREGISTER));
    assert!(end.at - beat.at >= millis(450), "the beat was awaited");
    throughout(Duration::from_secs(2), "nothing follows", || async {
        proxy.requests().len() == requests.len() && agent.health("leaves").await.is_empty()
    })
    .await;
}

/// R16, B31: a registration that hangs in a paused agent is carried out when the agent goes on.
#[tokio::test]
async fn a_late_registration_cannot_undo_the_end() {
    need_consul!();
    let mut agent = Agent::dev().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let pid = Pid::from_raw(agent.pid().cast_signed());
    let registry = registry(&proxy.url());
    for round in 0..3 {
        proxy.forget_requests();
        // The last answer before the registration stops the agent.
        let before = Rule::path("/v1/agent/health/service/id/").once();
        proxy.add(before.rewrite(move |_, _| kill(pid, Signal::SIGSTOP).expect("it runs")));
        let id = format!("late-{round}");
        let registration = registry
            .register(with_ttl(instance("late", &id, 1), Duration::from_secs(60)))
            .unwrap();
        eventually(SOON, "the registration is under way", || async {
            proxy.count(is_register) == 1
        })
        .await;
        agent.pause();
        let leave = tokio::spawn(registration.deregister());
        lasts(millis(2_500)).await;
        agent.resume();
        leave.await.unwrap().expect("the agent is back in time");
        assert!(proxy.count(|head| head.path().starts_with(DEREGISTER)) > 0);
        throughout(millis(700), "it stays away", || async {
            let path = format!("/v1/agent/service/{id}");
            agent.get(&path).await.status == 404
        })
        .await;
    }
}

/// R16: one deadline over all, and an error that says what is wrong.
#[tokio::test]
async fn leaving_a_registry_that_is_away_fails_in_five_seconds() {
    need_consul!();
    let mut agent = Agent::dev().await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let ttl = Duration::from_secs(60);
    let [refused, hung] = [&proxy.url(), &agent.url()].map(|url| {
        let registry = registry(url);
        registry
            .register(with_ttl(instance("away", "away-1", 1), ttl))
            .unwrap()
    });
    refused.registered().await;
    hung.registered().await;
    proxy.set(Mode::Refuse).await;
    agent.pause();
    // A beat hangs in the paused agent before the end begins.
    lasts(millis(1_200)).await;
    let began = Instant::now();
    let leave = |registration: tower_roster::registry::Registration| async move {
        (
            registration.deregister().await.expect_err("nobody answers"),
            began.elapsed(),
        )
    };
    let ends = tokio::join!(leave(refused), leave(hung));
    for ((error, took), kind) in [
        (ends.0, ErrorKind::Unreachable),
        (ends.1, ErrorKind::Timeout),
    ] {
        assert!(took < millis(5_500), "{error}: took {took:?}");
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_chain();
        assert!(
            text.contains("consul http://") && text.contains("\"away\""),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_drop_deregisters() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let registration = registry
        .register(instance("dropped", "dropped-1", 1))
        .unwrap();
    registration.registered().await;
    passes(&agent, "dropped", "dropped-1").await;
    drop((registration, registry));
    eventually(SOON, "it is gone", || async {
        agent.health("dropped").await.is_empty()
    })
    .await;
}

/// R17, B33, T34: an agent reaps after a minute at least; here the test does it instead.
#[tokio::test]
async fn a_reaped_instance_comes_back() {
    need_consul!();
    let agent = Agent::shared().await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let announcement = with_ttl(instance("reaped", "reaped-1", 1), millis(600));
    let announcement = announcement.reap_after(Some(Duration::from_secs(60)));
    let mut registration = registry.register(announcement).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    let sent = proxy
        .requests()
        .into_iter()
        .find(is_register)
        .expect("it was sent");
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(
        sent["Checks"][0]["DeregisterCriticalServiceAfter"],
        "60000ms"
    );
    proxy.set(Mode::Refuse).await;
    eventually(SOON, "it goes critical", || async {
        checks_of(&agent, "reaped-1")
            .await
            .iter()
            .any(|(_, status)| status == "critical")
    })
    .await;
    agent.deregister_service("reaped-1").await;
    proxy.set(Mode::Pass).await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    passes(&agent, "reaped", "reaped-1").await;
}

/// B30; a failure that passes does not bring a registration either.
#[tokio::test]
async fn one_failed_beat_does_not_stop_the_beats() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let mut registration = registry
        .register(with_ttl(instance("bumpy", "bumpy-1", 1), millis(900)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    for (status, body, kind) in [
        (500, "rpc error making call: EOF", ErrorKind::Unavailable),
        (503, "<html>", ErrorKind::Unavailable),
        (429, "slow down", ErrorKind::Limited),
        (400, "what?", ErrorKind::Refused),
        (302, "elsewhere", ErrorKind::Refused),
    ] {
        proxy.add(Rule::path(PASS).once().respond(reply(status, body)));
        let told = event(&mut registration, |e| {
            matches!(e, RegistrationEvent::HeartbeatFailed { .. })
        })
        .await;
        let RegistrationEvent::HeartbeatFailed { error, .. } = told else {
            unreachable!()
        };
        assert_eq!(error.kind(), kind, "{error}");
        event(&mut registration, |e| {
            matches!(e, RegistrationEvent::Recovered)
        })
        .await;
    }
    assert_eq!(proxy.count(is_register), 1);
    assert_eq!(agent.passing("bumpy").await, ["bumpy-1"]);
}

/// The order of a whole life.
#[tokio::test]
async fn events_come_in_order() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    proxy.respond_once(REGISTER, reply(500, "not yet"));
    let registry = registry(&proxy.url());
    let me = || with_ttl(instance("life", "life-1", 1), millis(300));
    let mut registration = registry.register(me()).unwrap();
    let expect = async |registration: &mut _, wanted: &str| {
        let event = event(registration, |_| true).await;
        assert!(
            format!("{event:?}").starts_with(wanted),
            "{wanted}, not {event:?}"
        );
    };
    expect(&mut registration, "RegisterFailed").await;
    expect(&mut registration, "Registered").await;
    proxy.respond_once(PASS, reply(500, "no"));
    expect(&mut registration, "HeartbeatFailed").await;
    expect(&mut registration, "Recovered").await;
    proxy.respond_once(PASS, reply(404, "Unknown check ID"));
    expect(&mut registration, "Reregistered").await;
    registration.update(me()).await.unwrap();
    expect(&mut registration, "Updated").await;
    // The last event outlives the handle's commands, not the handle: listen through the agent.
    registration.deregister().await.unwrap();
    assert_eq!(agent.get("/v1/agent/service/life-1").await.status, 404);
}

/// R18: the right to write is enough; its loss is told, and its return heals.
#[tokio::test]
async fn a_denied_token_is_told_and_heals() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let write = r#"service "guarded" { policy = "write" }"#;
    let (accessor, secret) = agent.acl_token("writer", write).await;
    agent.acl_set_policies(&accessor, &[]).await;
    let registry = of(config(&agent.url()).token(secret.as_str()));
    let mut registration = registry
        .register(with_ttl(
            instance("guarded", "guarded-1", 1),
            Duration::from_secs(30),
        ))
        .unwrap();
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    let RegistrationEvent::RegisterFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        !error.to_chain().contains(&secret),
        "no error shows a token"
    );
    // Long enough for the delay between attempts to have grown to its cap.
    lasts(Duration::from_secs(4)).await;
    agent.acl_set_policies(&accessor, &["writer"]).await;
    let began = Instant::now();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    println!(
        "heal: token allowed to register: after {} ms",
        began.elapsed().as_millis()
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "took {:?}",
        began.elapsed()
    );
    passes(&agent, "guarded", "guarded-1").await;

    agent.acl_revoke(&accessor).await;
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::HeartbeatFailed { .. })
    })
    .await;
    let RegistrationEvent::HeartbeatFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Denied);
    lasts(Duration::from_secs(4)).await;
    agent.acl_restore(&accessor, &secret, "writer").await;
    let began = Instant::now();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Recovered)
    })
    .await;
    println!(
        "heal: token restored for beats: after {} ms",
        began.elapsed().as_millis()
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "took {:?}",
        began.elapsed()
    );
    registration.deregister().await.unwrap();
}

/// R18: a token that was replaced in its file is found without a restart.
#[tokio::test]
async fn a_token_file_is_read_again() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let write = r#"service "filed" { policy = "write" }"#;
    let (accessor, secret) = agent.acl_token("writer", write).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let registry = of(config(&agent.url()).token_file(&file));
    let mut registration = registry
        .register(with_ttl(instance("filed", "filed-1", 1), millis(3_000)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;

    let (_, next) = agent.acl_token("next", write).await;
    agent.acl_revoke(&accessor).await;
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::HeartbeatFailed { .. })
    })
    .await;
    std::fs::write(&file, &next).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Recovered)
    })
    .await;
    passes(&agent, "filed", "filed-1").await;
    registration.deregister().await.unwrap();
}

/// R19: what an operator took out of service stays out.
#[tokio::test]
async fn maintenance_survives_beats_and_repetitions() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let me = |weight| {
        with_ttl(
            instance("repaired", "repaired-1", 1).weight(weight),
            millis(300),
        )
    };
    let mut registration = registry.register(me(1)).unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    let observed = Observed::new(&registry, "repaired");
    observed.settles(&["repaired-1"]).await;
    agent.service_maintenance("repaired-1", true).await;
    observed.settles(&[]).await;
    assert_eq!(observed.view().withheld.len(), 1);
    let beats = proxy.count(is_beat);
    eventually(SOON, "more beats", || async {
        proxy.count(is_beat) > beats + 5
    })
    .await;
    proxy.respond_once(PASS, reply(404, "Unknown check ID"));
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Reregistered)
    })
    .await;
    registration.update(me(5)).await.unwrap();
    throughout(millis(500), "it stays out of service", || async {
        checks_of(&agent, "repaired-1").await.len() == 2
    })
    .await;
    agent.service_maintenance("repaired-1", false).await;
    observed.settles(&["repaired-1"]).await;
}

/// R7: the agent asks over HTTP.
#[tokio::test]
async fn an_http_check_follows_the_instance() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let backend = Backend::start_v6("http-checked").await;
    let me = tower_roster::Instance::new(
        "http-checked",
        "six",
        backend.addr().to_string().parse().unwrap(),
    );
    let check = Health::Http {
        target: "/health".into(),
        interval: Duration::from_secs(1),
        timeout: millis(500),
    };
    let _kept = registry
        .register(Announcement::new(me).health(check))
        .unwrap();
    let observed = Observed::new(&registry, "http-checked");
    observed.settles(&["six"]).await;
    backend.set_healthy(false);
    observed.settles(&[]).await;
    backend.set_healthy(true);
    observed.settles(&["six"]).await;
}

/// R7: the agent connects.
#[tokio::test]
async fn a_tcp_check_follows_the_instance() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let mut backend = Backend::start("tcp-checked").await;
    let check = Health::Tcp {
        interval: Duration::from_secs(1),
        timeout: millis(500),
    };
    let me = instance("tcp-checked", "tcp", backend.port());
    let _kept = registry
        .register(Announcement::new(me).health(check))
        .unwrap();
    let observed = Observed::new(&registry, "tcp-checked");
    observed.settles(&["tcp"]).await;
    backend.stop().await;
    observed.settles(&[]).await;
    backend.restart().await;
    observed.settles(&["tcp"]).await;
}

/// R7: the agent calls the gRPC health service.
#[tokio::test]
async fn a_grpc_check_follows_the_instance() {
    need_consul!();
    let agent = Agent::shared().await;
    let registry = registry(&agent.url());
    let server = GrpcHealth::start().await;
    let check = Health::Grpc {
        service: "shop.Cart".into(),
        interval: Duration::from_secs(1),
        timeout: millis(500),
    };
    let me = instance("grpc-checked", "grpc", server.port());
    let _kept = registry
        .register(Announcement::new(me).health(check))
        .unwrap();
    let observed = Observed::new(&registry, "grpc-checked");
    observed.settles(&["grpc"]).await;
    assert_eq!(server.asked_for(), ["shop.Cart"]);
    server.set_serving(false);
    observed.settles(&[]).await;
    server.set_serving(true);
    observed.settles(&["grpc"]).await;
}

/// R8, T18: neither a busy application nor a slow agent makes a beat late enough to matter.
#[tokio::test]
async fn stalls_and_slow_answers_never_make_it_critical() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let registry = registry(&proxy.url());
    let ttl = Duration::from_secs(3);
    let registration = registry
        .register(with_ttl(instance("stalled", "stalled-1", 1), ttl))
        .unwrap();
    registration.registered().await;
    passes(&agent, "stalled", "stalled-1").await;

    // Looks on from a runtime that is not stalled.
    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    let addr = agent.http_addr();
    let looks = crate::support::rt().spawn(async move {
        let mut critical = Vec::new();
        while ended.try_recv().is_err() {
            let path = "/v1/health/service/stalled";
            let seen = http1::send(addr, "GET", path, &[], b"", SOON)
                .await
                .unwrap()
                .text();
            if seen.contains("critical") || !seen.contains("stalled-1") {
                critical.push(seen);
            }
            tokio::time::sleep(millis(20)).await;
        }
        critical
    });
    for round in 0..4 {
        if round == 2 {
            proxy.add(
                Rule::path(PASS)
                    .times(2)
                    .after(Duration::from_secs(2))
                    .pass(),
            );
        }
        // This thread is all that the runtime of the test has.
        std::thread::sleep(Duration::from_secs(1));
        lasts(millis(700)).await;
    }
    lasts(Duration::from_secs(3)).await;
    end.send(()).unwrap();
    assert_eq!(
        looks.await.unwrap(),
        Vec::<String>::new(),
        "critical at no look"
    );
}
