//! The task of a session: connects, keeps the connection alive, and takes the session up again on another
//! server when it ends.
//!
//! ```text
//!            ┌────────────── the connection broke, or is silent ◀──┐
//!            ▼                                                     │
//! open: one server after another, with the saved session ──▶ serve ┴─▶ last handle gone: close
//!            │        ▲
//!            └ expired: a new session, at once
//! ```
//!
//! Only the servers end a session. However long no server answers, the session is taken up again first: an
//! ensemble without a quorum expires none, so its nodes may all be there (ZR5).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{rngs::SmallRng, seq::SliceRandom};
use tokio::{
    net::lookup_host,
    sync::{mpsc, oneshot, watch as cell},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    call::{CallError, Command, Link, Options, Reply, Up},
    listen::Listeners,
    stream::Stream,
    wire::{Body, Code, Reader, Session, xid},
};
use crate::{
    backoff::{Backoff, Jitter},
    error::{ErrorKind, RegistryError},
    instance::Host,
    rng::small_rng,
    sync::lock,
};

/// The time limit for a connection to one server, its session included, and for one name. A server that
/// hangs must not cost more, because the next one may work; with one server, this is the longest time that
/// a server which works again goes unnoticed.
const OPEN_WITHIN: Duration = Duration::from_millis(1_500);

/// The pause after a round in which no server gave a session. The first round has none.
const BACKOFF: Backoff = Backoff::known(100, 750).jitter(Jitter::Equal);

/// A connection that lasted less does not end the backoff.
const LASTED: Duration = Duration::from_secs(1);

/// The most bytes that wait to be written before further requests wait, too.
const MOST_UNWRITTEN: usize = 256 << 10;

/// A server that answers pings and no requests is given up after this many times the time for a silent one.
const STUCK: u32 = 3;

/// The time limit for the end of a session.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How long lists may lack instances after a session or the contact was lost: the processes whose
/// sessions ended with it notice that only when they are connected again, which takes up to
/// [`OPEN_WITHIN`] and a pause.
const UNSURE: Duration = Duration::from_secs(3);

/// How many former sessions are remembered.
const MOST_FORMER: usize = 16;

/// What outlives the task, if its runtime ends.
#[derive(Default)]
pub(super) struct Memory {
    session: Option<Session>,
    former: VecDeque<i64>,
    connections: u64,
    /// Whether the servers cannot remove watches (before 3.5).
    keeps_watches: bool,
}

impl Memory {
    pub(super) fn had(&self, session: i64) -> bool {
        self.former.contains(&session)
    }
}

pub(super) fn spawn(
    options: Arc<Options>,
    commands: mpsc::UnboundedReceiver<Command>,
    link: Arc<cell::Sender<Link>>,
    memory: Arc<Mutex<Memory>>,
    listeners: Arc<Listeners>,
) {
    let task = Task {
        options,
        link,
        memory,
        listeners,
        rng: small_rng(None),
        rounds: 0,
        last: None,
        heard: None,
    };
    tokio::spawn(run(commands, task));
}

struct Task {
    options: Arc<Options>,
    link: Arc<cell::Sender<Link>>,
    memory: Arc<Mutex<Memory>>,
    listeners: Arc<Listeners>,
    rng: SmallRng,
    /// The rounds over all servers since a connection lasted.
    rounds: u32,
    /// The server of the last connection.
    last: Option<SocketAddr>,
    /// When a server of the session was last heard.
    heard: Option<Instant>,
}

impl Drop for Task {
    /// Also when the runtime of the task ends.
    fn drop(&mut self) {
        self.link.send_replace(Link::Down(None));
    }
}

/// The task is dropped before `commands` is: a new task must not be started before its link is down.
async fn run(mut commands: mpsc::UnboundedReceiver<Command>, mut task: Task) {
    loop {
        let (stream, up) = tokio::select! {
            opened = task.open() => opened,
            () = unused(&mut commands) => return,
        };
        let opened = Instant::now();
        task.link.send_replace(Link::Up(up));
        let (ended, stream) = {
            let mut serve = Serve {
                task: &task,
                up,
                pending: VecDeque::new(),
                waiting: None,
            };
            let (ended, stream) = serve.serve(stream, &mut commands).await;
            // Before the callers learn that they get no answer: they report why.
            if let Err(why) = &ended {
                task.link.send_replace(Link::Down(Some(why.clone())));
            }
            (ended, stream)
        };
        match ended {
            Ok(()) => return stream.close(Instant::now() + CLOSE_WITHIN).await,
            Err(why) => task.lost(&stream, opened, &why),
        }
    }
}

/// Returns when the last handle is gone. What is asked for before there is a connection fails.
async fn unused(commands: &mut mpsc::UnboundedReceiver<Command>) {
    while commands.recv().await.is_some() {}
}

