//! The same program on `memory:` and on `rest://`.

use tower_roster::{
    error::ErrorKind,
    registry::{
        Announcement, Health, Query, RegistrationEvent, ViewState, connect, rest::RestSettings,
    },
};

use super::*;

/// What a program does, whatever its registry is.
async fn program(url: &str) {
    let registry = connect(url).unwrap();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;

    let mut tagged = registry.watch(Query::new("web").tag("v2")).unwrap();
    let rich = instance("a")
        .weight(3)
        .zone("eu-1a")
        .tag("v2")
        .meta("k", "v");
    let mut first = registry.register(rich.clone()).unwrap();
    assert!(matches!(
        first.event().await,
        Some(RegistrationEvent::Registered)
    ));
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let mut seen = (**view.instances.iter().next().unwrap()).clone();
    assert_eq!(seen.generation, 1);
    seen.generation = 0;
    assert_eq!(seen, rich, "it arrives as it was announced");

    for (id, health) in [
        ("b", Health::Unchecked),
        ("c", Health::Ttl(SECOND * 3)),
        ("d", Health::tcp()),
        ("e", Health::http("/health")),
    ] {
        let announcement = Announcement::new(instance(id)).health(health);
        let registration = registry.register(announcement).unwrap();
        until(&mut watch, "another", |v| ids(v) == ["a", id]).await;
        registration.deregister().await.unwrap();
        until(&mut watch, "its end", |v| ids(v) == ["a"]).await;
    }

    first.update(rich.weight(0)).await.unwrap();
    until(&mut tagged, "the update", |v| {
        v.instances
            .iter()
            .any(|i| i.weight.get() == 0 && i.generation == 1)
    })
    .await;
    first.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.state == ViewState::Empty).await;
    until(&mut tagged, "the end", |v| v.state == ViewState::Empty).await;
}

#[tokio::test]
async fn the_url_alone_chooses_the_registry() {
    program("memory:the-url-alone").await;
    let front = Front::start().await;
    program(&front.url()).await;
    // By name, and as a service that nobody has known.
    front.memory.wipe();
    program(&format!("rest://localhost:{}/", front.addr.port())).await;
}

#[tokio::test]
async fn an_idle_watch_is_confirmed_again_and_again() {
    let front = Front::start().await;
    front.memory.register(instance("a")).unwrap();
    let settings = RestSettings::from_url(&front.url()).unwrap();
    let client = settings.wait(SECOND / 50).build().unwrap();
    let mut watch = Registry::new(client).watch("web").unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let first = view.confirmed.unwrap();
    support::eventually(LONG, "a later confirmation", || {
        let confirmed = watch.view().confirmed;
        async move { confirmed > Some(first) }
    })
    .await;
    let news = tokio::time::timeout(SECOND / 5, watch.changed()).await;
    assert!(news.is_err(), "a mere confirmation is no news");
}

#[tokio::test]
async fn watches_and_registrations_end_with_their_handles() {
    let front = Front::start().await;
    let registry = front.registry();
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let open = || async { front.memory.watchers("web") };
    support::eventually(LONG, "one request waits", || async { open().await == 1 }).await;
    drop(watch);
    support::eventually(LONG, "the request ends", || async { open().await == 0 }).await;
    drop(registration);
    support::eventually(LONG, "the instance leaves", || async {
        front.memory.instances("web").is_empty()
    })
    .await;
}

#[tokio::test]
async fn faults_of_the_registry_do_not_disturb_a_program_for_long() {
    let front = Front::start().await;
    let registry = front.registry();
    let mut watch = registry.watch("web").unwrap();
    let mut registration = registry.register(instance("a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.registered().await;
    front.memory.fail_next(4);
    front.memory.drop_watchers();
    let view = until(&mut watch, "the failure", |v| v.state == ViewState::Stale).await;
    let error = view.error.unwrap();
    assert_eq!(
        (error.kind(), error.service()),
        (ErrorKind::Unavailable, "web")
    );
    assert!(error.backend().starts_with("rest http://127.0.0.1:"));
    until(&mut watch, "the recovery", |v| v.state == ViewState::Live).await;
    front.memory.deregister("a");
    loop {
        if let Some(RegistrationEvent::Reregistered) = registration.event().await {
            break;
        }
    }
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
}

#[tokio::test]
async fn the_next_address_is_asked_when_one_fails() {
    let front = Front::start().await;
    let dead = support::ports::Port::lease();
    let url = format!("rest://{},{}", dead.addr(), front.addr);
    let registry = connect(&url).unwrap();
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.deregister().await.unwrap();
}

#[test]
fn urls_that_cannot_be_used_say_which_part() {
    for (url, cause) in [
        ("rest:", "rest://host:port"),
        ("rest://", "no port"),
        ("rest://host", "no port"),
        ("rest://host:0", "port 0"),
        ("rest://host:70000", "port 70000"),
        ("rest://a:1,", "no port"),
        ("rest://a:1?wait=5s", "\"wait\""),
        ("rest://a:1/path", "\"path\""),
        ("rest://user:pw@a:1", "user or password"),
        ("rest://a b:1", "host name"),
    ] {
        let error = connect(url).expect_err(url).to_string();
        assert!(error.contains(cause), "{url}: {error:?} without {cause:?}");
    }
    assert!(connect("rest://a:1,[::1]:2/").is_ok());
}

#[tokio::test]
async fn what_the_registry_cannot_check_is_refused_before_it_is_asked() {
    let registry = connect("rest://127.0.0.1:1").unwrap();
    let forged = instance("a\nERROR b");
    let error = registry.register(forged).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for health in [Health::grpc(""), Health::http("http://10.0.0.1/")] {
        let announcement = Announcement::new(instance("a")).health(health);
        let error = registry.register(announcement).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

/// Whatever a name means in a path, or in the paths of this registry.
#[tokio::test]
async fn any_id_and_name_can_be_registered_watched_and_removed() {
    let front = Front::start().await;
    let registry = front.registry();
    for name in [
        "/a",
        "a//b",
        "a/",
        ".",
        "..",
        "a/../b",
        "%2F",
        "a%2Fb",
        "a?b#c",
        "a b",
        "ä",
        "services",
        "services/a",
        "register",
        "heartbeat",
        "health",
        "a;b",
        "a&b=c",
        "a\u{a0}",
    ] {
        let mut watch = registry.watch(name).unwrap();
        let address = "127.0.0.1:80".parse().unwrap();
        let me = Instance::new(name, name, address);
        let registration = registry.register(me).unwrap();
        until(&mut watch, "the instance", |v| ids(v) == [name]).await;
        registration.deregister().await.unwrap();
        until(&mut watch, "its end", |v| v.instances.is_empty()).await;
    }
}

#[tokio::test]
async fn what_no_request_can_carry_is_refused_at_once() {
    let registry = connect("rest://127.0.0.1:1").unwrap();
    let long = "ä".repeat(30_000);
    let tagged = Query::new("web").tag(long.as_str());
    let nameless = Query::new(" ");
    for query in [Query::new(long.as_str()), tagged, nameless] {
        let error = registry.watch(query).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    let error = registry.register(instance(&long)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
