//! A proxy on loopback that fails the way networks and registries fail.
//!
//! It stands in front of any upstream address. [`Mode`] says what happens to connections; over
//! HTTP/1, [`Rule`]s say what happens to single requests and answers. Requests without a rule pass
//! unchanged, long polls included, and a client that closes closes its upstream connection too.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    http1::{Conn, RequestHead, encode, without_header},
    ports::Port,
    process::settle,
    rt,
};

/// What happens to connections, those already open included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forwards.
    Pass,
    /// Nothing listens: connections are refused, open ones closed.
    Refuse,
    /// Accepts, and forwards nothing in either direction; what was held back flows after the heal.
    Blackhole,
    /// Answers every connection with a reset, open ones too.
    Reset,
    /// Forwards the first half of what the upstream sends, and then resets; not over HTTP.
    Cut,
    /// Writes the [garbage](FaultProxy::garble) instead of answers, on open connections at once; not over
    /// HTTP.
    Garble,
}

/// What a proxy writes instead of an answer.
#[derive(Clone)]
pub struct Garbage {
    /// Makes the bytes from the request.
    pub bytes: Arc<MakeGarbage>,
    pub then: Then,
}

pub type MakeGarbage = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// How a connection goes on after the garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Close,
    Reset,
    /// It stays open, and nothing more comes.
    Hang,
    /// The same bytes again, for as long as the client takes them.
    Repeat,
}

/// What happens to the requests that match, or to their answers.
///
/// Actions on requests take effect when a request arrives: a long poll that is already upstream
/// is not touched. [`rewrite`](Rule::rewrite), [`truncate`](Rule::truncate) and
/// [`pass`](Rule::pass) act when the answer arrives, so they do apply to a poll that was waiting
/// when the rule was added.
pub struct Rule {
    matches: Matcher,
    left: Option<usize>,
    delay: Duration,
    action: Action,
}

type Matcher = Box<dyn Fn(&RequestHead) -> bool + Send>;
type Rewrite = Arc<dyn Fn(&RequestHead, &mut Response<Bytes>) + Send + Sync>;

#[derive(Clone)]
enum Action {
    Respond(Bytes),
    Raw(Bytes),
    Hang,
    Reset,
    Close,
    Rewrite(Rewrite),
    Truncate(usize),
    Pass,
}

impl Action {
    fn on_answer(&self) -> bool {
        matches!(
            self,
            Action::Rewrite(_) | Action::Truncate(_) | Action::Pass
        )
    }
}

impl Rule {
    /// Matches every request.
    pub fn any() -> Rule {
        Rule::when(|_| true)
    }

    /// Matches requests whose path begins so.
    pub fn path(prefix: impl Into<String>) -> Rule {
        let prefix = prefix.into();
        Rule::when(move |head| head.path().starts_with(&prefix))
    }

    pub fn when(matches: impl Fn(&RequestHead) -> bool + Send + 'static) -> Rule {
        let matches = Box::new(matches);
        Rule {
            matches,
            left: None,
            delay: Duration::ZERO,
            action: Action::Pass,
        }
    }

    /// For the next match only; without it the rule stays until [`FaultProxy::clear`].
    pub fn once(self) -> Rule {
        self.times(1)
    }

    pub fn times(mut self, n: usize) -> Rule {
        self.left = Some(n);
        self
    }

    /// Waits before it acts.
    pub fn after(mut self, delay: Duration) -> Rule {
        self.delay = delay;
        self
    }

    /// Answers in the upstream's place.
    pub fn respond(self, response: Response<Bytes>) -> Rule {
        self.act(Action::Respond(encode(&response)))
    }

    /// Writes these bytes as the answer and closes.
    pub fn raw(self, bytes: impl Into<Bytes>) -> Rule {
        self.act(Action::Raw(bytes.into()))
    }

    /// Never answers; the upstream does not see the request.
    pub fn hang(self) -> Rule {
        self.act(Action::Hang)
    }

    /// Resets the client's connection instead of answering.
    pub fn reset(self) -> Rule {
        self.act(Action::Reset)
    }

    /// Closes the client's connection instead of answering.
    pub fn close(self) -> Rule {
        self.act(Action::Close)
    }