impl Task {
    /// Connects to one server after another, until one gives a session.
    async fn open(&mut self) -> (Stream, Up) {
        loop {
            if self.rounds > 0 {
                sleep(BACKOFF.delay(self.rounds, &mut self.rng)).await;
            }
            self.rounds = self.rounds.saturating_add(1);
            let mut servers = self.servers().await;
            while let Some(server) = servers.pop_front() {
                match self.open_on(server).await {
                    Ok(Some(opened)) => return opened,
                    // Its session has expired: the next one is asked for at once (ZD19).
                    Ok(None) => servers.push_front(server),
                    Err(why) => {
                        tracing::debug!(error = %why.to_chain(), "no ZooKeeper session");
                        self.link.send_replace(Link::Down(Some(why)));
                    }
                }
            }
        }
    }

    /// Returns the servers in a random order, the last one at the end. Names are resolved each time.
    async fn servers(&mut self) -> VecDeque<SocketAddr> {
        let mut servers = Vec::new();
        for member in &self.options.members {
            let name = match member.host() {
                Host::Ip(ip) => {
                    servers.push(SocketAddr::new(*ip, member.port()));
                    continue;
                }
                Host::Name(name) => name,
            };
            let resolved = timeout(OPEN_WITHIN, lookup_host((&**name, member.port()))).await;
            let why = match resolved {
                Ok(Ok(found)) => {
                    servers.extend(found);
                    continue;
                }
                Ok(Err(error)) => {
                    let why = format!("{name} is not resolved");
                    RegistryError::new(ErrorKind::Unreachable, why).with_source(error)
                }
                Err(_) => {
                    let why = format!("{name} is not resolved within {OPEN_WITHIN:?}");
                    RegistryError::new(ErrorKind::Timeout, why)
                }
            };
            self.link.send_replace(Link::Down(Some(why)));
        }
        servers.shuffle(&mut self.rng);
        // The others first: the last one has just failed.
        servers.sort_by_key(|server| Some(*server) == self.last);
        servers.into()
    }

    /// Connects to a server. `None` if the session has expired there.
    async fn open_on(&mut self, server: SocketAddr) -> Result<Option<(Stream, Up)>, RegistryError> {
        let former = lock(&self.memory).session.clone();
        let opened = Stream::open(
            server,
            former.as_ref(),
            self.options.session_timeout,
            self.options.login.as_ref(),
            Instant::now() + OPEN_WITHIN,
        );
        let (stream, session) = match (opened.await?, former.as_ref()) {
            (Some(opened), _) => opened,
            (None, Some(former)) => {
                tracing::info!(%server, "the ZooKeeper session has expired");
                let mut memory = lock(&self.memory);
                memory.session = None;
                memory.former.push_back(former.id);
                if memory.former.len() > MOST_FORMER {
                    memory.former.pop_front();
                }
                return Ok(None);
            }
            (None, None) => {
                let why = format!("{server} gives no session");
                return Err(RegistryError::new(ErrorKind::Unavailable, why));
            }
        };
        let granted = u64::try_from(session.timeout_ms).unwrap_or_default();
        let granted = Duration::from_millis(granted);
        let mut memory = lock(&self.memory);
        let renewed = former.is_none() && !memory.former.is_empty();
        if former.is_none() {
            let asked = self.options.session_timeout;
            tracing::info!(%server, timeout = ?granted, ?asked, "a ZooKeeper session begins");
        } else {
            tracing::debug!(%server, "the ZooKeeper session goes on");
        }
        // ZD20, and what ends with a pause of the servers: see `Up::unsure_until`.
        let silent = self.heard.map_or(Duration::ZERO, |heard| heard.elapsed());
        let unsure = self.heard.is_some() && (renewed || silent > granted / 2);
        memory.connections += 1;
        let up = Up {
            number: memory.connections,
            session: session.id,
            timeout: granted,
            unsure_until: unsure.then(|| Instant::now() + UNSURE),
        };
        memory.session = Some(session);
        drop(memory);
        self.last = Some(server);
        Ok(Some((stream, up)))
    }

    fn lost(&mut self, stream: &Stream, opened: Instant, why: &RegistryError) {
        // Else a server that ends each connection at once would be asked without a pause.
        if opened.elapsed() >= LASTED {
            self.rounds = 0;
        }
        tracing::debug!(error = %why.to_chain(), "a connection to ZooKeeper has ended");
        self.heard = Some(stream.heard);
    }
}

/// One connection in use.
struct Serve<'a> {
    task: &'a Task,
    up: Up,
    /// The requests without an answer, in their order.
    pending: VecDeque<Pending>,
    /// Since when the server owes an answer.
    waiting: Option<Instant>,
}

struct Pending {
    xid: i32,
    sent: Instant,
    /// `None` for a request to forget watches.
    reply: Option<oneshot::Sender<Result<Reply, CallError>>>,
}

