//! States, staleness, polling, backoff.

use tower_roster::{
    error::ErrorKind,
    registry::{ViewState, WatchMode},
};

use super::{
    scripted::{Asked, Scripted, Step},
    *,
};

#[tokio::test(start_paused = true)]
async fn unreachable_unknown_and_empty_are_three_states() {
    let memory = Memory::new();
    let registry = registry(&memory, WatchSettings::default());
    memory.fail_next(1);
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "the failure", |v| v.error.is_some()).await;
    assert_eq!(view.state, ViewState::Pending, "nothing was ever known");
    assert!(view.error.unwrap().is_unreachable());
    let view = until(&mut watch, "an answer", |v| v.error.is_none()).await;
    assert_eq!(view.state, ViewState::Missing);
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "live", |v| v.state == ViewState::Live).await;
    memory.deregister("a");
    let view = until(&mut watch, "empty", |v| v.state == ViewState::Empty).await;
    assert!(view.is_fresh() && view.instances.is_empty());
    memory.fail_next(1);
    memory.drop_watchers();
    let view = until(&mut watch, "stale", |v| v.state == ViewState::Stale).await;
    assert!(view.error.is_some() && view.instances.is_empty());
    until(&mut watch, "empty again", |v| v.state == ViewState::Empty).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_nobody_confirms_is_stale_after_30_s_and_serves_on() {
    let backend = Scripted::new([
        Step::List(&["a"]),
        Step::After(Duration::from_secs(29), &Step::Unchanged),
        Step::After(Duration::from_secs(40), &Step::Unchanged),
        Step::Hang,
    ]);
    let mut watch = Registry::new(backend).watch("web").unwrap();
    let start = tokio::time::Instant::now();
    until(&mut watch, "live", |v| v.state == ViewState::Live).await;
    let view = until(&mut watch, "stale", |v| v.state == ViewState::Stale).await;
    let after = start.elapsed();
    assert!(
        after >= SECOND * 59 && after < SECOND * 60,
        "confirmed after 29 s, stale 30 s later: {after:?}"
    );
    assert_eq!(ids(&view), ["a"]);
    assert!(view.error.is_none(), "nothing failed, it is only old");
    assert!(view.age().unwrap() >= SECOND * 30);
    let view = until(&mut watch, "live again", |v| v.state == ViewState::Live).await;
    assert_eq!(ids(&view), ["a"]);
    until(&mut watch, "stale again", |v| v.state == ViewState::Stale).await;
}

#[tokio::test(start_paused = true)]
async fn the_poll_mode_asks_every_5_s_with_jitter_and_never_waits_for_a_change() {
    let backend = Scripted::new([Step::List(&["a"])]);
    let settings = WatchSettings::default().mode(WatchMode::POLL).seed(7);
    let registry = Registry::with_settings(backend.clone(), settings).unwrap();
    let watch = registry.watch("web").unwrap();
    tokio::time::sleep(SECOND * 301).await;
    assert_eq!(watch.view().state, ViewState::Live);
    let asked = backend.asked();
    assert!(asked.iter().all(|(what, _)| *what == Asked::Read));
    let gaps: Vec<Duration> = asked.windows(2).map(|two| two[1].1 - two[0].1).collect();
    assert!((55..=66).contains(&gaps.len()), "{} polls", gaps.len());
    let least = Duration::from_millis(4_490);
    let most = Duration::from_millis(5_510);
    assert!(
        gaps.iter().all(|gap| (least..=most).contains(gap)),
        "{gaps:?}"
    );
    let spread = *gaps.iter().max().unwrap() - *gaps.iter().min().unwrap();
    assert!(
        spread > Duration::from_millis(500),
        "jittered by {spread:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_poll_mode_sees_changes_of_a_registry() {
    let memory = Memory::new();
    let settings = WatchSettings::default().mode(WatchMode::POLL);
    let mut watch = registry(&memory, settings).watch("web").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;
    memory.register(unchecked("a")).unwrap();
    let start = tokio::time::Instant::now();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert!(start.elapsed() < SECOND * 6);
    memory.pause();
    let view = until(&mut watch, "stale", |v| v.state == ViewState::Stale).await;
    assert_eq!(ids(&view), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_start_over_with_a_read() {
    let backend = Scripted::new([Step::List(&["a"]), Step::Fail(ErrorKind::Unreachable)]);
    let settings = WatchSettings::default().seed(7);
    let registry = Registry::with_settings(backend.clone(), settings).unwrap();
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "stale", |v| v.state == ViewState::Stale).await;
    assert_eq!(ids(&view), ["a"], "the last good set is kept");
    tokio::time::sleep(SECOND * 600).await;
    let asked = backend.asked();
    assert_eq!(asked[1].0, Asked::Next);
    assert!(
        asked[2..].iter().all(|(what, _)| *what == Asked::Read),
        "the position is void after an error"
    );
    // Full jitter up to 0.75 s: 0.375 s on average, so 1 600 times with a standard deviation of 23.
    let asks = asked.len();
    assert!(
        (1_500..1_700).contains(&asks),
        "asked {asks} times in 600 s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_resync_reads_again_at_once() {
    let backend = Scripted::new([
        Step::List(&["a"]),
        Step::Resync,
        Step::List(&["b"]),
        Step::Hang,
    ]);
    let mut watch = Registry::new(backend.clone()).watch("web").unwrap();
    until(&mut watch, "the new set", |v| ids(v) == ["b"]).await;
    let asked: Vec<_> = backend.asked().into_iter().map(|(what, _)| what).collect();
    assert_eq!(asked[..3], [Asked::Read, Asked::Next, Asked::Read]);
}
