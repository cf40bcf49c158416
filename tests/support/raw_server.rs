//! A server that answers what no correct server would: scripts of raw bytes, pauses, trickles and
//! floods, chosen for each request.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    http1::{Conn, RequestHead, encode},
    ports::Port,
    rt,
};

/// What to do with one request. Steps run in order; then the connection waits for the next
/// request, unless a step ended it.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Write(Bytes),
    Trickle(Bytes, Duration),
    Repeat(Bytes, u64),
    Wait(Duration),
    Hang,
    Close,
    Reset,
}

impl Script {
    /// Does nothing, so far.
    pub fn new() -> Script {
        Script::default()
    }

    /// A correct answer.
    pub fn respond(response: &Response<Bytes>) -> Script {
        Script::new().write(encode(response))
    }

    /// These bytes as they are.
    pub fn write(self, bytes: impl Into<Bytes>) -> Script {
        self.step(Step::Write(bytes.into()))
    }

    /// One byte per interval.
    pub fn trickle(self, bytes: impl Into<Bytes>, interval: Duration) -> Script {
        self.step(Step::Trickle(bytes.into(), interval))
    }

    /// This piece, again and again, until `total` bytes are written.
    pub fn stream(self, piece: impl Into<Bytes>, total: u64) -> Script {
        self.step(Step::Repeat(piece.into(), total))
    }

    pub fn wait(self, time: Duration) -> Script {
        self.step(Step::Wait(time))
    }

    /// Nothing more, until the client closes.
    pub fn hang(self) -> Script {
        self.step(Step::Hang)
    }

    pub fn close(self) -> Script {
        self.step(Step::Close)
    }

    pub fn reset(self) -> Script {
        self.step(Step::Reset)
    }

    fn step(mut self, step: Step) -> Script {
        self.0.push(step);
        self
    }
}

/// A handle to a running server; dropping it ends the server and its connections.
pub struct RawServer {
    addr: SocketAddr,
    seen: Arc<Seen>,
    task: tokio::task::AbortHandle,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<RequestHead>>,
    accepted: AtomicU64,
    open: AtomicUsize,
    written: AtomicU64,
}

impl RawServer {
    /// Asks `answer` for the script of each request.
    pub async fn start(
        answer: impl Fn(&RequestHead) -> Script + Send + Sync + 'static,
    ) -> RawServer {
        let seen = Arc::new(Seen::default());
        let (addr, listener, port) = loop {
            let port = Port::lease();
            let addr = port.addr();
            // Bound on the runtime that polls it.
            let bound = rt()
                .spawn(TcpListener::bind(addr))
                .await
                .expect("the harness runs");
            if let Ok(listener) = bound {
                break (addr, listener, port);
            }
        };
        let task = rt().spawn(accept(listener, port, seen.clone(), Arc::new(answer)));
        RawServer {
            addr,
            seen,
            task: task.abort_handle(),
        }
    }

    /// Plays these scripts, one a request, and the last one for all that follow.
    pub async fn play(scripts: impl IntoIterator<Item = Script>) -> RawServer {
        let scripts = Mutex::new(scripts.into_iter().collect::<VecDeque<_>>());
        RawServer::start(move |_| {
            let mut scripts = scripts.lock().unwrap();
            let next = scripts.front().cloned().expect("at least one script");
            if scripts.len() > 1 {
                scripts.pop_front();
            }
            next
        })
        .await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn requests(&self) -> Vec<RequestHead> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub fn accepted(&self) -> u64 {
        self.seen.accepted.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Bytes that clients took, up to what fits their and our socket buffers.
    pub fn written(&self) -> u64 {
        self.seen.written.load(SeqCst)
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Arc<dyn Fn(&RequestHead) -> Script + Send + Sync>;

async fn accept(listener: TcpListener, _port: Port, seen: Arc<Seen>, answer: Answer) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let n = seen.accepted.fetch_add(1, SeqCst) + 1;
                seen.open.fetch_add(1, SeqCst);
                let open = Open(seen.clone());
                connections.spawn(connection(stream, n, open, answer.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection as closed at its end.
struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

async fn connection(stream: TcpStream, n: u64, open: Open, answer: Answer) {
    let mut conn = Conn::new(stream);
    while let Ok(Some(head)) = conn.request(n).await {
        open.0.requests.lock().unwrap().push(head.clone());
        for step in answer(&head).0 {
            match step {
                Step::Reset => return conn.reset(),
                Step::Close => return,
                step => {
                    if play(&mut conn, step, &open.0).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

async fn play(conn: &mut Conn, step: Step, seen: &Seen) -> io::Result<()> {
    match step {
        Step::Write(bytes) => {
            conn.stream.write_all(&bytes).await?;
            seen.written.fetch_add(bytes.len() as u64, SeqCst);
        }
        Step::Trickle(bytes, interval) => {
            for byte in bytes.chunks(1) {
                conn.stream.write_all(byte).await?;
                seen.written.fetch_add(1, SeqCst);
                pause(conn, interval).await?;
            }
        }
        Step::Repeat(piece, total) => {
            let mut left = total;
            while left > 0 {
                let n = left.min(piece.len() as u64);
                conn.stream.write_all(&piece[..n as usize]).await?;
                seen.written.fetch_add(n, SeqCst);
                left -= n;
            }
        }
        Step::Wait(time) => pause(conn, time).await?,
        Step::Hang => conn.closed().await,
        Step::Close | Step::Reset => unreachable!("ended by the caller"),
    }
    Ok(())
}

/// Waits, unless the client closes.
async fn pause(conn: &mut Conn, time: Duration) -> io::Result<()> {
    tokio::select! {
        biased;
        () = tokio::time::sleep(time) => Ok(()),
        () = conn.closed() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}