impl Serve<'_> {
    /// Serves until the connection ends, or until the last handle is gone.
    async fn serve(
        &mut self,
        mut stream: Stream,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> (Result<(), RegistryError>, Stream) {
        loop {
            let taken = self.take_frames(&mut stream);
            if let Err(why) = taken {
                return (Err(why), stream);
            }
            let room = stream.unwritten() < MOST_UNWRITTEN;
            let at = self.next_deadline(&stream);
            let turned = tokio::select! {
                turned = stream.io() => turned,
                command = commands.recv(), if room => match command {
                    Some(command) => {
                        self.obey(command, &mut stream);
                        Ok(())
                    }
                    None => return (Ok(()), stream),
                },
                () = sleep_until(at) => self.tick(&mut stream),
            };
            if let Err(why) = turned {
                return (Err(why), stream);
            }
        }
    }

    /// How long a server may owe an answer (ZD19).
    fn patience(&self) -> Duration {
        self.up.timeout * 2 / 5
    }

    fn next_deadline(&self, stream: &Stream) -> Instant {
        let ping = stream.spoke + self.up.timeout / 6;
        let silent = self.waiting.map(|since| since + self.patience());
        silent.map_or(ping, |silent| silent.min(ping))
    }

    fn tick(&mut self, stream: &mut Stream) -> Result<(), RegistryError> {
        // This process may have been paused: what has arrived meanwhile counts.
        stream.read()?;
        let patience = self.patience();
        if let Some(since) = self.waiting {
            // A long answer over a slow network arrives in parts.
            let since = since.max(stream.heard);
            self.waiting = Some(since);
            if since.elapsed() >= patience {
                return Err(stream.silent(patience));
            }
        }
        let first = self.pending.front().map(|pending| pending.sent);
        if first.is_some_and(|sent| sent.elapsed() >= patience * STUCK) {
            return Err(stream.silent(patience * STUCK));
        }
        if stream.spoke.elapsed() >= self.up.timeout / 6 {
            stream.ping();
            self.waiting.get_or_insert(Instant::now());
        }
        Ok(())
    }

    fn obey(&mut self, command: Command, stream: &mut Stream) {
        match command {
            // Dropping the reply says that the connection is lost.
            Command::Call { number, .. } if number != self.up.number => {}
            Command::Call { body, reply, .. } => self.request(&body, Some(reply), stream),
            Command::Disarm(paths) => {
                if lock(&self.task.memory).keeps_watches {
                    return;
                }
                for path in paths {
                    self.request(&Body::remove_watches(&path), None, stream);
                }
            }
        }
    }

    fn request(
        &mut self,
        body: &Body,
        reply: Option<oneshot::Sender<Result<Reply, CallError>>>,
        stream: &mut Stream,
    ) {
        let xid = stream.send(body);
        let sent = Instant::now();
        self.pending.push_back(Pending { xid, sent, reply });
        self.waiting.get_or_insert(sent);
    }

    fn take_frames(&mut self, stream: &mut Stream) -> Result<(), RegistryError> {
        while let Some(frame) = stream.frame()? {
            self.take_frame(stream, stream.bytes(frame))?;
            // Each frame is an answer, or shows that the server lives.
            self.waiting = (!self.pending.is_empty()).then(Instant::now);
        }
        Ok(())
    }

    fn take_frame(&mut self, stream: &Stream, frame: &[u8]) -> Result<(), RegistryError> {
        let malformed = |why: &dyn std::fmt::Display| stream.malformed(why);
        let mut fields = Reader::new(frame);
        let header = fields.header().map_err(|why| malformed(&why))?;
        match header.xid {
            xid::EVENT => {
                let event = fields.event().map_err(|why| malformed(&why))?;
                self.task.listeners.tell(event);
                return Ok(());
            }
            xid::PING => return Ok(()),
            xid::AUTH if header.code == Code(0) => return Ok(()),
            xid::AUTH => {
                let why = format!("{} answers {}", stream.server(), header.code);
                return Err(RegistryError::new(ErrorKind::Denied, why));
            }
            _ => {}
        }
        let Some(Pending { xid, reply, .. }) = self.pending.pop_front() else {
            return Err(malformed(&"it answers what was not asked"));
        };
        if xid != header.xid {
            // Answers come in the order of the requests.
            let why = format!("it answers request {}, and {xid} is due", header.xid);
            return Err(malformed(&why));
        }
        if matches!(header.code, Code::SESSION_EXPIRED | Code::SESSION_MOVED) {
            let why = format!("{} answers {}", stream.server(), header.code);
            return Err(RegistryError::new(ErrorKind::Unavailable, why));
        }
        let answer = match header.code {
            Code(0) => Ok(Reply::new(header.zxid, fields.rest().to_vec())),
            code => Err(CallError::Said {
                code,
                zxid: header.zxid,
            }),
        };
        match reply {
            // The caller may have given up.
            Some(reply) => drop(reply.send(answer)),
            None if answer.is_err_and(|error| error.is(Code::UNIMPLEMENTED)) => {
                lock(&self.task.memory).keeps_watches = true;
            }
            None => {}
        }
        Ok(())
    }
}
