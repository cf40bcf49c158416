//! A second registry in reserve.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::time::{Instant, sleep};
use tower::service_fn;
use tower_roster::{
    balance::BalanceLayer,
    error::ErrorKind,
    registry::{Failover, ViewState},
};

use super::{
    scripted::{Scripted, Step},
    *,
};

const UP: Step = Step::List(&["a"]);
const DOWN: Step = Step::Fail(ErrorKind::Unreachable);
const HANG: Step = Step::Hang;

/// The time between two steps of a script, so that a backoff does not shift them.
fn failover(first: Vec<Step>, second: Vec<Step>) -> Registry {
    let [first, second] = [first, second].map(|steps| Registry::new(Scripted::new(steps)));
    Failover::new(first, second).build().unwrap()
}

fn used(view: &View) -> [bool; 2] {
    [view.parts[0].is_used, view.parts[1].is_used]
}

#[tokio::test(start_paused = true)]
async fn the_last_good_set_serves_for_a_while_and_then_the_second_registry() {
    let registry = failover(
        vec![UP, Step::After(SECOND * 5, &DOWN), DOWN],
        vec![
            Step::List(&["b"]),
            Step::After(SECOND * 10, &Step::Unchanged),
        ],
    );
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "the first", |v| is(v, "a")).await;
    assert_eq!((view.state, used(&view)), (ViewState::Live, [true, false]));
    let view = until(&mut watch, "its failure", |v| v.state == ViewState::Stale).await;
    let gone = Instant::now();
    assert!(is(&view, "a") && view.error.is_some());
    let view = until(&mut watch, "the second", |v| is(v, "b")).await;
    assert_eq!(gone.elapsed(), SECOND * 10);
    assert_eq!((view.state, view.error.is_none()), (ViewState::Live, true));
    assert_eq!(used(&view), [false, true]);
    assert!(view.parts[0].view.error.is_some(), "the first still fails");
}

#[tokio::test(start_paused = true)]
async fn the_first_is_used_again_after_a_time_without_a_break() {
    let first = Memory::new();
    put(&first, instance("a", "a"));
    let second = Memory::new();
    put(&second, instance("b", "b"));
    let registry = Failover::new(of(&first), of(&second))
        .after(SECOND * 5)
        .back_after(SECOND * 20)
        .build()
        .unwrap();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the first", |v| is(v, "a")).await;
    // Listing nothing is a reason, too.
    first.deregister("a");
    let view = until(&mut watch, "nothing", |v| v.instances.is_empty()).await;
    assert_eq!((view.state, used(&view)), (ViewState::Empty, [true, false]));
    let start = Instant::now();
    until(&mut watch, "the second", |v| is(v, "b")).await;
    assert_eq!(start.elapsed(), SECOND * 5);
    // It comes and goes: each break starts the time anew.
    for _ in 0..10 {
        put(&first, instance("a", "a"));
        sleep(SECOND * 19).await;
        first.deregister("a");
        sleep(SECOND).await;
        assert!(
            is(&watch.view(), "b"),
            "a registry that comes and goes moves no traffic"
        );
    }
    put(&first, instance("a", "a"));
    let start = Instant::now();
    until(&mut watch, "the first", |v| is(v, "a")).await;
    assert_eq!(start.elapsed(), SECOND * 20);
    // And now the other time counts again.
    first.deregister("a");
    let start = Instant::now();
    until(&mut watch, "the second", |v| is(v, "b")).await;
    assert_eq!(start.elapsed(), SECOND * 5);
    // Without the second, the first is used at once.
    put(&first, instance("a", "a"));
    sleep(SECOND).await;
    second.deregister("b");
    let start = Instant::now();
    until(&mut watch, "the first", |v| is(v, "a")).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

/// What is used in the end, and how it is told.
#[tokio::test(start_paused = true)]
async fn the_second_is_used_only_if_it_is_better() {
    let lost = || vec![UP, DOWN];
    let reserve = || vec![Step::List(&["b"]), HANG];
    let reserve_lost = || vec![Step::List(&["b"]), DOWN];
    let missing = || vec![Step::Nothing { exists: false }, HANG];
    let empty = || vec![Step::Nothing { exists: true }, HANG];
    let down = || vec![DOWN];
    let silent = || vec![HANG];
    for (what, first, second, state, letters) in [
        ("lost", lost(), reserve(), ViewState::Live, "b"),
        ("never there", down(), reserve(), ViewState::Live, "b"),
        ("never answers", silent(), reserve(), ViewState::Live, "b"),
        ("missing", missing(), reserve(), ViewState::Live, "b"),
        ("empty", empty(), reserve(), ViewState::Live, "b"),
        ("both lost", lost(), reserve_lost(), ViewState::Stale, "a"),
        (
            "a set before none",
            missing(),
            reserve_lost(),
            ViewState::Stale,
            "b",
        ),
        ("no reserve", lost(), down(), ViewState::Stale, "a"),
        ("an empty reserve", lost(), missing(), ViewState::Stale, "a"),
        ("nothing at all", missing(), empty(), ViewState::Empty, ""),
        ("who knows", missing(), down(), ViewState::Pending, ""),
    ] {
        let watch = failover(first, second).watch("web").unwrap();
        // Within this time the second goes stale nowhere.
        sleep(SECOND * 20).await;
        let view = watch.view();
        assert_eq!(view.state, state, "{what}: {view:?}");
        assert!(is(&view, letters), "{what}: {view:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_in_both_keeps_its_connection_when_they_change_places() {
    let (first, second) = (Memory::new(), Memory::new());
    for (memory, prefix) in [(&first, "one"), (&second, "two")] {
        for letter in ["a", "b"] {
            put(memory, instance(&format!("{prefix}-{letter}"), letter));
        }
    }
    let registry = Failover::new(of(&first), of(&second)).build().unwrap();
    let mut watch = registry.watch("web").unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let discover = watch.clone().discover(move |_: &Instance| {
        count.fetch_add(1, SeqCst);
        Ok::<_, Infallible>(service_fn(|_: ()| async { Ok::<_, Infallible>(()) }))
    });
    let balance = BalanceLayer::builder().build().unwrap().balance(discover);
    let handle = balance.handle();
    handle
        .wait_for(|status| status.endpoints == 2)
        .await
        .unwrap();
    first.pause();
    first.drop_watchers();
    until(&mut watch, "the second", |v| used(v) == [false, true]).await;
    let now = |status: &tower_roster::balance::BalanceStatus| {
        status.registries[0]
            .parts
            .iter()
            .map(|part| part.is_used)
            .collect::<Vec<_>>()
    };
    handle
        .wait_for(|status| now(status) == [false, true])
        .await
        .unwrap();
    assert!(
        handle.status().registries[0]
            .to_string()
            .contains("not used")
    );
    first.resume();
    until(&mut watch, "the first", |v| used(v) == [true, false]).await;
    assert_eq!(made.load(SeqCst), 2, "one connection each");
    assert_eq!(handle.status().endpoints, 2);
}
