//! The union of two registries.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tower::{ServiceExt, service_fn};
use tower_roster::{
    balance::{BalanceEvent, BalanceLayer},
    error::ErrorKind,
    instance::Status,
    registry::{Merge, Query, ViewState, WatchSettings},
};

use super::{
    scripted::{Scripted, Step},
    *,
};

fn merge(first: &Memory, second: &Memory) -> Registry {
    Merge::new(of(first), of(second)).build().unwrap()
}

fn scripts(first: Vec<Step>, second: Vec<Step>) -> Registry {
    let [first, second] = [first, second].map(|steps| Registry::new(Scripted::new(steps)));
    Merge::new(first, second).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_address_counts_once_and_the_record_of_the_first_wins() {
    let (first, second) = (Memory::new(), Memory::new());
    put(
        &first,
        instance("a", "a")
            .weight(3)
            .zone("east")
            .meta("from", "first"),
    );
    put(&first, instance("b", "b"));
    // The same process under another id, with other data.
    put(
        &second,
        instance("other", "a").weight(9).zone("west").tag("new"),
    );
    put(&second, instance("c", "c"));
    let mut watch = merge(&first, &second).watch("web").unwrap();
    let view = until(&mut watch, "the union", |v| is(v, "abc")).await;
    let one = view.instances.iter().next().unwrap();
    assert_eq!((one.weight.get(), one.zone.as_deref()), (3, Some("east")));
    assert!(one.tags.is_empty() && one.metadata["from"] == "first");
    assert_eq!((view.state, view.error), (ViewState::Live, None));
    let parts: Vec<_> = view.parts.iter().map(|part| ids(&part.view)).collect();
    assert_eq!(parts, [["a", "b"], ["c", "other"]], "with their own ids");
    assert!(view.parts.iter().all(|part| part.is_used));
    // Two ids of one registry at one address, as after a restart without a deregistration.
    put(&second, instance("c-again", "c"));
    put(&second, instance("d", "d"));
    until(&mut watch, "each once", |v| is(v, "abcd")).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_moves_keeps_its_connection_and_never_leaves() {
    let (first, second) = (Memory::new(), Memory::new());
    for id in ["a", "b"] {
        put(&first, instance(id, id));
    }
    let watch = merge(&first, &second).watch("web").unwrap();
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
    let mut events = handle.subscribe().await.unwrap();
    let mut watched = watch.clone();
    let never_less = tokio::spawn(async move {
        while let Ok(view) = watched.changed().await {
            assert_eq!(view.instances.len(), 2, "{view:?}");
        }
    });
    for id in ["a", "b"] {
        put(&second, instance(&format!("new-{id}"), id).weight(5));
        tokio::time::sleep(SECOND).await;
        first.deregister(id);
        tokio::time::sleep(SECOND).await;
        balance.clone().oneshot(()).await.unwrap();
    }
    assert!(!never_less.is_finished(), "an instance has left");
    assert_eq!(made.load(SeqCst), 2, "one connection each");
    let weights: Vec<_> = watch
        .view()
        .instances
        .iter()
        .map(|i| i.weight.get())
        .collect();
    assert_eq!(weights, [5, 5], "the record that is left counts");
    while let Ok(event) = events.try_recv() {
        let moved = matches!(
            event,
            BalanceEvent::Added { .. } | BalanceEvent::Removed { .. }
        );
        assert!(!moved, "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_that_never_answers_delays_the_first_set_by_a_second() {
    let registry = scripts(vec![Step::List(&["a"]), Step::Hang], vec![Step::Hang]);
    let mut watch = registry.watch("web").unwrap();
    let start = tokio::time::Instant::now();
    let view = until(&mut watch, "the first set", |v| is(v, "a")).await;
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(view.state, ViewState::Stale, "the union is not confirmed");
    assert!(view.age().is_none());
    assert_eq!(view.parts[0].view.state, ViewState::Live);
    assert_eq!(view.parts[1].view.state, ViewState::Pending);

    // One that has failed is not waited for, and one that answers later is added.
    let down = Step::Fail(ErrorKind::Unreachable);
    let second = vec![
        down,
        Step::After(SECOND * 5, &Step::List(&["b"])),
        Step::Hang,
    ];
    let registry = scripts(vec![Step::List(&["a"]), Step::Hang], second);
    let mut watch = registry.watch("web").unwrap();
    let start = tokio::time::Instant::now();
    let view = until(&mut watch, "the first set", |v| is(v, "a")).await;
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    let error = view.error.unwrap();
    assert!(
        error.is_unreachable() && error.backend() == "scripted",
        "{error}"
    );
    let view = until(&mut watch, "both", |v| is(v, "ab")).await;
    assert_eq!(view.state, ViewState::Live);
}

/// The states of two halves, and what the union says.
#[tokio::test(start_paused = true)]
async fn the_union_is_empty_or_missing_only_if_both_say_so() {
    let missing = || vec![Step::Nothing { exists: false }, Step::Hang];
    let empty = || vec![Step::Nothing { exists: true }, Step::Hang];
    let down = || vec![Step::Fail(ErrorKind::Unreachable)];
    let live = || vec![Step::List(&["a"]), Step::Hang];
    let stale = || vec![Step::List(&["b"]), Step::Fail(ErrorKind::Unreachable)];
    for (what, first, second, state, letters) in [
        ("both missing", missing(), missing(), ViewState::Missing, ""),
        ("one empty", missing(), empty(), ViewState::Empty, ""),
        ("one unknown", missing(), down(), ViewState::Pending, ""),
        ("first alone", live(), missing(), ViewState::Live, "a"),
        ("second alone", empty(), live(), ViewState::Live, "a"),
        ("first stale", stale(), live(), ViewState::Stale, "ab"),
        ("second stale", live(), stale(), ViewState::Stale, "ab"),
        ("second down", live(), down(), ViewState::Stale, "a"),
        ("both down", down(), down(), ViewState::Pending, ""),
    ] {
        let watch = scripts(first, second).watch("web").unwrap();
        tokio::time::sleep(SECOND * 5).await;
        let view = watch.view();
        assert_eq!(view.state, state, "{what}: {view:?}");
        assert!(is(&view, letters), "{what}: {view:?}");
        let failed = what.contains("stale") || what.contains("down") || what == "one unknown";
        assert_eq!(view.error.is_some(), failed, "{what}: {view:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_record_yields_and_maintenance_does_not() {
    let (first, second) = (Memory::new(), Memory::new());
    let with = |id: &str, status| {
        let mut instance = instance(id, id);
        instance.status = status;
        instance
    };
    put(&first, with("a", Status::Critical));
    put(&second, with("a", Status::Passing));
    put(&first, with("b", Status::Passing));
    put(&second, with("b", Status::Maintenance));
    put(&first, with("c", Status::Critical));
    let mut watch = merge(&first, &second).watch("web").unwrap();
    let view = until(&mut watch, "the healthy one", |v| is(v, "a")).await;
    let withheld: Vec<_> = view.withheld.iter().map(|i| i.status).collect();
    assert_eq!(withheld, [Status::Maintenance, Status::Critical]);
}

/// Each half goes stale by its own setting.
#[tokio::test(start_paused = true)]
async fn each_half_has_its_own_age() {
    let half = |age| {
        let settings = WatchSettings::default().stale_after(age);
        let steps = [Step::List(&["a"]), Step::Hang];
        Registry::with_settings(Scripted::new(steps), settings).unwrap()
    };
    let registry = Merge::new(half(SECOND * 40), half(SECOND * 20))
        .build()
        .unwrap();
    let mut watch = registry.watch("web").unwrap();
    let start = tokio::time::Instant::now();
    let view = until(&mut watch, "stale", |v| v.state == ViewState::Stale).await;
    assert_eq!(start.elapsed().as_secs(), 20);
    let states: Vec<_> = view.parts.iter().map(|part| part.view.state).collect();
    assert_eq!(states, [ViewState::Live, ViewState::Stale]);
    assert!(is(&view, "a"), "it serves on");
}

#[tokio::test(start_paused = true)]
async fn confirmations_of_both_are_seen_and_are_no_news() {
    let steady = || {
        vec![
            Step::List(&["a"]),
            Step::After(SECOND * 10, &Step::Unchanged),
        ]
    };
    let mut watch = scripts(steady(), steady()).watch("web").unwrap();
    until(&mut watch, "the set", |v| is(v, "a")).await;
    let news = timeout(SECOND * 100, watch.changed()).await;
    assert!(news.is_err(), "nothing has changed: {news:?}");
    let age = watch.view().age().unwrap();
    assert!(age <= SECOND * 15, "confirmed every 10 s, and {age:?} old");
    let part = watch.view().parts[0].view.age().unwrap();
    assert!(part <= SECOND * 15, "{part:?}");
}

#[tokio::test(start_paused = true)]
async fn dropped_handles_leave_no_watch_behind() {
    let (first, second) = (Memory::new(), Memory::new());
    let both = merge(&first, &second);
    let mut watch = both.watch("web").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;
    let again = both.watch("web").unwrap();
    assert_eq!((first.watchers("web"), second.watchers("web")), (1, 1));
    drop((watch, both));
    tokio::time::sleep(SECOND).await;
    assert_eq!((first.watchers("web"), second.watchers("web")), (1, 1));
    drop(again);
    tokio::time::sleep(SECOND).await;
    assert_eq!((first.watchers("web"), second.watchers("web")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_balancer_has_the_state_of_each_half() {
    let (first, second) = (Memory::named("pair-one"), Memory::named("pair-two"));
    put(&first, instance("a", "a"));
    let watch = merge(&first, &second).watch("web").unwrap();
    let discover = watch.discover(|_: &Instance| {
        Ok::<_, Infallible>(service_fn(|_: ()| async { Ok::<_, Infallible>(()) }))
    });
    let balance = BalanceLayer::builder().build().unwrap().balance(discover);
    let handle = balance.handle();
    let status = handle
        .wait_for(|status| status.endpoints == 1)
        .await
        .unwrap();
    let [status] = &*status.registries else {
        panic!("it is one registry: {status:?}");
    };
    let states: Vec<_> = status.parts.iter().map(|part| part.state).collect();
    assert_eq!(states, [ViewState::Live, ViewState::Missing]);
    assert!(status.parts[0].registry.contains("one"), "{status}");
    let text = status.to_string();
    assert!(
        text.contains("one: live") && text.contains("two: missing"),
        "{text}"
    );

    // A change of one half is an event, also where the whole stays as it is.
    let mut events = handle.subscribe().await.unwrap();
    put(&second, instance("a", "a"));
    loop {
        if let BalanceEvent::Registry { status, .. } = events.recv().await.unwrap() {
            assert_eq!(status.parts[1].state, ViewState::Live);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_half_refuses_is_refused_with_its_name() {
    let memory = Memory::new();
    let fixed = tower_roster::registry::connect("fixed:10.0.0.1:80").unwrap();
    let both = Merge::new(of(&memory), fixed).build().unwrap();
    let error = both.register(instance("a", "a")).unwrap_err();
    assert_eq!(
        (error.kind(), error.backend()),
        (ErrorKind::Invalid, "fixed")
    );
    tokio::time::sleep(SECOND * 10).await;
    assert!(
        memory.instances("web").is_empty(),
        "not even in the other one"
    );
    let error = both.watch(Query::new(" ")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn two_pairs_make_a_pair() {
    let memories = [(); 3].map(|()| Memory::new());
    let [first, second, third] = &memories;
    for (memory, id) in [(first, "a"), (second, "b"), (third, "c")] {
        put(memory, instance(id, id));
    }
    let inner = merge(first, second);
    let outer = Merge::new(inner, of(third)).build().unwrap();
    let mut watch = outer.watch("web").unwrap();
    let view = until(&mut watch, "all", |v| is(v, "abc")).await;
    assert_eq!(view.parts[0].view.parts.len(), 2);
}
