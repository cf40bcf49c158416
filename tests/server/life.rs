//! The life of an announced server, in virtual time.

use std::{
    future::{Future, pending, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tower_roster::{
    Registry, RegistryError,
    error::ErrorKind,
    registry::{Announcement, Backend, BoxFuture, Lease, Query, Renewal, Source, memory::Memory},
    server::{AnnouncedServer, Leave, ServerSettings, ServerState},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn settings() -> ServerSettings {
    ServerSettings::new("web").id("web-1")
}

/// A registry, and a server in it that leaves when the sender is used.
fn scene(settings: ServerSettings) -> (Memory, AnnouncedServer, oneshot::Sender<()>) {
    let memory = Memory::new();
    let (server, leave) = announced(&Registry::new(memory.clone()), settings);
    (memory, server, leave)
}

fn announced(
    registry: &Registry,
    settings: ServerSettings,
) -> (AnnouncedServer, oneshot::Sender<()>) {
    let listening: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let server = registry.announce(settings, &listening).unwrap();
    let (tell, told) = oneshot::channel::<()>();
    let server = server.leave_on(async {
        if told.await.is_err() {
            pending().await
        }
    });
    (server, tell)
}

fn ids(memory: &Memory) -> Vec<String> {
    let instances = memory.instances("web");
    instances.iter().map(|i| i.id().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_server_is_announced_once_it_waits_for_connections() {
    let (memory, server, leave) = scene(settings());
    let handle = server.handle();
    assert_eq!(handle.state(), ServerState::Starting);
    let seen = memory.clone();
    let serve = tokio::spawn(server.serve(async move |leave: Leave| {
        assert!(ids(&seen).is_empty(), "nothing before it waits");
        leave.await;
    }));
    assert!(ids(&memory).is_empty(), "nothing before it serves");
    handle.passing().await.unwrap();
    assert_eq!(ids(&memory), ["web-1"]);
    assert_eq!(handle.state(), ServerState::Announced);
    assert_eq!(
        handle.instance().unwrap().address.to_string(),
        "127.0.0.1:8080"
    );
    leave.send(()).unwrap();
    let left = serve.await.unwrap().unwrap();
    assert!(
        left.announced && left.finished && left.deregistered.is_ok(),
        "{left:?}"
    );
    assert_eq!(handle.state(), ServerState::Ended);
    handle.passing().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn it_leaves_the_registry_then_serves_until_all_have_noticed_then_finishes() {
    let (memory, server, leave) = scene(settings().notice(3 * SECOND));
    let handle = server.handle();
    let at = Arc::new(Mutex::new(None));
    let told = Arc::clone(&at);
    let serve = tokio::spawn(server.serve(async move |leave: Leave| {
        leave.await;
        *told.lock().unwrap() = Some(Instant::now());
        sleep(2 * SECOND).await;
    }));
    handle.passing().await.unwrap();
    let start = Instant::now();
    leave.send(()).unwrap();
    handle.deregistered().await.unwrap();
    assert!(ids(&memory).is_empty(), "first of all");
    assert_eq!(start.elapsed(), Duration::ZERO);
    handle.reached(ServerState::Finishing).await;
    assert_eq!(start.elapsed(), 3 * SECOND, "it has served for the notice");
    assert!(serve.await.unwrap().unwrap().finished);
    assert_eq!(at.lock().unwrap().unwrap() - start, 3 * SECOND);
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_finish_is_dropped_after_its_grace() {
    for drops_leave in [false, true] {
        let (_memory, server, leave) = scene(settings().notice(SECOND).grace(7 * SECOND));
        let handle = server.handle();
        let serve = tokio::spawn(server.serve(async move |leave: Leave| {
            let _kept = (!drops_leave).then_some(leave);
            pending::<()>().await;
        }));
        handle.passing().await.unwrap();
        let start = Instant::now();
        leave.send(()).unwrap();
        let left = serve.await.unwrap().unwrap();
        assert!(!left.finished && left.deregistered.is_ok(), "{left:?}");
        assert_eq!(start.elapsed(), 8 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_taken_out_and_its_error_is_told() {
    let (memory, server, _leave) = scene(settings().notice(3_600 * SECOND));
    let handle = server.handle();
    let serve = server.serve(async |_leave: Leave| {
        sleep(SECOND).await;
        Err::<(), _>(io::Error::other("out of descriptors"))
    });
    let start = Instant::now();
    let error = serve.await.unwrap_err();
    assert!(error.is_server() && !error.is_interrupted(), "{error:?}");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "out of descriptors");
    assert_eq!(start.elapsed(), SECOND, "nobody is served any more");
    assert!(ids(&memory).is_empty());
    assert_eq!(handle.state(), ServerState::Ended);
}

#[tokio::test(start_paused = true)]
async fn serving_that_is_dropped_at_any_point_takes_the_instance_out() {
    let stages = [
        ServerState::Starting,
        ServerState::Announced,
        ServerState::Leaving,
        ServerState::Deregistered,
        ServerState::Finishing,
    ];
    for stage in stages {
        let (memory, server, leave) = scene(settings().notice(SECOND).grace(SECOND));
        let handle = server.handle();
        let (alive, ended) = oneshot::channel::<()>();
        let mut serve = Box::pin(server.serve(async move |leave: Leave| {
            let _alive = alive;
            leave.await;
            pending::<()>().await;
        }));
        let mut leave = Some(leave);
        loop {
            // Some polls of it, up to the stage.
            let polled = timeout(10 * MS, serve.as_mut()).await;
            assert!(polled.is_err(), "it has not ended");
            if handle.state() >= stage {
                break;
            }
            if handle.state() == ServerState::Announced {
                leave.take().map(|leave| leave.send(()));
            }
        }
        let unconfirmed = [ServerState::Announced, ServerState::Leaving].contains(&handle.state());
        drop(serve);
        assert!(ended.await.is_err(), "the server is dropped with it");
        assert_eq!(handle.state(), ServerState::Ended);
        let told = handle.deregistered().await;
        assert_eq!(told.is_err(), unconfirmed, "{stage:?}: {told:?}");
        sleep(SECOND).await;
        assert!(ids(&memory).is_empty(), "{stage:?}");
        assert_eq!(memory.watchers("web"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_at_the_start_gets_the_server_later() {
    let (memory, server, leave) = scene(settings());
    memory.pause();
    let handle = server.handle();
    let served = Arc::new(AtomicBool::new(false));
    let serves = Arc::clone(&served);
    let serve = tokio::spawn(server.serve(async move |leave: Leave| {
        serves.store(true, Relaxed);
        leave.await;
    }));
    assert!(timeout(60 * SECOND, handle.passing()).await.is_err());
    assert!(served.load(Relaxed), "it serves without a registry");
    assert!(ids(&memory).is_empty());
    memory.resume();
    timeout(10 * SECOND, handle.passing())
        .await
        .unwrap()
        .unwrap();
    leave.send(()).unwrap();
    assert!(serve.await.unwrap().unwrap().announced);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_at_the_end_delays_the_leave_by_five_seconds_at_most() {
    let (memory, server, leave) = scene(settings().notice(SECOND));
    let handle = server.handle();
    let serve = tokio::spawn(server.serve(async |leave: Leave| leave.await));
    handle.passing().await.unwrap();
    memory.pause();
    let start = Instant::now();
    leave.send(()).unwrap();
    let left = serve.await.unwrap().unwrap();
    left.deregistered.unwrap_err();
    assert!(
        left.finished && start.elapsed() < 9 * SECOND,
        "{:?}",
        start.elapsed()
    );
}

/// Refuses to hold what it gets, as Consul does with a name of metadata that it does not like.
#[derive(Debug)]
struct Refusing;

impl Backend for Refusing {
    fn name(&self) -> Arc<str> {
        "refusing".into()
    }

    fn watch(&self, _: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        Err(RegistryError::new(ErrorKind::Invalid, "no watches"))
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        Ok(Box::new(Refused))
    }
}

struct Refused;

impl Lease for Refused {
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        let conflict = RegistryError::new(ErrorKind::Refused, "the id belongs to another instance");
        Box::pin(async { Err(conflict) })
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>> {
        Box::pin(async { Ok(Renewal::Lost) })
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async { Ok(()) })
    }

    fn renew_every(&self) -> Duration {
        SECOND
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_is_told_and_the_server_serves() {
    let (server, leave) = announced(&Registry::new(Refusing), settings());
    let handle = server.handle();
    let serve = tokio::spawn(server.serve(async |leave: Leave| leave.await));
    let error = handle.passing().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let text = error.to_string();
    for part in ["refusing", "\"web\"", "belongs to another"] {
        assert!(text.contains(part), "{text}");
    }
    sleep(60 * SECOND).await;
    assert!(!serve.is_finished(), "a registry never stops a server");
    leave.send(()).unwrap();
    assert!(!serve.await.unwrap().unwrap().announced);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_leaves_no_watch() {
    let (memory, server, leave) = scene(settings());
    let handle = server.handle();
    memory.pause();
    let serve = tokio::spawn(server.serve(async |leave: Leave| leave.await));
    for wait in [false, true] {
        if wait {
            memory.resume();
            handle.reached(ServerState::Announced).await;
            memory.pause();
        }
        let mut passing = pin!(handle.passing());
        let polled = poll_fn(|cx| Poll::Ready(passing.as_mut().poll(cx).is_ready()));
        assert!(!polled.await);
    }
    memory.resume();
    sleep(SECOND).await;
    assert_eq!(memory.watchers("web"), 0);
    leave.send(()).unwrap();
    serve.await.unwrap().unwrap();
}
