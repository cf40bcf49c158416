//! One TCP connection to a server: frames in both directions.

use std::{io, net::SocketAddr, ops::Range, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::wire::{Body, Code, Header, Reader, Session, xid};
use crate::error::{ErrorKind, RegistryError};

/// The longest frame that is read, in bytes. A list of 100,000 names of 500 characters has 50 MB, which
/// servers do send; they limit requests only.
const MOST_FRAME: usize = 64 << 20;

/// How many bytes one read takes, and how many reads follow each other before anything else is done.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 16;

/// The size from which a buffer is given back once it is empty.
const LARGE: usize = 1 << 20;

pub(super) struct Stream {
    tcp: TcpStream,
    server: SocketAddr,
    /// What was read, and how much of it was taken.
    inbox: Vec<u8>,
    taken: usize,
    chunk: Box<[u8]>,
    /// What is to be written, and how much of it was.
    outbox: Vec<u8>,
    written: usize,
    next_xid: i32,
    /// When bytes arrived last.
    pub(super) heard: Instant,
    /// When a request was sent last.
    pub(super) spoke: Instant,
}

impl Stream {
    /// Connects, and takes up a session, or starts one if there is none; `None` if it has expired. What is read over the connection
    /// after this is at least as new as the leader's state at its start (ZD12).
    pub(super) async fn open(
        server: SocketAddr,
        former: Option<&Session>,
        timeout: Duration,
        login: Option<&(String, String)>,
        until: Instant,
    ) -> Result<Option<(Self, Session)>, RegistryError> {
        let late = |what: &str| {
            let why = format!("{what} {server} in time");
            RegistryError::new(ErrorKind::Timeout, why)
        };
        let tcp = timeout_at(until, TcpStream::connect(server)).await;
        let tcp = tcp
            .map_err(|_| late("no connection to"))?
            .map_err(|error| {
                let why = format!("no connection to {server}");
                RegistryError::new(ErrorKind::Unreachable, why).with_source(error)
            })?;
        // Only a delay, if it fails.
        let _ = tcp.set_nodelay(true);
        let now = Instant::now();
        let mut stream = Self {
            tcp,
            server,
            inbox: Vec::new(),
            taken: 0,
            chunk: vec![0; CHUNK].into(),
            outbox: Vec::new(),
            written: 0,
            next_xid: 1,
            heard: now,
            spoke: now,
        };
        let greeting = stream.greet(former, timeout, login);
        let greeted = timeout_at(until, greeting).await;
        let greeted = greeted.map_err(|_| late("no session from"))?;
        Ok(greeted?.map(|session| (stream, session)))
    }

    async fn greet(
        &mut self,
        former: Option<&Session>,
        timeout: Duration,
        login: Option<&(String, String)>,
    ) -> Result<Option<Session>, RegistryError> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let (id, password) = former.map_or((0, &[0; 16][..]), |s| (s.id, &s.password));
        Body::connect(millis, id, password).first_frame(&mut self.outbox);
        let session = self.next().await?;
        let session = Reader::new(&self.inbox[session]).session();
        let session = session.map_err(|why| self.malformed(&why))?;
        if session.id == 0 || session.timeout_ms <= 0 {
            return Ok(None);
        }
        if let Some((user, password)) = login {
            Body::login(user, password).frame(xid::AUTH, &mut self.outbox);
        }
        let synced = self.send(&Body::sync("/"));
        loop {
            let frame = self.next().await?;
            let header = Reader::new(&self.inbox[frame]).header();
            let Header { xid: to, code, .. } = header.map_err(|why| self.malformed(&why))?;
            if code != Code(0) {
                let kind = match code {
                    Code::AUTH_FAILED | Code::NEEDS_SASL => ErrorKind::Denied,
                    _ => ErrorKind::Unavailable,
                };
                let why = format!("{} answers a new session with {code}", self.server);
                return Err(RegistryError::new(kind, why));
            }
            if to == synced {
                return Ok(Some(session));
            }
        }
    }

    /// Waits for a frame, and writes meanwhile.
    async fn next(&mut self) -> Result<Range<usize>, RegistryError> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(frame);
            }
            self.io().await?;
        }
    }

    /// Puts a request into the outbox. Returns its number.
    pub(super) fn send(&mut self, body: &Body) -> i32 {
        let xid = self.next_xid;
        self.next_xid = xid.checked_add(1).unwrap_or(1);
        body.frame(xid, &mut self.outbox);
        self.spoke = Instant::now();
        xid
    }

    pub(super) fn ping(&mut self) {
        Body::ping().frame(xid::PING, &mut self.outbox);
        self.spoke = Instant::now();
    }

    /// How many bytes wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.outbox.len() - self.written
    }

    /// Reads or writes some bytes. Nothing is lost if it is dropped.
    pub(super) async fn io(&mut self) -> Result<(), RegistryError> {
        let ready = tokio::select! {
            ready = self.tcp.readable() => ready.map(|()| true),
            ready = self.tcp.writable(), if self.written < self.outbox.len() => ready.map(|()| false),
        };
        if ready.map_err(|error| self.broke(error))? {
            self.read()
        } else {
            self.write()
        }
    }

    /// Reads what has arrived.
    pub(super) fn read(&mut self) -> Result<(), RegistryError> {
        if self.taken > 0 {
            self.inbox.drain(..self.taken);
            self.taken = 0;
        }
        for chunk in 0..CHUNKS {
            match self.tcp.try_read(&mut self.chunk) {
                Ok(bytes @ 1..) => {
                    self.inbox.extend_from_slice(&self.chunk[..bytes]);
                    self.heard = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The last words before the end count: the next read finds the end again.
                _ if chunk > 0 => break,
                Ok(_) => return Err(self.broke("it was closed")),
                Err(error) => return Err(self.broke(error)),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), RegistryError> {
        match self.tcp.try_write(&self.outbox[self.written..]) {
            Ok(bytes) => {
                self.written += bytes;
                if self.written == self.outbox.len() {
                    empty(&mut self.outbox);
                    self.written = 0;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.broke(error)),
        }
    }

    /// Takes the next frame that has arrived: where it is in the [inbox](Self::bytes).
    pub(super) fn frame(&mut self) -> Result<Option<Range<usize>>, RegistryError> {
        let waiting = &self.inbox[self.taken..];
        let Some((length, rest)) = waiting.split_first_chunk::<4>() else {
            if waiting.is_empty() && self.inbox.capacity() > LARGE {
                empty(&mut self.inbox);
                self.taken = 0;
            }
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let length = usize::try_from(length).ok().filter(|&l| l <= MOST_FRAME);
        let Some(length) = length else {
            let why = "an answer is longer than any of ZooKeeper";
            return Err(self.malformed(&why));
        };
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.taken + 4;
        self.taken = start + length;
        Ok(Some(start..self.taken))
    }

    /// The bytes of a frame, until the next read.
    pub(super) fn bytes(&self, frame: Range<usize>) -> &[u8] {
        &self.inbox[frame]
    }

    pub(super) fn malformed(&self, why: &dyn std::fmt::Display) -> RegistryError {
        let why = format!("{} does not speak ZooKeeper's protocol: {why}", self.server);
        RegistryError::new(ErrorKind::Malformed, why)
    }

    fn broke(&self, error: impl Into<crate::error::BoxError>) -> RegistryError {
        let why = format!("the connection to {} broke", self.server);
        RegistryError::new(ErrorKind::Unreachable, why).with_source(error)
    }

    /// The error for a server that does not answer.
    pub(super) fn silent(&self, since: Duration) -> RegistryError {
        let why = format!("{} has answered nothing for {since:?}", self.server);
        RegistryError::new(ErrorKind::Timeout, why)
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Ends the session: its nodes and watches are gone when this returns, if the server answers.
    pub(super) async fn close(mut self, until: Instant) {
        let closed = self.send(&Body::close());
        let answered = async {
            while let Ok(frame) = self.next().await {
                let header = Reader::new(&self.inbox[frame]).header();
                if header.is_ok_and(|header| header.xid == closed) {
                    break;
                }
            }
        };
        let _ = timeout_at(until, answered).await;
    }
}

fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(LARGE);
}
