//! A registry that stops and comes back, with its state and without.

use tower_roster::registry::{Announcement, Health, RegistrationEvent, ViewState};

use super::*;

fn lasting(id: &str) -> Announcement {
    Announcement::new(instance(id)).health(Health::Ttl(SECOND * 60))
}

#[tokio::test]
async fn a_restart_with_its_state_disturbs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let build = || Memory::builder().persist(&path).build().unwrap();
    let front = Front::over(build(), "127.0.0.1:0".parse().unwrap()).await;
    let registry = front.registry();
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(lasting("a")).unwrap();
    let view = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.registered().await;
    let epoch = front.memory.epoch();

    let addr = front.stop().await;
    let stale = until(&mut watch, "the stop", |v| v.state == ViewState::Stale).await;
    assert!(stale.instances.is_same(&view.instances), "the set is kept");
    let front = Front::over(build(), addr).await;
    assert_ne!(front.memory.epoch(), epoch);
    let back = until(&mut watch, "the return", |v| v.state == ViewState::Live).await;
    assert!(back.instances.is_same(&view.instances), "and is the same");
    registration.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
    assert!(front.memory.instances("web").is_empty());
}

#[tokio::test]
async fn a_restart_without_its_state_is_healed_by_the_registrations() {
    let front = Front::start().await;
    let registry = front.registry();
    let mut watch = registry.watch("web").unwrap();
    let mut registration = registry.register(lasting("a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.registered().await;

    let addr = front.stop().await;
    until(&mut watch, "the stop", |v| v.state == ViewState::Stale).await;
    let front = Front::over(Memory::new(), addr).await;
    loop {
        let view = watch.view();
        assert_eq!(ids(&view), ["a"], "the set is never emptied");
        if view.state == ViewState::Live {
            break;
        }
        let _ = tokio::time::timeout(LONG, watch.changed()).await.unwrap();
    }
    loop {
        if let Some(RegistrationEvent::Reregistered) = registration.event().await {
            break;
        }
    }
    assert_eq!(front.memory.instances("web").len(), 1);
}

#[tokio::test]
async fn an_empty_registry_that_came_back_does_not_empty_the_set() {
    let front = Front::start().await;
    let registry = front.registry();
    let mut watch = registry.watch("web").unwrap();
    front.memory.register(lasting("a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let addr = front.stop().await;
    let front = Front::over(Memory::new(), addr).await;
    let doubtful = |v: &View| {
        let kind = v.error.as_ref().map(tower_roster::RegistryError::kind);
        kind == Some(tower_roster::error::ErrorKind::Doubtful)
    };
    let view = until(&mut watch, "the doubt", doubtful).await;
    assert_eq!((ids(&view), view.state), (vec!["a"], ViewState::Stale));
    front.memory.register(lasting("b")).unwrap();
    until(&mut watch, "the new set", |v| {
        ids(v) == ["b"] && v.state == ViewState::Live
    })
    .await;
}

#[tokio::test]
async fn an_epoch_that_changes_under_an_open_connection_is_noticed() {
    let front = Front::start().await;
    front.memory.register(lasting("a")).unwrap();
    let registry = front.registry();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    // As if another process answered at the same address, with an index that has caught up.
    front.memory.wipe();
    front.memory.register(lasting("b")).unwrap();
    until(&mut watch, "the new set", |v| ids(v) == ["b"]).await;
}

#[tokio::test]
async fn a_server_that_stops_answers_what_waits() {
    let memory = Memory::new();
    memory.register(lasting("a")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = RestServer::new(memory.clone()).serve(listener, async { drop(stopped.await) });
    let target = format!("/registry/services/web?index={}&wait=600s", memory.index());
    let request = support::http1::send(addr, "GET", &target, &[], b"", LONG);
    let (served, reply, ()) = tokio::join!(tokio::time::timeout(LONG, serve), request, async {
        let waits = || async { memory.watchers("web") == 1 };
        support::eventually(LONG, "the request waits", waits).await;
        drop(stop);
    });
    served.unwrap();
    assert_eq!(listed(&reply.unwrap().ok()), ["a"]);
}

/// The index alone must tell a client that does not send the epoch, such as a script.
#[tokio::test]
async fn an_index_from_before_a_restart_is_answered_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let front = Front::start().await;
    front.memory.register(lasting("a")).unwrap();
    let (index, _) = position(&front.get("/registry/services/web").await.ok());
    let changed = instance("a").weight(7);
    front.memory.register(changed).unwrap();
    front.memory.save(&path).unwrap();
    let addr = front.stop().await;
    let front = Front::over(Memory::load(&path).unwrap(), addr).await;
    let target = format!("/registry/services/web?index={index}&wait=10m");
    let reply = front.get(&target).await.ok().json();
    assert_eq!(reply["instances"][0]["weight"], 7);
}
