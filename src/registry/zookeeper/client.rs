//! The handle of a session: sends requests over its connection, each within a time limit.

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch as cell},
    time::{Instant, timeout, timeout_at},
};

use super::{
    call::{CallError, Command, Link, Options, Reply, Up},
    listen::{Listener, Listeners},
    session::{self, Memory},
    wire::Body,
};
use crate::{
    error::{ErrorKind, RegistryError},
    sync::lock,
};

/// A client of one ensemble. Clones share its session (ZD22), which ends with the last of them.
#[derive(Clone)]
pub(super) struct ZkClient(Arc<Shared>);

struct Shared {
    options: Arc<Options>,
    /// Leads to the task of the session, once there is one.
    task: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    link: Arc<cell::Sender<Link>>,
    memory: Arc<Mutex<Memory>>,
    listeners: Arc<Listeners>,
}

impl ZkClient {
    pub(super) fn new(options: Options) -> Self {
        Self(Arc::new(Shared {
            options: Arc::new(options),
            task: Mutex::default(),
            link: Arc::new(cell::Sender::new(Link::Down(None))),
            memory: Arc::default(),
            listeners: Arc::default(),
        }))
    }

    pub(super) fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.0))
    }

    /// The time limit of a request; on a connection, it may be shorter.
    pub(super) fn within(&self) -> Duration {
        self.0.options.within
    }

    pub(super) fn session_timeout(&self) -> Duration {
        self.0.options.session_timeout
    }

    /// Gets the events of a node and of its children, as far as they are watched.
    pub(super) fn listen(&self, path: Arc<str>) -> Listener {
        self.0.listeners.listen(path)
    }

    /// Whether this was a session of this client, so that its nodes are ours.
    pub(super) fn had(&self, session: i64) -> bool {
        lock(&self.0.memory).had(session)
    }

    /// Returns the connection. Waits for one within the time limit of a request; it is then used at once.
    pub(super) async fn connected(&self) -> Result<Connection, RegistryError> {
        let commands = self.commands();
        let mut link = self.0.link.subscribe();
        let within = self.0.options.within;
        let up = link.wait_for(|link| matches!(link, Link::Up(_)));
        let link = match timeout(within, up).await {
            Ok(Ok(link)) => link.clone(),
            _ => self.0.link.borrow().clone(),
        };
        match link {
            Link::Up(up) => Ok(Connection {
                within: within.min(up.timeout * 2 / 5),
                up,
                commands,
                client: self.clone(),
            }),
            Link::Down(why) => Err(why.unwrap_or_else(|| {
                let why = format!("no session within {within:?}");
                RegistryError::new(ErrorKind::Timeout, why)
            })),
        }
    }

    /// Tells the servers to forget the watches of nodes that nobody listens to any more.
    pub(super) fn disarm(&self, paths: impl IntoIterator<Item = String>) {
        let unheard = |path: &String| self.0.listeners.are_none(path);
        let paths: Vec<_> = paths.into_iter().filter(unheard).collect();
        if let Some(task) = &*lock(&self.0.task)
            && !paths.is_empty()
        {
            // Without a task there is no connection, and so no watch.
            let _ = task.send(Command::Disarm(paths));
        }
    }

    /// Returns the way to the task of the session. Starts it if there is none, or if its runtime ended.
    fn commands(&self) -> mpsc::UnboundedSender<Command> {
        let mut task = lock(&self.0.task);
        if let Some(commands) = task.as_ref().filter(|commands| !commands.is_closed()) {
            return commands.clone();
        }
        let (commands, inbox) = mpsc::unbounded_channel();
        session::spawn(
            Arc::clone(&self.0.options),
            inbox,
            Arc::clone(&self.0.link),
            Arc::clone(&self.0.memory),
            Arc::clone(&self.0.listeners),
        );
        *task = Some(commands.clone());
        commands
    }
}

impl fmt::Debug for ZkClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkClient")
            .field("members", &self.0.options.members)
            .finish_non_exhaustive()
    }
}

/// Does not keep the session.
pub(super) struct WeakClient(Weak<Shared>);

impl WeakClient {
    pub(super) fn upgrade(&self) -> Option<ZkClient> {
        self.0.upgrade().map(ZkClient)
    }
}

/// One connection of the session. What is read over it is at most as old as its `sync` (ZD12).
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) up: Up,
    within: Duration,
    commands: mpsc::UnboundedSender<Command>,
    client: ZkClient,
}

/// A request that was sent.
pub(super) struct Sent<'a> {
    connection: &'a Connection,
    reply: oneshot::Receiver<Result<Reply, CallError>>,
    until: Instant,
}

impl Connection {
    /// Sends a request. Requests are carried out in the order in which they were sent.
    pub(super) fn send(&self, body: Body) -> Sent<'_> {
        let (reply, receiver) = oneshot::channel();
        let command = Command::Call {
            number: self.up.number,
            body,
            reply,
        };
        // Without the task, the receiver fails.
        let _ = self.commands.send(command);
        Sent {
            connection: self,
            reply: receiver,
            until: Instant::now() + self.within,
        }
    }

    pub(super) async fn call(&self, body: Body) -> Result<Reply, CallError> {
        self.send(body).reply().await
    }

    /// Waits until this connection has ended.
    pub(super) async fn lost(&self) {
        let mut link = self.client.0.link.subscribe();
        let other = |link: &Link| !matches!(link, Link::Up(up) if up.number == self.up.number);
        // Fails if the client is gone, with which the connection ends.
        let _ = link.wait_for(other).await;
    }

    fn why_lost(&self) -> RegistryError {
        match &*self.client.0.link.borrow() {
            Link::Down(Some(why)) => why.clone(),
            _ => RegistryError::new(ErrorKind::Unreachable, "the connection broke"),
        }
    }
}

impl Sent<'_> {
    pub(super) async fn reply(self) -> Result<Reply, CallError> {
        match timeout_at(self.until, self.reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(CallError::Lost(self.connection.why_lost())),
            Err(_) => {
                let why = format!("no answer within {:?}", self.connection.within);
                Err(CallError::Lost(RegistryError::new(ErrorKind::Timeout, why)))
            }
        }
    }
}
