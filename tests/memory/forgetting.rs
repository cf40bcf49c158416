//! What leaves the registry leaves nothing in it.

use tokio::time::{Instant, advance};
use tower_roster::registry::ViewState;

use super::*;

fn named(service: &str, id: &str) -> Announcement {
    let address = "127.0.0.1:80".parse().unwrap();
    Announcement::new(Instance::new(service, id, address)).health(Health::Unchecked)
}

#[tokio::test(start_paused = true)]
async fn names_that_an_id_has_left_are_forgotten() {
    let memory = Memory::new();
    let mut watched = registry(&memory).watch("name-7").unwrap();
    watched.resolved().await.unwrap();
    for n in 0..20_000 {
        memory.register(named(&format!("name-{n}"), "a")).unwrap();
        advance(SECOND / 100_000).await;
    }
    let services = memory.services();
    assert!(services.len() < 300, "{} names are left", services.len());
    assert!(services.iter().any(|(name, _)| &**name == "name-19998"));
    assert!(
        services.iter().any(|(name, _)| &**name == "name-7"),
        "it is watched"
    );
    // After an hour, the others are forgotten, too.
    memory.register(ttl("beat", SECOND)).unwrap();
    drop(watched);
    for _ in 0..2 {
        tokio::time::sleep(SECOND * 1_801).await;
        for _ in 0..300 {
            memory.register(named("web", "b")).unwrap();
            memory.deregister("b");
        }
    }
    let services = memory.services();
    assert!(services.len() <= 3, "{services:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_follows_a_service_that_was_forgotten_and_comes_back() {
    let memory = Memory::new();
    let registry = registry(&memory);
    memory.register(named("web", "a")).unwrap();
    memory.deregister("a");
    let index = memory.index();
    advance(SECOND / 1_000).await;
    for n in 0..1_000 {
        memory
            .register(named(&format!("name-{n}"), "other"))
            .unwrap();
    }
    let mut watch = registry.watch("web").unwrap();
    let view = watch.resolved().await.unwrap();
    assert_eq!(view.state, ViewState::Missing, "it is forgotten");
    memory.register(named("web", "a")).unwrap();
    until(&mut watch, &["a"]).await;
    assert!(memory.index() > index);
    memory.deregister("a");
    until(&mut watch, &[]).await;
}

/// Each turn of the task, and each change, once passed over all instances under the lock.
#[tokio::test]
async fn instances_in_a_hurry_delay_no_heartbeat_among_many_others() {
    let memory = Memory::new();
    for n in 0..50_000 {
        memory
            .register(named("many", &format!("many-{n}")))
            .unwrap();
    }
    for n in 0..50 {
        let id = format!("hurried-{n}");
        memory.register(ttl(&id, SECOND / 10)).unwrap();
    }
    let start = std::time::Instant::now();
    let mut beats = 0_u32;
    while start.elapsed() < SECOND {
        memory.heartbeat("many-7");
        for n in 0..50 {
            let id = format!("hurried-{n}");
            memory.register(ttl(&id, SECOND / 10)).unwrap();
        }
        tokio::task::yield_now().await;
        beats += 1;
    }
    assert!(beats > 500, "{beats} rounds in a second");
}

#[tokio::test(start_paused = true)]
async fn deadlines_follow_heartbeats_and_suspensions_exactly() {
    let memory = Memory::new();
    for n in 0..100 {
        memory.register(ttl(&format!("i{n}"), SECOND * 3)).unwrap();
    }
    tokio::time::sleep(SECOND).await;
    let start = Instant::now();
    for n in 0..50 {
        memory.heartbeat(&format!("i{n}"));
    }
    tokio::time::sleep(SECOND * 2 + SECOND / 50).await;
    assert_eq!(memory.instances("web").len(), 50);
    advance(SECOND / 2).await;
    tokio::time::sleep(SECOND).await;
    assert!(
        memory.instances("web").is_empty(),
        "after {:?}",
        start.elapsed()
    );
}
