//! A scripted server, for what real ones cannot be made to do.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower_roster::{error::ErrorKind, registry::ViewState};
use tracing::Level;

use super::{log::Log, support::rt, *};

const CREATE: i32 = 1;
const EXISTS: i32 = 3;
const GET: i32 = 4;
const SYNC: i32 = 9;
const PING: i32 = 11;
const CHILDREN: i32 = 12;
const REMOVE_WATCHES: i32 = 18;
const AUTH: i32 = 100;

const NO_NODE: i32 = -101;

/// A request that arrived.
#[derive(Clone, Debug)]
struct Asked {
    connection: usize,
    op: i32,
    path: String,
    /// The byte after the path: whether a watch is armed.
    watch: bool,
}

/// What the server does with a request.
enum Act {
    /// Answers with this transaction id, error and body.
    Answer(i64, i32, Vec<u8>),
    /// Sends these bytes, a whole frame or not.
    Raw(Vec<u8>),
    Event(i32, &'static str),
    Close,
}

type Script = dyn FnMut(&Asked) -> Vec<Act> + Send;

/// A server that gives sessions, answers syncs and pings, and leaves all else to its script.
struct Fake {
    addr: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// What the next connections get instead of a session.
    greetings: Arc<Mutex<VecDeque<Vec<u8>>>>,
    /// The ids that were asked for.
    sessions: Arc<Mutex<Vec<i64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn int(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn bytes(data: &[u8]) -> Vec<u8> {
    [&int(i32::try_from(data.len()).unwrap()), data].concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    bytes(body)
}

fn answer(xid: i32, zxid: i64, code: i32, body: &[u8]) -> Vec<u8> {
    framed(&[&int(xid), &zxid.to_be_bytes()[..], &int(code), body].concat())
}

fn stat(czxid: i64, owner: i64) -> Vec<u8> {
    let longs = [czxid, czxid, 0, 0].map(i64::to_be_bytes).concat();
    let ints = [0, 0, 0].map(i32::to_be_bytes).concat();
    let end = [int(0), int(0), czxid.to_be_bytes().to_vec()].concat();
    [longs, ints, owner.to_be_bytes().to_vec(), end].concat()
}

fn list(names: &[&str]) -> Vec<u8> {
    let count = int(i32::try_from(names.len()).unwrap());
    let names: Vec<u8> = names
        .iter()
        .flat_map(|name| bytes(name.as_bytes()))
        .collect();
    [count, names, stat(5, 0)].concat()
}

fn node(service: &str, id: &str, owner: i64) -> Vec<u8> {
    [bytes(&record(service, id)), stat(7, owner)].concat()
}

fn session(timeout_ms: i32, id: i64) -> Vec<u8> {
    let password = bytes(b"hush-password-16");
    framed(
        &[
            int(0),
            int(timeout_ms),
            id.to_be_bytes().to_vec(),
            password,
            vec![0],
        ]
        .concat(),
    )
}

impl Fake {
    async fn start(
        timeout_ms: i32,
        script: impl FnMut(&Asked) -> Vec<Act> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = listener.into_std().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let greetings = Arc::new(Mutex::new(VecDeque::new()));
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let serving = Serving {
            asked: Arc::clone(&asked),
            greetings: Arc::clone(&greetings),
            sessions: Arc::clone(&sessions),
            script,
            timeout_ms,
        };
        let task = rt().spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let count = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let connection = count.fetch_add(1, SeqCst);
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream, connection).await });
            }
        });
        Self {
            addr,
            asked,
            greetings,
            sessions,
            task,
        }
    }

    fn url(&self) -> String {
        format!("zk://{}?session_timeout=2s", self.addr)
    }

    fn asked(&self, op: i32) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|asked| asked.op == op)
            .cloned()
            .collect()
    }

    fn all(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn greet_next(&self, greeting: Vec<u8>) {
        self.greetings.lock().unwrap().push_back(greeting);
    }
}

