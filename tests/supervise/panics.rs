//! A backend that panics costs one request.

use tower_roster::{
    Backoff,
    catalog::EmptyGuard,
    error::ErrorKind,
    registry::{RegistrationEvent, ViewState, WatchMode},
};

use super::{
    scripted::{Scripted, Step},
    *,
};

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_told_and_asked_again() {
    for panic in [Step::Panic, Step::PanicAtOnce] {
        let backend = Scripted::new([
            Step::List(&["a"]),
            panic.clone(),
            panic.clone(),
            Step::After(SECOND, &Step::List(&["b"])),
            Step::Hang,
        ]);
        let mut watch = Registry::new(backend).watch("web").unwrap();
        let view = until(&mut watch, "the panic", |v| v.error.is_some()).await;
        assert_eq!(
            (ids(&view), view.state),
            (vec!["a"], ViewState::Stale),
            "{panic:?}"
        );
        let error = view.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!((error.backend(), error.service()), ("scripted", "web"));
        let view = until(&mut watch, "the next answer", |v| ids(v) == ["b"]).await;
        assert_eq!(view.state, ViewState::Live);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_panics_is_told_and_asked_again() {
    let backend = Scripted::new([Step::Hang]).lease([
        Step::Panic,
        Step::Unchanged,
        Step::Unchanged,
        Step::Panic,
        Step::Unchanged,
    ]);
    let mut registration = Registry::new(backend).register(unchecked("a")).unwrap();
    let Some(RegistrationEvent::RegisterFailed { error, .. }) = registration.event().await else {
        panic!("the panic must be told");
    };
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Registered)
    ));
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::HeartbeatFailed { .. })
    ));
    assert!(matches!(
        registration.event().await,
        Some(RegistrationEvent::Recovered)
    ));
    registration.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_leaving_is_told_to_who_waits() {
    let backend =
        Scripted::new([Step::Hang]).lease([Step::Unchanged, Step::Unchanged, Step::Panic]);
    let registration = Registry::new(backend).register(unchecked("a")).unwrap();
    tokio::time::sleep(SECOND / 2).await;
    let error = registration.deregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_update_at_which_the_backend_panics_leaves_what_stands() {
    let backend = Scripted::new([Step::Hang]).lease([Step::Unchanged]);
    let registry = Registry::new(backend.clone());
    let mut registration = registry.register(unchecked("a")).unwrap();
    registration.registered().await;
    let update = unchecked("a").instance().clone().meta("panic", "please");
    let error = registration.update(update).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let before = backend.asked().len();
    tokio::time::sleep(SECOND * 5).await;
    assert!(backend.asked().len() > before, "heartbeats go on");
    registration.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_longest_settings_end_no_task() {
    let longest = Duration::MAX;
    let settings = WatchSettings::default()
        .mode(WatchMode::Poll(longest))
        .stale_after(longest)
        .linger(longest)
        .removal_grace(longest)
        .empty_guard(EmptyGuard::Hold(longest))
        .backoff(Backoff::new(longest, longest).unwrap())
        .seed(7);
    for steps in [
        vec![Step::List(&["a"])],
        vec![Step::List(&["a"]), Step::List(&[]), Step::Hang],
        vec![Step::Fail(ErrorKind::Unreachable)],
        vec![Step::Fail(ErrorKind::Refused)],
    ] {
        let backend = Scripted::new(steps.clone()).lease([Step::Fail(ErrorKind::Refused)]);
        let registry = Registry::with_settings(backend, settings.clone()).unwrap();
        let mut watch = registry.watch("web").unwrap();
        until(&mut watch, "the first answer", |v| {
            !v.instances.is_empty() || v.error.is_some()
        })
        .await;
        let mut registration = registry.register(unchecked("a")).unwrap();
        assert!(matches!(
            registration.event().await,
            Some(RegistrationEvent::RegisterFailed { .. })
        ));
        tokio::time::sleep(SECOND * 3_600).await;
        let ended = watch.wait_for(|_| false);
        let ended = tokio::time::timeout(SECOND, ended).await;
        assert!(ended.is_err(), "the watch must go on: {steps:?}");
        let event = tokio::time::timeout(SECOND, registration.event()).await;
        assert!(event.is_err(), "the registration must go on: {steps:?}");
    }
}
