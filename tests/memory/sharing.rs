//! Many handles, many watchers, generations, and the end of the tasks.

use std::future::pending;

use tokio::time::{sleep, timeout};
use tower_roster::registry::{Query, connect};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_watchers_get_the_latest_state() {
    let memory = Memory::new();
    let registry = registry(&memory);
    let mut watches: Vec<_> = (0..1_000)
        .map(|n| {
            let query = Query::new("web").tag(format!("t{}", n % 10));
            // Other handles have watches of their own.
            if n % 2 == 0 {
                registry.watch(query).unwrap()
            } else {
                Registry::new(memory.clone()).watch(query).unwrap()
            }
        })
        .collect();
    for round in 0..50_u16 {
        let mut all = instance("a").weight(round);
        all.tags = (0..10).map(|n| format!("t{n}")).collect();
        memory.register(all).unwrap();
        tokio::task::yield_now().await;
    }
    for watch in &mut watches {
        let newest = watch.wait_for(|view| {
            let first = view.instances.iter().next();
            first.is_some_and(|i| i.weight.get() == 49)
        });
        timeout(SECOND * 5, newest).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_finds_the_latest_and_no_queue() {
    let memory = Memory::new();
    let mut watch = registry(&memory).watch("web").unwrap();
    watch.resolved().await.unwrap();
    for weight in 0..10_000 {
        memory.register(instance("a").weight(weight)).unwrap();
    }
    memory.register(unchecked("b")).unwrap();
    sleep(SECOND).await;
    let view = watch.changed().await.unwrap();
    assert_eq!(ids(&view), ["a", "b"]);
    assert_eq!(view.instances.iter().next().unwrap().weight.get(), 9_999);
    let more = timeout(SECOND * 3, watch.changed()).await;
    assert!(more.is_err(), "nothing is left to tell");
}

#[tokio::test(start_paused = true)]
async fn tags_select_instances() {
    let memory = Memory::new();
    let registry = registry(&memory);
    memory.register(instance("a").tag("v1")).unwrap();
    memory.register(instance("b").tag("v1").tag("v2")).unwrap();
    for (tags, wanted) in [
        (vec![], vec!["a", "b"]),
        (vec!["v1"], vec!["a", "b"]),
        (vec!["v1", "v2"], vec!["b"]),
    ] {
        let query = tags.into_iter().fold(Query::new("web"), Query::tag);
        until(&mut registry.watch(query).unwrap(), &wanted).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_index_grows_with_each_change_and_only_then() {
    let memory = Memory::new();
    let mut last = memory.index();
    let mut grew = |what: &str, expected: bool| {
        let index = memory.index();
        assert_eq!(index > last, expected, "{what}");
        last = index;
    };
    memory.register(ttl("a", SECOND)).unwrap();
    grew("a registration", true);
    memory.register(ttl("a", SECOND)).unwrap();
    grew("the same registration", false);
    memory.heartbeat("a");
    grew("a heartbeat", false);
    memory.register(ttl("a", SECOND * 2)).unwrap();
    grew("another check", true);
    memory.deregister("a");
    grew("a deregistration", true);
    memory.deregister("a");
    grew("a deregistration of nothing", false);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_registers_again_has_another_generation() {
    let memory = Memory::new();
    let generation = || memory.instances("web")[0].generation;
    let (one, two) = (registry(&memory), registry(&memory));

    let mut first = one.register(instance("a")).unwrap();
    first.registered().await;
    assert_eq!(generation(), 1);
    first.update(instance("a").weight(7)).await.unwrap();
    let held = &memory.instances("web")[0];
    assert_eq!(
        (held.generation, held.weight.get()),
        (1, 7),
        "an update is the same process"
    );
    let second = two.register(instance("a").weight(7)).unwrap();
    second.registered().await;
    assert_eq!(generation(), 2, "another process took the id");
    first.deregister().await.unwrap();
    assert_eq!(
        memory.instances("web").len(),
        1,
        "the old one takes only itself out"
    );
    second.deregister().await.unwrap();
    assert!(memory.instances("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_id_moves_to_the_service_it_registers_under() {
    let memory = Memory::new();
    memory.register(unchecked("a")).unwrap();
    let mut moved = instance("a");
    moved.service = "other".into();
    memory.register(moved).unwrap();
    assert!(memory.instances("web").is_empty());
    assert_eq!(memory.instances("other")[0].id(), "a");
    let counts: Vec<_> = memory
        .services()
        .into_iter()
        .map(|(s, n)| (s.to_string(), n))
        .collect();
    assert_eq!(
        counts,
        [("other".to_owned(), 1), ("web".to_owned(), 0)],
        "a service that was held is known on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_named_registry_lives_as_long_as_any_handle_or_registration() {
    let url = "memory:lives-as-long";
    let registration = connect(url).unwrap().register(instance("a")).unwrap();
    registration.registered().await;
    let mut watch = connect(url).unwrap().watch("web").unwrap();
    until(&mut watch, &["a"]).await;
    let other = connect("memory:another").unwrap();
    let view = other
        .watch("web")
        .unwrap()
        .resolved()
        .await
        .unwrap()
        .instances;
    assert!(view.is_empty(), "names are apart");
    registration.deregister().await.unwrap();
    drop(watch);
    // The watch's task ends when it next runs.
    sleep(SECOND).await;
    let view = connect(url).unwrap().watch("web").unwrap().resolved().await;
    assert_eq!(
        view.unwrap().state,
        tower_roster::registry::ViewState::Missing,
        "with the last handle the state went"
    );
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_their_last_handle() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let memory = Memory::new();
    let registry = registry(&memory);
    let registration = registry.register(instance("a")).unwrap();
    let watch = registry.watch("web").unwrap();
    let second = watch.clone();
    sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 1);
    drop(watch);
    sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 1, "a clone still listens");
    drop(second);
    sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 0);
    drop(registration);
    sleep(SECOND).await;
    assert!(
        memory.instances("web").is_empty(),
        "dropping a registration deregisters"
    );
    memory
        .register(Announcement::new(instance("b")).health(Health::tcp()))
        .unwrap();
    drop(registry);
    drop(memory);
    sleep(SECOND).await;
    assert_eq!(tasks(), before, "no task is left behind");
}

#[test]
fn a_registry_survives_the_runtime_it_was_made_in() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let memory = Memory::new();
    // Outside of any runtime, nothing expires yet.
    memory.register(ttl("a", SECOND / 10)).unwrap();
    let first = runtime();
    first.block_on(async {
        memory.register(ttl("b", SECOND / 10)).unwrap();
        tokio::task::yield_now().await;
    });
    drop(first);
    runtime().block_on(async {
        let mut watch = registry(&memory).watch("web").unwrap();
        until(&mut watch, &[]).await;
        let _: Result<(), _> = timeout(SECOND / 100, pending()).await;
    });
}

#[tokio::test(start_paused = true)]
async fn changes_that_go_on_are_seen_together_and_the_first_at_once() {
    let memory = Memory::new();
    let mut watch = registry(&memory).watch("web").unwrap();
    watch.resolved().await.unwrap();
    sleep(SECOND).await;
    memory.register(instance("a")).unwrap();
    let began = tokio::time::Instant::now();
    watch.changed().await.unwrap();
    assert!(began.elapsed() < SECOND / 100, "the first is seen at once");
    let writes = async {
        for weight in 0..1_000 {
            memory.register(instance("a").weight(weight)).unwrap();
            sleep(SECOND / 500).await;
        }
    };
    let looks = async {
        let mut looks = 0;
        while timeout(SECOND, watch.changed()).await.is_ok() {
            looks += 1;
        }
        looks
    };
    let ((), looks) = tokio::join!(writes, looks);
    assert!((18..=24).contains(&looks), "{looks} lists in two seconds");
    let last = watch.view().instances.iter().next().unwrap().weight.get();
    assert_eq!(last, 999);
}

/// Consul finds names regardless of case; see `names_are_found_regardless_of_case` there.
#[tokio::test(start_paused = true)]
async fn names_are_exact() {
    let memory = Memory::new();
    let registry = registry(&memory);
    let address = || "127.0.0.1:80".parse().unwrap();
    memory
        .register(Instance::new("Web", "a", address()))
        .unwrap();
    memory
        .register(Instance::new("web", "A", address()))
        .unwrap();
    for (name, found) in [("Web", vec!["a"]), ("web", vec!["A"]), ("WEB", vec![])] {
        let mut watch = registry.watch(name).unwrap();
        let view = watch.resolved().await.unwrap();
        assert_eq!(ids(&view), found, "{name}");
    }
}