#[derive(Clone)]
struct Serving {
    asked: Arc<Mutex<Vec<Asked>>>,
    greetings: Arc<Mutex<VecDeque<Vec<u8>>>>,
    sessions: Arc<Mutex<Vec<i64>>>,
    script: Arc<Mutex<Box<Script>>>,
    timeout_ms: i32,
}

impl Serving {
    async fn serve(self, mut stream: TcpStream, connection: usize) -> Option<()> {
        let hello = frame(&mut stream).await?;
        let id = i64::from_be_bytes(hello.get(16..24)?.try_into().ok()?);
        assert_eq!(hello[4..12], [0; 8], "no transaction is named");
        self.sessions.lock().unwrap().push(id);
        let greeting = self.greetings.lock().unwrap().pop_front();
        let given = if id == 0 { 77 } else { id };
        let greeting = greeting.unwrap_or_else(|| session(self.timeout_ms, given));
        stream.write_all(&greeting).await.ok()?;
        loop {
            let frame = frame(&mut stream).await?;
            let int_at = |at: usize| {
                let bytes = frame.get(at..at + 4)?;
                Some(i32::from_be_bytes(bytes.try_into().ok()?))
            };
            let (xid, op) = (int_at(0)?, int_at(4)?);
            let length = int_at(8).and_then(|length| usize::try_from(length).ok());
            let path = length.and_then(|length| frame.get(12..12 + length));
            let path = String::from_utf8_lossy(path.unwrap_or_default()).into_owned();
            let asked = Asked {
                connection,
                op,
                watch: frame.get(12 + path.len()) == Some(&1),
                path,
            };
            self.asked.lock().unwrap().push(asked.clone());
            let acts = match op {
                PING => vec![Act::Raw(answer(-2, 0, 0, &[]))],
                SYNC => vec![Act::Answer(0, 0, bytes(b"/"))],
                _ => (self.script.lock().unwrap())(&asked),
            };
            for act in acts {
                let bytes = match act {
                    Act::Answer(zxid, code, body) => answer(xid, zxid, code, &body),
                    Act::Raw(bytes) => bytes,
                    Act::Event(kind, path) => {
                        let event = [int(kind), int(3), bytes(path.as_bytes())].concat();
                        answer(-1, -1, 0, &event)
                    }
                    Act::Close => return None,
                };
                stream.write_all(&bytes).await.ok()?;
            }
        }
    }
}

async fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

/// Answers a `getData` of the service `web`.
fn node_of(asked: &Asked) -> Vec<Act> {
    let id = asked.path.rsplit('/').next().unwrap_or_default();
    vec![Act::Answer(100, 0, node("web", id, 0))]
}

