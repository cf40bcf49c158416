//! Shared watches, lingering ones, several sources, and the end.

use std::sync::{Arc, Mutex, mpsc};

use tower_roster::{
    RegistryError,
    error::ErrorKind,
    registry::{Backend, Lease, Query, Source, ViewState},
};

use super::{
    scripted::{Asked, Scripted, Step},
    *,
};

#[tokio::test(start_paused = true)]
async fn equal_queries_share_one_watch_and_others_do_not() {
    let memory = Memory::new();
    let registry = registry(&memory, WatchSettings::default());
    let watches: Vec<_> = (0..10)
        .map(|n| {
            registry
                .clone()
                .watch(Query::new("web").tag(format!("{}", n % 2)))
                .unwrap()
        })
        .collect();
    tokio::time::sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 2);
    drop(watches);
    tokio::time::sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_lingers_for_its_time_while_the_registry_lives() {
    let memory = Memory::new();
    let settings = WatchSettings::default().linger(SECOND * 10);
    let registry = registry(&memory, settings);
    memory.register(unchecked("a")).unwrap();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "live", |v| ids(v) == ["a"]).await;
    drop(watch);
    tokio::time::sleep(SECOND * 9).await;
    let watch = registry.watch("web").unwrap();
    assert_eq!(watch.view().state, ViewState::Live, "it was kept warm");
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(memory.watchers("web"), 1, "it is in use again");
    drop(watch);
    tokio::time::sleep(SECOND * 11).await;
    assert_eq!(memory.watchers("web"), 0);

    drop(registry.watch("web").unwrap());
    tokio::time::sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 1);
    drop(registry);
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        memory.watchers("web"),
        0,
        "nothing lingers without a registry"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_without_its_registry() {
    let memory = Memory::new();
    let settings = WatchSettings::default().linger(SECOND * 10);
    let registry = registry(&memory, settings);
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Missing).await;
    // Dropped and taken again within the linger time, just before the registry goes.
    drop(watch);
    tokio::time::sleep(SECOND).await;
    let mut watch = registry.watch("web").unwrap();
    drop(registry);
    tokio::time::sleep(SECOND).await;
    memory.register(unchecked("a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    drop(watch);
    tokio::time::sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 0);
}

#[tokio::test(start_paused = true)]
async fn of_several_sources_the_first_with_instances_is_used() {
    let backend = Scripted::several([
        vec![
            Step::After(SECOND, &Step::Nothing { exists: true }),
            Step::After(Duration::from_secs(10), &Step::List(&["near"])),
            Step::After(Duration::from_secs(10), &Step::Fail(ErrorKind::Unreachable)),
            Step::Hang,
        ],
        vec![Step::List(&["far"]), Step::Hang],
    ]);
    let mut watch = Registry::new(backend).watch("web").unwrap();
    let start = tokio::time::Instant::now();
    until(&mut watch, "the second", |v| ids(v) == ["far"]).await;
    assert!(
        start.elapsed() >= SECOND,
        "a first that is awaited bars the second"
    );
    until(&mut watch, "the first", |v| ids(v) == ["near"]).await;
    let view = until(&mut watch, "its failure", |v| v.state == ViewState::Stale).await;
    assert_eq!(ids(&view), ["near"]);
}

#[tokio::test(start_paused = true)]
async fn of_several_sources_the_used_one_tells_its_age_and_the_others_nothing() {
    let backend = Scripted::several([
        vec![
            Step::List(&["near"]),
            Step::After(Duration::from_secs(10), &Step::Unchanged),
        ],
        vec![
            Step::List(&["far"]),
            Step::After(Duration::from_secs(1), &Step::List(&["far", "more"])),
            Step::After(Duration::from_secs(1), &Step::List(&["far"])),
            Step::After(Duration::from_secs(1), &Step::List(&["far", "more"])),
            Step::Hang,
        ],
    ]);
    let mut watch = Registry::new(backend).watch("web").unwrap();
    until(&mut watch, "the first", |v| ids(v) == ["near"]).await;
    let news = tokio::time::timeout(SECOND * 95, watch.changed()).await;
    assert!(news.is_err(), "what is not used is no news: {news:?}");
    let age = watch.view().age().unwrap();
    assert!(age <= SECOND * 10, "confirmed every 10 s, and {age:?} old");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_ends_before_it_began_leaves_nothing() {
    let backend =
        Scripted::new([Step::Hang]).lease([Step::After(SECOND, &Step::Unchanged), Step::Unchanged]);
    let registry = Registry::new(backend.clone());
    let registration = registry.register(unchecked("a")).unwrap();
    tokio::time::sleep(SECOND / 2).await;
    registration.deregister().await.unwrap();
    let asked: Vec<_> = backend.asked().into_iter().map(|(what, _)| what).collect();
    assert_eq!(
        asked,
        [Asked::Register, Asked::Deregister],
        "what is under way arrives first"
    );
}

/// Prepares a watch of `slow` only after a signal.
#[derive(Debug)]
struct Gated {
    memory: Memory,
    entered: mpsc::Sender<()>,
    signal: Mutex<mpsc::Receiver<()>>,
}

impl Backend for Gated {
    fn name(&self) -> Arc<str> {
        self.memory.name()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        if &**query.service() == "slow" {
            self.entered.send(()).unwrap();
            let signal = self.signal.lock().unwrap().recv_timeout(SECOND * 5);
            signal.expect("another watch can begin meanwhile");
        }
        Backend::watch(&self.memory, query)
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        Backend::register(&self.memory, announcement)
    }
}

#[tokio::test]
async fn a_backend_that_is_slow_to_begin_one_watch_holds_up_no_other() {
    let memory = Memory::new();
    let (entered, inside) = mpsc::channel();
    let (signal, signals) = mpsc::channel();
    let registry = Registry::new(Gated {
        memory: memory.clone(),
        entered,
        signal: Mutex::new(signals),
    });
    let slow = |registry: Registry| tokio::task::spawn_blocking(move || registry.watch("slow"));
    let first = slow(registry.clone());
    inside.recv_timeout(SECOND * 5).unwrap();
    let second = slow(registry.clone());
    registry.watch("other").unwrap();
    for _ in 0..2 {
        signal.send(()).unwrap();
    }
    let watches = (
        first.await.unwrap().unwrap(),
        second.await.unwrap().unwrap(),
    );
    assert_eq!(memory.watchers("slow"), 1, "equal queries share one watch");
    drop(watches);
}