    /// Changes the answer; its length is set right afterwards.
    pub fn rewrite(
        self,
        change: impl Fn(&RequestHead, &mut Response<Bytes>) + Send + Sync + 'static,
    ) -> Rule {
        self.act(Action::Rewrite(Arc::new(change)))
    }

    /// Announces the whole body, sends this many bytes of it, closes.
    pub fn truncate(self, len: usize) -> Rule {
        self.act(Action::Truncate(len))
    }

    /// Leaves the answer as it is; for use with [`after`](Rule::after).
    pub fn pass(self) -> Rule {
        self.act(Action::Pass)
    }

    fn act(mut self, action: Action) -> Rule {
        self.action = action;
        self
    }
}

/// A handle to a running proxy; dropping it ends the proxy and its connections.
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    applied: watch::Receiver<Mode>,
    task: tokio::task::AbortHandle,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    http: bool,
    keep_encoding: AtomicBool,
    limit: AtomicUsize,
    accepted: AtomicU64,
    open: AtomicUsize,
    upstream_open: AtomicUsize,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<RequestHead>>,
    garbage: Mutex<Option<Garbage>>,
}

impl FaultProxy {
    /// In front of an HTTP/1 server.
    pub async fn http(upstream: SocketAddr) -> FaultProxy {
        FaultProxy::start(upstream, true).await
    }

    /// In front of anything: rules do not apply and requests are not seen.
    pub async fn tcp(upstream: SocketAddr) -> FaultProxy {
        FaultProxy::start(upstream, false).await
    }

