//! Faults on demand, below the real supervision.

use tokio::time::{Instant, sleep};
use tower_roster::{
    error::ErrorKind,
    registry::{RegistrationEvent, ViewState},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_paused_registry_answers_nothing_and_expires_nothing() {
    let memory = Memory::new();
    let registry = registry(&memory);
    let mut watch = registry.watch("web").unwrap();
    let mut registration = registry.register(ttl("a", SECOND * 3)).unwrap();
    until(&mut watch, &["a"]).await;
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Registered)
    ));

    memory.pause();
    let view = watch
        .wait_for(|v| v.state == ViewState::Stale)
        .await
        .unwrap();
    assert_eq!(ids(&view), ["a"], "the last good set is kept");
    let age = view.age().unwrap();
    assert!(
        (SECOND * 30..SECOND * 31).contains(&age),
        "stale at an age of {age:?}"
    );
    let Some(RegistrationEvent::HeartbeatFailed { error, .. }) = registration.event().await else {
        panic!("a heartbeat without an answer must be told");
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);

    memory.resume();
    let resumed = Instant::now();
    watch
        .wait_for(|v| v.state == ViewState::Live)
        .await
        .unwrap();
    loop {
        if let RegistrationEvent::Recovered = registration.event().await.unwrap() {
            break;
        }
    }
    assert!(resumed.elapsed() < SECOND * 3);
    assert_eq!(memory.instances("web").len(), 1, "it was never taken out");
}

#[tokio::test(start_paused = true)]
async fn operations_told_to_fail_are_unavailable_and_tried_again() {
    let memory = Memory::new();
    let registry = registry(&memory);
    memory.fail_next(3);
    let mut registration = registry.register(ttl("a", SECOND * 3)).unwrap();
    for _ in 0..3 {
        let Some(RegistrationEvent::RegisterFailed { error, .. }) = registration.event().await
        else {
            panic!("each failure must be told");
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!((error.backend(), error.service()), ("memory", "web"));
    }
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Registered)
    ));

    memory.fail_next(1);
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::HeartbeatFailed { .. })
    ));
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Recovered)
    ));

    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, &["a"]).await;
    assert!(memory.deregister("a"));
    until(&mut watch, &[]).await;
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Reregistered)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_keeps_its_set_and_comes_back() {
    let memory = Memory::new();
    memory.register(unchecked("a")).unwrap();
    let mut watch = registry(&memory).watch("web").unwrap();
    until(&mut watch, &["a"]).await;
    memory.fail_next(2);
    memory.drop_watchers();
    let view = watch.wait_for(|v| v.error.is_some()).await.unwrap();
    assert_eq!((view.state, ids(&view)), (ViewState::Stale, vec!["a"]));
    assert!(view.error.unwrap().is_unreachable());
    memory.register(unchecked("b")).unwrap();
    let view = until(&mut watch, &["a", "b"]).await;
    assert_eq!((view.state, view.error.is_none()), (ViewState::Live, true));
}

#[tokio::test(start_paused = true)]
async fn dropped_watchers_miss_no_change() {
    let memory = Memory::new();
    let mut watch = registry(&memory).watch("web").unwrap();
    watch.resolved().await.unwrap();
    for round in 0..20_u16 {
        memory.drop_watchers();
        memory.register(instance("a").weight(round)).unwrap();
        if round % 3 == 0 {
            sleep(SECOND / 7).await;
        }
    }
    let newest = watch.wait_for(|v| {
        v.state == ViewState::Live && v.instances.iter().any(|i| i.weight.get() == 19)
    });
    tokio::time::timeout(SECOND * 10, newest)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn leaving_a_paused_registry_takes_bounded_time() {
    let memory = Memory::new();
    let registration = registry(&memory).register(instance("a")).unwrap();
    registration.registered().await;
    memory.pause();
    let start = Instant::now();
    let error = registration.deregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(start.elapsed() < SECOND * 8);
}
