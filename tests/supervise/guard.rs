//! The empty guard and the removal grace.

use tower_roster::{catalog::EmptyGuard, error::ErrorKind, registry::ViewState};

use super::{
    scripted::{Scripted, Step},
    *,
};

#[tokio::test(start_paused = true)]
async fn one_camp_applies_an_empty_list_at_once() {
    let memory = Memory::new();
    let settings = WatchSettings::default().empty_guard(EmptyGuard::ApplyAtOnce);
    let mut watch = registry(&memory, settings).watch("web").unwrap();
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "live", |v| ids(v) == ["a"]).await;
    let start = tokio::time::Instant::now();
    // Even one in doubt.
    memory.wipe();
    let view = until(&mut watch, "empty", |v| v.instances.is_empty()).await;
    assert_eq!(view.state, ViewState::Missing);
    assert!(start.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_other_camp_holds_every_empty_list_for_its_time() {
    let memory = Memory::new();
    let settings = WatchSettings::default().empty_guard(EmptyGuard::Hold(SECOND * 20));
    let mut watch = registry(&memory, settings).watch("web").unwrap();
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "live", |v| ids(v) == ["a"]).await;
    let start = tokio::time::Instant::now();
    memory.deregister("a");
    let view = until(&mut watch, "held", |v| v.error.is_some()).await;
    assert_eq!((ids(&view), view.state), (vec!["a"], ViewState::Stale));
    assert_eq!(view.error.unwrap().kind(), ErrorKind::Doubtful);
    let view = until(&mut watch, "applied", |v| v.instances.is_empty()).await;
    let after = start.elapsed();
    assert!(
        after >= SECOND * 20 && after < SECOND * 21,
        "held for {after:?}"
    );
    assert_eq!(view.state, ViewState::Empty, "the service exists");
    assert!(view.error.is_none());
}

#[tokio::test(start_paused = true)]
async fn by_default_only_an_empty_list_in_doubt_is_held() {
    let memory = Memory::new();
    let mut watch = registry(&memory, WatchSettings::default())
        .watch("web")
        .unwrap();
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "live", |v| ids(v) == ["a"]).await;
    memory.deregister("a");
    until(&mut watch, "empty at once", |v| v.state == ViewState::Empty).await;

    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "live", |v| ids(v) == ["a"]).await;
    let start = tokio::time::Instant::now();
    memory.wipe();
    until(&mut watch, "held", |v| v.state == ViewState::Stale).await;
    let view = until(&mut watch, "applied", |v| v.instances.is_empty()).await;
    assert_eq!(
        view.state,
        ViewState::Missing,
        "the registry knows it no more"
    );
    let after = start.elapsed();
    assert!(
        after >= SECOND * 120 && after < SECOND * 122,
        "held for {after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_held_list_is_not_applied_while_the_registry_is_gone() {
    let memory = Memory::new();
    let settings = WatchSettings::default().empty_guard(EmptyGuard::Hold(SECOND * 20));
    let mut watch = registry(&memory, settings).watch("web").unwrap();
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "live", |v| ids(v) == ["a"]).await;
    memory.deregister("a");
    until(&mut watch, "held", |v| v.error.is_some()).await;
    memory.fail_next(u32::MAX);
    until(&mut watch, "gone", |v| {
        v.error.as_ref().map(tower_roster::RegistryError::kind) == Some(ErrorKind::Unavailable)
    })
    .await;
    tokio::time::sleep(SECOND * 60).await;
    let view = watch.view();
    assert_eq!(
        (ids(&view), view.state),
        (vec!["a"], ViewState::Stale),
        "nobody says that the list still stands"
    );
    memory.fail_next(0);
    let view = until(&mut watch, "it still stands", |v| v.instances.is_empty()).await;
    assert_eq!(view.state, ViewState::Empty);
}

