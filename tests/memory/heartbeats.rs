//! Expiry, and what keeps it away.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread,
};

use tokio::time::{Instant, advance, sleep};
use tower_roster::registry::{RegistrationEvent, Renewal, ViewState};
use tracing::{Dispatch, subscriber::NoSubscriber};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_instance_expires_after_exactly_its_ttl_and_watchers_see_it() {
    let memory = Memory::new();
    let mut watch = registry(&memory).watch("web").unwrap();
    let start = Instant::now();
    memory.register(ttl("a", SECOND * 9)).unwrap();
    until(&mut watch, &["a"]).await;
    let view = until(&mut watch, &[]).await;
    let after = start.elapsed();
    assert!(
        (SECOND * 9..SECOND * 9 + SECOND / 50).contains(&after),
        "expired after {after:?}"
    );
    assert_eq!(view.state, ViewState::Empty, "the service has been known");
    assert_eq!(
        memory.heartbeat("a"),
        Renewal::Lost,
        "an expired id is unknown"
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_an_instance_and_silence_ends_it() {
    let memory = Memory::new();
    memory.register(ttl("a", SECOND * 3)).unwrap();
    memory.register(ttl("b", SECOND * 3)).unwrap();
    for _ in 0..10 {
        sleep(SECOND * 2).await;
        assert_eq!(memory.heartbeat("a"), Renewal::Kept);
    }
    let held: Vec<_> = memory.instances("web");
    assert_eq!(held.len(), 1, "b sent none");
    assert_eq!(held[0].id(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_registration_outlives_its_ttl_many_times() {
    let memory = Memory::builder()
        .max_failures(NonZeroU32::MIN)
        .build()
        .unwrap();
    let registry = registry(&memory);
    let registration = registry.register(ttl("a", SECOND / 2)).unwrap();
    registration.registered().await;
    for _ in 0..60 {
        sleep(SECOND).await;
        assert_eq!(memory.instances("web").len(), 1);
    }
    registration.deregister().await.unwrap();
    assert!(memory.instances("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_suspended_expires_nobody_at_once() {
    let memory = Memory::new();
    for id in ["a", "b", "c"] {
        memory.register(ttl(id, SECOND * 3)).unwrap();
    }
    // Lets the timer plan its first deadline.
    sleep(SECOND).await;
    // As if this process had been stopped: the timer wakes 57 s late.
    advance(SECOND * 59).await;
    sleep(SECOND / 2).await;
    assert_eq!(
        memory.instances("web").len(),
        3,
        "everybody gets one more interval"
    );
    assert_eq!(memory.heartbeat("a"), Renewal::Kept);
    sleep(SECOND * 2).await;
    let held = memory.instances("web");
    assert_eq!(held.len(), 1, "and no more than that");
    assert_eq!(held[0].id(), "a");
}

#[tokio::test(start_paused = true)]
async fn an_unchecked_instance_stays_until_it_is_deregistered() {
    let memory = Memory::new();
    memory.register(unchecked("a")).unwrap();
    sleep(SECOND * 86_400).await;
    assert_eq!(memory.instances("web").len(), 1);
    assert!(memory.deregister("a"));
    assert!(!memory.deregister("a"), "it is gone");
}

#[tokio::test(start_paused = true)]
async fn a_registration_comes_back_after_the_registry_lost_its_state() {
    let memory = Memory::new();
    let registry = registry(&memory);
    let mut watch = registry.watch("web").unwrap();
    let mut registration = registry.register(ttl("a", SECOND * 10)).unwrap();
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Registered)
    ));
    until(&mut watch, &["a"]).await;
    let epoch = memory.epoch();
    memory.wipe();
    assert_ne!(memory.epoch(), epoch);
    let start = Instant::now();
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Reregistered)
    ));
    assert!(
        start.elapsed() <= SECOND * 2,
        "it looks about once a second"
    );
    let view = watch
        .wait_for(|v| v.state == ViewState::Live)
        .await
        .unwrap();
    assert_eq!(ids(&view), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_registry_does_not_empty_the_set_of_its_watchers() {
    let memory = Memory::new();
    let mut watch = registry(&memory).watch("web").unwrap();
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, &["a"]).await;
    memory.wipe();
    let view = watch
        .wait_for(|v| v.state == ViewState::Stale)
        .await
        .unwrap();
    assert_eq!(ids(&view), ["a"], "the empty list is in doubt");
    memory.register(unchecked("b")).unwrap();
    until(&mut watch, &["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn one_instance_in_a_hurry_keeps_no_dead_one() {
    let memory = Memory::new();
    memory.register(ttl("dead", SECOND * 3)).unwrap();
    let start = Instant::now();
    while memory.instances("web").iter().any(|i| i.id() == "dead") {
        assert!(start.elapsed() < SECOND * 4, "the dead one must expire");
        memory.register(ttl("hurried", SECOND / 10)).unwrap();
        // Lets the timer plan the deadline, and wakes it later than half of that interval.
        sleep(SECOND / 1_000).await;
        advance(SECOND * 12 / 100).await;
    }
}

/// Output may be slow, and a registry that waits for it must not hold up its clients.
#[tokio::test(start_paused = true)]
async fn many_expire_in_steps_and_are_logged_without_the_lock() {
    // While there is one dispatcher only, the test that comes to an event first decides for all.
    static OTHER: OnceLock<Dispatch> = OnceLock::new();
    OTHER.get_or_init(|| Dispatch::new(NoSubscriber::default()));
    let memory = Arc::new(Memory::new());
    for id in 0..2_500 {
        memory.register(ttl(&format!("i{id}"), SECOND)).unwrap();
    }
    // How many are left at each line, which another thread can tell unless the lock is held.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (registry, lines) = (Arc::clone(&memory), Arc::clone(&seen));
    let subscriber = tracing_subscriber::fmt().with_writer(move || {
        let mut lines = lines.lock().unwrap();
        if !matches!(lines.last(), Some(None)) {
            let (registry, (send, left)) = (Arc::clone(&registry), mpsc::channel());
            thread::spawn(move || send.send(registry.services()[0].1));
            lines.push(left.recv_timeout(SECOND * 10).ok());
        }
        std::io::sink()
    });
    let logged = tracing::subscriber::set_default(subscriber.finish());
    sleep(SECOND + SECOND / 1_000).await;
    drop(logged);
    assert!(memory.instances("web").is_empty());
    let mut left = seen.lock().unwrap().clone();
    assert_eq!(
        left.len(),
        2_500,
        "one line for each; last: {:?}",
        left.last()
    );
    left.dedup();
    assert_eq!(left, [Some(1_500), Some(500), Some(0)]);
}