/// ZD1.
#[tokio::test]
async fn a_change_between_the_event_and_the_list_is_not_lost() {
    let mut lists = 0;
    let fake = Fake::start(2_000, move |asked| match asked.op {
        CHILDREN => {
            lists += 1;
            let event = Act::Event(4, "/services/web");
            match lists {
                1 => vec![Act::Answer(100, 0, list(&["a"])), event],
                // A change after this list, before its nodes are read.
                2 => vec![Act::Answer(100, 0, list(&["a", "b"])), event],
                _ => vec![Act::Answer(100, 0, list(&["a", "b", "c"]))],
            }
        }
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "all", |v| ids(v) == ["a", "b", "c"]).await;
    assert!(fake.asked(CHILDREN).iter().all(|asked| asked.watch));
    assert!(fake.asked(GET).iter().all(|asked| asked.watch));
    let read = fake.asked(GET).len();
    assert_eq!(read, 3, "each node once");
}

/// ZD10, ZD12: nothing but what 3.4 knows, and a `sync` at the start of each connection.
#[tokio::test]
async fn only_requests_that_every_version_knows_are_sent() {
    let fake = Fake::start(2_000, |asked| match asked.op {
        CHILDREN if asked.connection == 0 => {
            vec![
                Act::Answer(100, 0, list(&["a"])),
                Act::Event(2, "/services/web/a"),
                Act::Close,
            ]
        }
        CHILDREN => vec![Act::Answer(100, 0, list(&["a"]))],
        // As servers before 3.5 do.
        REMOVE_WATCHES => vec![Act::Answer(0, -6, Vec::new()), Act::Close],
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    let other = registry.watch("other").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let known = [CREATE, 2, EXISTS, GET, 5, SYNC, PING, CHILDREN, 14, AUTH];
    let all = fake.all();
    assert!(all.iter().all(|asked| known.contains(&asked.op)), "{all:?}");
    for connection in 0..2 {
        let first = all.iter().find(|asked| asked.connection == connection);
        assert_eq!(first.unwrap().op, SYNC);
    }
    // What they do not know ends a connection once, and is not sent again.
    drop(other);
    let removed = || fake.asked(REMOVE_WATCHES).len();
    super::support::eventually(LONG, "it was tried", || async { removed() > 0 }).await;
    let again = registry.watch("again").unwrap();
    tokio::time::sleep(SECOND).await;
    let tried = removed();
    drop(again);
    tokio::time::sleep(SECOND).await;
    assert_eq!(removed(), tried);
}

/// ZD6.
#[tokio::test]
async fn a_read_that_fails_in_part_changes_nothing() {
    let mut failures = 3;
    let fake = Fake::start(2_000, move |asked| match asked.op {
        CHILDREN => vec![Act::Answer(100, 0, list(&["a", "b"]))],
        GET if asked.path.ends_with("/b") && failures > 0 => {
            failures -= 1;
            // A system error.
            vec![Act::Answer(100, -1, Vec::new())]
        }
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "something", |v| {
        !v.instances.is_empty() || v.error.is_some()
    })
    .await;
    assert_eq!((view.state, view.instances.len()), (ViewState::Pending, 0));
    let view = until(&mut watch, "a set", |v| !v.instances.is_empty()).await;
    assert_eq!(ids(&view), ["a", "b"]);
}

/// ZD11, ZD19.
#[tokio::test]
async fn an_expired_session_is_replaced_at_once() {
    let fake = Fake::start(2_000, |asked| match asked.op {
        // The first connection ends with its first list.
        CHILDREN if asked.connection == 0 => {
            vec![Act::Answer(100, 0, list(&["a"])), Act::Close]
        }
        CHILDREN => vec![Act::Answer(101, 0, list(&["a"]))],
        _ => node_of(asked),
    })
    .await;
    fake.greet_next(session(2_000, 77));
    fake.greet_next(session(0, 0));
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    let start = Instant::now();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
    let sessions = fake.sessions.lock().unwrap().clone();
    assert_eq!(sessions[..3], [0, 77, 0], "the former one is tried first");
}

/// ZD12, ZD20.
#[tokio::test]
async fn transactions_that_went_back_are_in_doubt() {
    let fake = Fake::start(2_000, |asked| match (asked.op, asked.connection) {
        (CHILDREN, 0) => vec![Act::Answer(100, 0, list(&["a"]))],
        (GET, 0) => {
            let mut acts = node_of(asked);
            acts.push(Act::Close);
            acts
        }
        (CHILDREN | EXISTS, 1) => vec![Act::Answer(3, NO_NODE, Vec::new())],
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let view = until(&mut watch, "the doubt", |v| {
        let doubtful = v.error.as_ref().map(|error| error.kind());
        doubtful == Some(ErrorKind::Doubtful)
    })
    .await;
    assert_eq!(ids(&view), ["a"]);
    assert!(view.error.unwrap().to_string().contains("went back"));
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(ids(&watch.view()), ["a"], "it is held");
}

/// ZD18.
#[tokio::test]
async fn a_silent_watch_is_confirmed_by_the_state_of_its_node() {
    let fake = Fake::start(8_000, |asked| match asked.op {
        CHILDREN => vec![Act::Answer(100, 0, list(&["a"]))],
        EXISTS => vec![Act::Answer(200, 0, stat(5, 0))],
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    let first = until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    super::support::eventually(SECOND * 22, "the confirmation", || async {
        watch.view().confirmed > first.confirmed
    })
    .await;
    assert_eq!(watch.view().state, ViewState::Live);
    let lists = fake.asked(CHILDREN).len();
    assert_eq!(
        (lists, fake.asked(GET).len()),
        (1, 1),
        "nothing is read again"
    );
    assert_eq!(fake.asked(SYNC).len(), 2, "the leader confirms it");
}

/// ZD21, ZR9: pings, and the silence after which a server is given up, follow what it grants.
#[tokio::test]
async fn the_timeout_that_the_server_grants_is_used() {
    let fake = Fake::start(1_200, |asked| match (asked.op, asked.connection) {
        (CHILDREN, _) => vec![Act::Answer(100, 0, list(&["a"]))],
        // Never answered.
        (EXISTS | CREATE, 0) => Vec::new(),
        (CREATE, _) => vec![Act::Answer(100, 0, bytes(b"/services/web/b"))],
        (EXISTS, _) => vec![Act::Answer(100, 0, stat(9, 77))],
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&format!("zk://{}?session_timeout=60s", fake.addr));
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    tokio::time::sleep(SECOND).await;
    let pings = fake.asked(PING);
    assert!(
        (3..=6).contains(&pings.len()),
        "{} in a second",
        pings.len()
    );
    let start = Instant::now();
    let registration = registry.register(instance("web", "b")).unwrap();
    registration.registered().await;
    // Three times 2/5 of 1.2 s, because the server answers pings meanwhile.
    assert!(start.elapsed() < SECOND * 4, "{:?}", start.elapsed());
}

/// ZR2.
#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_found_again() {
    let written = Arc::new(Mutex::new(Vec::<u8>::new()));
    let fake = Fake::start(2_000, move |asked| match (asked.op, asked.connection) {
        (CREATE, 0) => vec![Act::Close],
        (CREATE, _) => vec![Act::Answer(100, -110, Vec::new())],
        // Ours, with another record than the one that is registered, because its time differs.
        (GET, _) => vec![Act::Answer(100, 0, node("web", "a", 77))],
        (5 | EXISTS, _) => vec![Act::Answer(100, 0, stat(7, 77))],
        other => panic!("{other:?} {written:?}"),
    })
    .await;
    let registry = connect(&fake.url());
    let registration = registry.register(instance("web", "a")).unwrap();
    tokio::time::timeout(SECOND * 5, registration.registered())
        .await
        .unwrap();
    assert_eq!(fake.asked(14).len(), 0, "it is no ghost");
    let sessions = fake.sessions.lock().unwrap().clone();
    assert_eq!(sessions, [0, 77], "the session went on");
}

/// Bytes that no server sends: each costs a connection, and never the set.
#[tokio::test]
async fn garbage_of_every_kind_costs_a_connection_and_no_instance() {
    let giant = 100 << 20;
    let kinds: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"\x15\x03\x01\x00\x02\x02\x46\0\0\0\0\0\0\0\0".to_vec(),
        int(-1),
        int(i32::MAX),
        [int(giant), vec![b'x'; 1_000]].concat(),
        framed(b""),
        framed(b"\0\0"),
        framed(&[0; 15]),
        // An answer to nothing, and to another request.
        answer(99, 100, 0, &list(&[])),
        answer(0, 100, 0, &[]),
        // Lists: cut off, of too many names, of names that are too long, and with no state.
        answer(4, 100, 0, &list(&["a"])[..40]),
        answer(4, 100, 0, &int(i32::MAX)),
        answer(4, 100, 0, &int(100_001)),
        answer(4, 100, 0, &[int(1), int(i32::MAX)].concat()),
        answer(4, 100, 0, &[int(1), bytes(b"a")].concat()),
        answer(4, 100, 0, &[]),
        // Events: cut off, and of a path that is not UTF-8.
        answer(-1, -1, 0, &int(4)),
        answer(-1, -1, 0, &[int(4), int(3), bytes(b"\xff\xfe")].concat()),
        // Errors that nobody knows, and the end of the session.
        answer(4, 100, -9_999, &[]),
        answer(4, 100, -112, &[]),
        answer(4, 100, -118, &[]),
        answer(-4, 0, -115, &[]),
    ];
    let count = kinds.len();
    let mut next = kinds.into_iter();
    let mut lists = 0_i64;
    let fake = Fake::start(2_000, move |asked| match asked.op {
        CHILDREN => {
            lists += 1;
            if lists % 2 == 0
                && let Some(garbage) = next.next()
            {
                // It is the fourth request of its connection: sync, list, node, list.
                return vec![Act::Raw(garbage), Act::Close];
            }
            let good = Act::Answer(100 + lists, 0, list(&["a"]));
            vec![good, Act::Event(4, "/services/web")]
        }
        _ => node_of(asked),
    })
    .await;
    let registry = connect(&fake.url());
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let never_empty = never_empty(&watch);
    super::support::eventually(LONG, "all kinds were sent", || async {
        match fake.asked(CHILDREN).len() {
            lists if lists > 2 * count => Ok(()),
            lists => Err(lists),
        }
    })
    .await;
    until(&mut watch, "the instance", |v| v.state == ViewState::Live).await;
    assert!(!never_empty.is_finished());
    never_empty.abort();
}

/// A handshake that is none, one after the other, and no hot loop.
#[tokio::test]
async fn a_server_that_greets_with_garbage_is_not_asked_without_a_pause() {
    let fake = Fake::start(2_000, |asked| match asked.op {
        CHILDREN => vec![Act::Answer(100, 0, list(&["a"]))],
        _ => node_of(asked),
    })
    .await;
    for greeting in [
        Vec::new(),
        int(-1),
        framed(b"x"),
        b"SSH-2.0-OpenSSH".to_vec(),
        // Expired, although there was none.
        session(0, 0),
        session(-5, 9),
    ] {
        fake.greet_next(greeting);
    }
    let registry = connect(&fake.url());
    let start = Instant::now();
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let tries = fake.sessions.lock().unwrap().len();
    assert_eq!(tries, 7);
    assert!(start.elapsed() > SECOND, "{:?}", start.elapsed());
    println!("after {:?}", start.elapsed());
}

/// Servers that end each connection as soon as it has a session (a limit of connections, for one).
#[tokio::test]
async fn connections_that_end_at_once_are_no_hot_loop() {
    let fake = Fake::start(2_000, |_| vec![Act::Close]).await;
    let registry = connect(&fake.url());
    let watch = registry.watch("web").unwrap();
    tokio::time::sleep(SECOND * 4).await;
    let tries = fake.sessions.lock().unwrap().len();
    assert!((3..=20).contains(&tries), "{tries} in 4 s");
    assert!(watch.view().error.is_some());
}

/// A refused login is told, and neither the password nor that of the session is.
#[tokio::test]
async fn a_refused_login_is_told_without_secrets() {
    let (log, guard) = Log::start(Level::TRACE);
    let fake = Fake::start(2_000, |asked| match asked.op {
        AUTH => vec![Act::Raw(answer(-4, 0, -115, &[])), Act::Close],
        _ => vec![Act::Close],
    })
    .await;
    let url = fake.url().replace("zk://", "zk://me:hush-hush@");
    let registry = connect(&url);
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "the refusal", |v| v.error.is_some()).await;
    drop(guard);
    let error = view.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let shown = format!("{} {error:?} {registry:?}", log.take());
    assert!(shown.contains("AuthFailed"), "{shown}");
    assert!(!shown.contains("hush"), "{shown}");
}