#[tokio::test(start_paused = true)]
async fn an_absent_instance_stays_for_the_grace() {
    let memory = Memory::new();
    let settings = WatchSettings::default().removal_grace(SECOND * 5);
    let mut watch = registry(&memory, settings).watch("web").unwrap();
    for id in ["a", "b"] {
        memory.register(unchecked(id)).unwrap();
    }
    until(&mut watch, "live", |v| ids(v) == ["a", "b"]).await;
    let start = tokio::time::Instant::now();
    memory.deregister("a");
    until(&mut watch, "its end", |v| ids(v) == ["b"]).await;
    let after = start.elapsed();
    assert!(
        after >= SECOND * 5 && after < SECOND * 6,
        "stayed for {after:?}"
    );
    memory.deregister("b");
    let view = until(&mut watch, "the end", |v| v.instances.is_empty()).await;
    assert_eq!(view.state, ViewState::Empty, "the service still exists");
}

#[tokio::test(start_paused = true)]
async fn a_grace_that_ends_while_the_registry_is_gone_hides_no_error() {
    let backend = Scripted::new([
        Step::List(&["a"]),
        Step::Nothing { exists: true },
        Step::Fail(ErrorKind::Unreachable),
    ]);
    let settings = WatchSettings::default().removal_grace(SECOND * 5);
    let registry = Registry::with_settings(backend, settings).unwrap();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the failure", |v| v.state == ViewState::Stale).await;
    let view = until(&mut watch, "the end of the grace", |v| {
        v.instances.is_empty()
    })
    .await;
    assert_eq!(view.state, ViewState::Stale);
    assert!(view.error.is_some(), "the registry is still gone");
}

#[tokio::test(start_paused = true)]
async fn a_first_empty_list_in_doubt_confirms_nothing() {
    for (sound, state, listed) in [
        (Step::Nothing { exists: false }, ViewState::Missing, vec![]),
        (Step::Nothing { exists: true }, ViewState::Empty, vec![]),
        (Step::List(&["a"]), ViewState::Live, vec!["a"]),
    ] {
        let backend = Scripted::new([Step::Doubtful, Step::Doubtful, sound]);
        let mut watch = Registry::new(backend).watch("web").unwrap();
        let start = tokio::time::Instant::now();
        let mut seen = Vec::new();
        let view = loop {
            let view = watch.changed().await.unwrap();
            seen.push((view.state, view.error.as_ref().map(|e| e.to_string())));
            if view.is_fresh() {
                break view;
            }
        };
        assert_eq!((view.state, ids(&view)), (state, listed), "{seen:?}");
        assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
        let doubted = seen.iter().filter(|(state, error)| {
            let why = error.as_deref().unwrap_or_default();
            *state == ViewState::Pending && why.contains("held back: as the script says")
        });
        assert_eq!(doubted.count(), 1, "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_empty_list_that_stays_in_doubt_is_applied_after_its_time() {
    let times = [
        (EmptyGuard::default(), 120),
        (EmptyGuard::Hold(SECOND * 20), 20),
        (EmptyGuard::ApplyAtOnce, 0),
    ];
    for (guard, seconds) in times {
        let settings = WatchSettings::default().empty_guard(guard);
        let backend = Scripted::new([Step::Doubtful]);
        let registry = Registry::with_settings(backend, settings).unwrap();
        let mut watch = registry.watch("web").unwrap();
        let start = tokio::time::Instant::now();
        let view = watch.resolved().await.unwrap();
        assert_eq!(
            (view.state, view.error.is_some()),
            (ViewState::Missing, false)
        );
        let after = start.elapsed();
        assert!(
            after >= SECOND * seconds && after < SECOND * (seconds + 2),
            "{guard:?}: held for {after:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_in_doubt_changes_nothing_for_a_set_that_is_known_to_be_empty() {
    let backend = Scripted::new([
        Step::Nothing { exists: true },
        Step::After(SECOND, &Step::Doubtful),
        Step::Hang,
    ]);
    let mut watch = Registry::new(backend).watch("web").unwrap();
    until(&mut watch, "known", |v| v.state == ViewState::Empty).await;
    let view = until(&mut watch, "missing", |v| v.state != ViewState::Empty).await;
    assert_eq!(view.state, ViewState::Missing, "it had no instances before");
}