    async fn start(upstream: SocketAddr, http: bool) -> FaultProxy {
        let port = Port::lease();
        let addr = port.addr();
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            http,
            keep_encoding: AtomicBool::new(false),
            limit: AtomicUsize::new(usize::MAX),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            upstream_open: AtomicUsize::new(0),
            rules: Mutex::default(),
            requests: Mutex::default(),
            garbage: Mutex::default(),
        });
        let (mode, mode_rx) = watch::channel(Mode::Pass);
        // Refuse until the first listener stands, so that waiting for Pass waits for it.
        let (applied_tx, mut applied) = watch::channel(Mode::Refuse);
        let task = rt()
            .spawn(accept(port, shared.clone(), mode_rx, applied_tx))
            .abort_handle();
        applied
            .wait_for(|mode| *mode == Mode::Pass)
            .await
            .expect("the proxy listens");
        FaultProxy {
            addr,
            shared,
            mode,
            applied,
            task,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns when the new mode is in force.
    pub async fn set(&mut self, mode: Mode) {
        self.mode.send_replace(mode);
        self.applied
            .wait_for(|applied| *applied == mode)
            .await
            .expect("the proxy runs");
    }

    /// Sets what [`Mode::Garble`] writes, and begins with it.
    pub async fn garble(&mut self, garbage: Garbage) {
        *self.shared.garbage.lock().unwrap() = Some(garbage);
        // So that open connections get it too, when there was other garbage before.
        self.set(Mode::Pass).await;
        self.set(Mode::Garble).await;
    }

    /// For new upstream connections.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = upstream;
    }

    /// Resets every connection over this many, as Consul does with those of one client.
    pub fn limit_connections(&self, limit: usize) {
        self.shared.limit.store(limit, SeqCst);
    }

    /// Lets clients ask for compressed answers; else `Accept-Encoding` is taken away, so that
    /// rewrites see plain bodies.
    pub fn keep_encoding(&self) {
        self.shared.keep_encoding.store(true, SeqCst);
    }

    /// Closes the connections open now, without changing the mode.
    pub async fn disconnect(&mut self) {
        let mode = *self.mode.borrow();
        self.set(Mode::Refuse).await;
        self.set(mode).await;
    }

    /// Rules are tried in the order they were added.
    pub fn add(&self, rule: Rule) {
        self.shared.rules.lock().unwrap().push(rule);
    }

    pub fn clear(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Answers the next request whose path begins so.
    pub fn respond_once(&self, path: &str, response: Response<Bytes>) {
        self.add(Rule::path(path).once().respond(response));
    }

    /// Changes every answer.
    pub fn rewrite(
        &self,
        change: impl Fn(&RequestHead, &mut Response<Bytes>) + Send + Sync + 'static,
    ) {
        self.add(Rule::any().rewrite(change));
    }

    /// The requests read so far, oldest first, also those that were not forwarded.
    pub fn requests(&self) -> Vec<RequestHead> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn count(&self, matches: impl Fn(&RequestHead) -> bool) -> usize {
        self.shared
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(|head| matches(head))
            .count()
    }

    pub fn forget_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// Connections of clients since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// Connections of clients now.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// Connections to the upstream now.
    pub fn upstream_open(&self) -> usize {
        self.shared.upstream_open.load(SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts one connection while it lives.
struct Count(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Count {
    fn new(shared: &Arc<Shared>, of: fn(&Shared) -> &AtomicUsize) -> Count {
        of(shared).fetch_add(1, SeqCst);
        Count(shared.clone(), of)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, SeqCst);
    }
}

async fn accept(
    port: Port,
    shared: Arc<Shared>,
    mut mode: watch::Receiver<Mode>,
    applied: watch::Sender<Mode>,
) {
    loop {
        let listener = loop {
            match TcpListener::bind(port.addr()).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut connections = JoinSet::new();
        loop {
            let now = *mode.borrow_and_update();
            match now {
                Mode::Pass | Mode::Blackhole | Mode::Cut | Mode::Garble => {}
                // The connections see the mode as well and reset themselves.
                Mode::Reset => while connections.join_next().await.is_some() {},
                Mode::Refuse => break,
            }
            applied.send_replace(now);
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let n = shared.accepted.fetch_add(1, SeqCst) + 1;
                    let count = Count::new(&shared, |shared| &shared.open);
                    connections.spawn(connection(stream, n, count, shared.clone(), mode.clone()));
                }
                changed = mode.changed() => if changed.is_err() { return },
                // Reaps what has ended.
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        connections.shutdown().await;
        settle();
        applied.send_replace(Mode::Refuse);
        if mode.wait_for(|mode| *mode != Mode::Refuse).await.is_err() {
            return;
        }
    }
}

async fn connection(
    stream: TcpStream,
    n: u64,
    count: Count,
    shared: Arc<Shared>,
    mode: watch::Receiver<Mode>,
) {
    let mut client = Conn::new(stream);
    let mut resets = mode.clone();
    let over = shared.open.load(SeqCst) > shared.limit.load(SeqCst);
    let reset = over
        || tokio::select! {
            biased;
            _ = resets.wait_for(|mode| *mode == Mode::Reset) => true,
            end = async {
                if shared.http {
                    forward_http(&mut client, n, &shared, mode).await
                } else {
                    forward_tcp(&mut client, &shared, mode).await
                }
            } => matches!(end, Ok(End::Reset)),
        };
    // Close before the counter says so.
    if reset {
        client.reset()
    } else {
        drop(client)
    }
    drop(count);
}

enum End {
    Close,
    Reset,
}

async fn forward_http(
    client: &mut Conn,
    n: u64,
    shared: &Arc<Shared>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<End> {
    let mut upstream = None;
    loop {
        let Some(head) = client.request(n).await? else {
            return Ok(End::Close);
        };
        shared.requests.lock().unwrap().push(head.clone());
        flows(client, &mut mode).await?;

        if let Some((delay, action)) = shared.rule(&head, false) {
            unless_closed(client, tokio::time::sleep(delay)).await?;
            match action {
                Action::Respond(bytes) => {
                    client.stream.write_all(&bytes).await?;
                    continue;
                }
                Action::Raw(bytes) => {
                    client.stream.write_all(&bytes).await?;
                    return Ok(End::Close);
                }
                Action::Hang => {
                    client.closed().await;
                    return Ok(End::Close);
                }
                Action::Reset => return Ok(End::Reset),
                _ => return Ok(End::Close),
            }
        }

        let (up, _) = match &mut upstream {
            Some(open) => open,
            none => none.insert(shared.connect().await?),
        };
        let raw = if shared.keep_encoding.load(SeqCst) {
            head.raw.clone()
        } else {
            without_header(&head.raw, "accept-encoding")
        };
        up.stream.write_all(&raw).await?;
        let mut answer = unless_closed(client, up.response(&head.method)).await??;
        flows(client, &mut mode).await?;

        match shared.rule(&head, true) {
            None => client.stream.write_all(&answer.raw).await?,
            Some((delay, action)) => {
                unless_closed(client, tokio::time::sleep(delay)).await?;
                match action {
                    Action::Rewrite(change) => {
                        change(&head, &mut answer.response);
                        client.stream.write_all(&encode(&answer.response)).await?;
                    }
                    Action::Truncate(len) => {
                        let whole = encode(&answer.response);
                        let head = whole.len() - answer.response.body().len();
                        let end = whole.len().min(head + len);
                        client.stream.write_all(&whole[..end]).await?;
                        return Ok(End::Close);
                    }
                    _ => client.stream.write_all(&answer.raw).await?,
                }
            }
        }
        if answer.closes || says_close(&answer.response) {
            return Ok(End::Close);
        }
    }
}

async fn forward_tcp(
    client: &mut Conn,
    shared: &Arc<Shared>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<End> {
    let mut garbles = mode.clone();
    if *mode.borrow() == Mode::Garble {
        client.fill().await?;
        return garble(client, shared, mode).await;
    }
    let (mut up, _count) = shared.connect().await?;
    let mut answer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            () = becomes(&mut garbles, Mode::Garble) => {
                return garble(client, shared, mode).await;
            }
            n = client.fill() => {
                if n? == 0 {
                    return Ok(End::Close);
                }
                flows(client, &mut mode).await?;
                up.stream.write_all(&client.take()).await?;
            }
            n = up.stream.read(&mut answer) => {
                let n = n?;
                if n == 0 {
                    return Ok(End::Close);
                }
                flows(client, &mut mode).await?;
                if *mode.borrow() == Mode::Cut {
                    client.stream.write_all(&answer[..n / 2]).await?;
                    // A reset discards what the client has not read yet.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    return Ok(End::Reset);
                }
                client.stream.write_all(&answer[..n]).await?;
            }
        }
    }
}

async fn becomes(mode: &mut watch::Receiver<Mode>, wanted: Mode) {
    let _ = mode.wait_for(|mode| *mode == wanted).await;
}

/// Writes garbage, until the client closes or the mode changes.
async fn garble(
    client: &mut Conn,
    shared: &Arc<Shared>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<End> {
    let garbage = shared.garbage.lock().unwrap().clone();
    let garbage = garbage.expect("set before the mode");
    let bytes = (garbage.bytes)(&client.take());
    let write = async {
        client.stream.write_all(&bytes).await?;
        match garbage.then {
            Then::Close => return Ok(End::Close),
            // A reset discards what the client has not read yet.
            Then::Reset => tokio::time::sleep(Duration::from_millis(5)).await,
            Then::Hang => client.closed().await,
            Then::Repeat => loop {
                client.stream.write_all(&bytes).await?;
            },
        }
        Ok(End::Reset)
    };
    tokio::select! {
        end = write => end,
        _ = mode.wait_for(|mode| *mode != Mode::Garble) => Ok(End::Close),
    }
}

/// Waits until bytes may flow.
async fn flows(client: &mut Conn, mode: &mut watch::Receiver<Mode>) -> io::Result<()> {
    let pass = mode.wait_for(|mode| *mode != Mode::Blackhole);
    unless_closed(client, pass)
        .await?
        .map(drop)
        .map_err(io::Error::other)
}

/// Ends with an error when the client closes first.
async fn unless_closed<F: Future>(client: &mut Conn, work: F) -> io::Result<F::Output> {
    tokio::select! {
        biased;
        output = work => Ok(output),
        () = client.closed() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn says_close(response: &Response<Bytes>) -> bool {
    response
        .headers()
        .get("connection")
        .is_some_and(|v| v.as_bytes() == b"close")
}

impl Shared {
    async fn connect(self: &Arc<Self>) -> io::Result<(Conn, Count)> {
        let upstream = *self.upstream.lock().unwrap();
        let conn = Conn::new(TcpStream::connect(upstream).await?);
        Ok((conn, Count::new(self, |shared| &shared.upstream_open)))
    }

    /// Uses up the first rule that matches.
    fn rule(&self, head: &RequestHead, on_answer: bool) -> Option<(Duration, Action)> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| {
            rule.action.on_answer() == on_answer && rule.left != Some(0) && (rule.matches)(head)
        })?;
        rule.left = rule.left.map(|left| left - 1);
        Some((rule.delay, rule.action.clone()))
    }
}
