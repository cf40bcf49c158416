//! The watch of one service: a list, its nodes, and what changes of them.
//!
//! ```text
//! read: list (armed) ──▶ each node (armed) ──▶ copy ──▶ Listing
//! next: event of the list ──▶ list, and the nodes that are new or changed ──▶ Listing
//!       event of a node   ──▶ that node ──▶ Listing
//!       nothing for 15–20 s ──▶ sync, and the state of the list's node ──▶ Unchanged
//!       the connection ends ──▶ the next one ──▶ read
//! ```
//!
//! A watch is armed by the read whose result is used, so nothing is missed between the two (ZD1). Watches
//! end with their connection, and everything is read again on the next one (ZD9).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    call::{CallError, Reply},
    client::{Connection, Sent, ZkClient},
    copy::{Copy, Record},
    listen::{Changes, Listener},
    wire::{Body, Code, Malformed, Stat},
};
use crate::{
    backoff::after,
    error::{ErrorKind, RegistryError},
    registry::{Answer, BoxFuture, Source, contract::STALE_AFTER, decoding::decoded},
    task::sleep_until_some,
};

/// How long a watch may be silent before the copy is confirmed (ZD18): 15 s, and up to 5 s more, so that
/// watches that began together do not confirm together. With the time limits of the requests, it stays
/// below the 30 s after which a set is stale.
const SILENCE: Duration = Duration::from_secs(15);
const SILENCE_SPREAD: Duration = Duration::from_secs(5);

/// The longest time between two complete reads, in case a change is ever missed: 5 min, and up to 5 min
/// more.
const REREAD_EVERY: Duration = Duration::from_secs(300);

/// The longest delay of the read after a lost connection, so that the clients of a server that ended do
/// not all read at once (ZD9, ZD22).
const REJOIN_SPREAD: Duration = Duration::from_millis(500);

/// Within this time after an answer the service is busy, and further changes are waited for. Arbitrary, as
/// for etcd.
const BUSY: Duration = Duration::from_millis(200);
const GATHER: Duration = Duration::from_millis(10);

/// How many nodes are asked for before their answers are read. Each request has one path, so that none
/// gets near the limit of a server, which would end the connection without a reason (ZD17); and of
/// records of a megabyte, which is the most that a node holds, no more are kept at a time.
const WINDOW: usize = 128;

/// How often a list is read again because its node came or went meanwhile.
const MOST_TRIES: u32 = 4;

/// The watch of one service.
pub(super) struct ZookeeperSource {
    client: ZkClient,
    listener: Listener,
    copy: Copy,
    /// The connection on which the watches are armed; `None` before the first read, and after an error.
    connection: Option<Connection>,
    newest: Newest,
    /// Why the next listing may be wrong.
    doubt: Option<String>,
    reread_at: Instant,
    answered_at: Option<Instant>,
    /// Whether any listing had an instance.
    listed: bool,
}

/// The newest state of the servers that was seen. Kept after errors, to notice servers that were wiped.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    zxid: i64,
    /// The node of the service, if it existed.
    node: Option<Stat>,
}

impl ZookeeperSource {
    pub(super) fn new(client: ZkClient, path: &str, copy: Copy) -> Self {
        Self {
            listener: client.listen(path.into()),
            client,
            copy,
            connection: None,
            newest: Newest::default(),
            doubt: None,
            reread_at: Instant::now(),
            answered_at: None,
            listed: false,
        }
    }

    fn path(&self) -> &str {
        self.listener.path()
    }

    /// Reads the list of nodes, and arms its watch; `None` if the service has no node (ZD3).
    async fn list(
        &mut self,
        connection: &Connection,
    ) -> Result<Option<BTreeSet<Box<str>>>, RegistryError> {
        let mut synced = false;
        for _ in 0..MOST_TRIES {
            let reply = connection.call(Body::children(self.path(), true)).await;
            match reply {
                Ok(reply) => {
                    let zxid = reply.zxid;
                    let (names, stat) = names(reply).await?;
                    // After a `sync`, only servers that were wiped, or restored from a backup, say so.
                    if self.is_behind(&stat, zxid) && !synced {
                        let sync = connection.call(Body::sync(self.path())).await;
                        sync.map_err(|error| error.about(self.path()))?;
                        synced = true;
                        continue;
                    }
                    self.note(zxid, Some(stat), names.is_empty());
                    return Ok(Some(names));
                }
                Err(error) if error.is(Code::NO_NODE) => {}
                Err(error) => return Err(error.about(self.path())),
            }
            match connection.call(Body::exists(self.path(), true)).await {
                // It was created meanwhile (ZD3).
                Ok(_) => {}
                Err(CallError::Said {
                    code: Code::NO_NODE,
                    zxid,
                }) => {
                    self.note(zxid, None, true);
                    return Ok(None);
                }
                // ZD24: from 3.9 on, also this needs permission.
                Err(error) => return Err(error.about(self.path())),
            }
        }
        let why = "the node of the service comes and goes";
        Err(RegistryError::new(ErrorKind::Unavailable, why))
    }

    /// Notes a state of the servers, and says what is wrong if it cannot follow the one before (ZD12,
    /// ZD20).
    fn note(&mut self, zxid: i64, node: Option<Stat>, empty: bool) {
        let Newest {
            zxid: newest,
            node: former,
        } = self.newest;
        let anew = || match (former, node) {
            (Some(former), Some(node)) => former.czxid != node.czxid,
            _ => false,
        };
        let doubt = if zxid < newest {
            Some(format!(
                "the transactions of the servers went back from {newest:#x} to {zxid:#x}"
            ))
        } else if empty && anew() {
            Some("the node of the service was created anew".to_owned())
        } else {
            None
        };
        if let Some(doubt) = doubt {
            self.doubt.get_or_insert(doubt);
        }
        self.newest = Newest { zxid, node };
    }

    fn is_behind(&self, node: &Stat, zxid: i64) -> bool {
        let older = |former: Stat| former.czxid == node.czxid && former.pzxid > node.pzxid;
        zxid < self.newest.zxid || self.newest.node.is_some_and(older)
    }

    /// Reads what may have changed; everything, if `all`. Returns whether a listing shows a change.
    async fn refresh(
        &mut self,
        connection: &Connection,
        changes: Changes,
        all: bool,
    ) -> Result<bool, RegistryError> {
        let asked = Instant::now();
        let list = match all || changes.node {
            true => Some(self.list(connection).await?),
            false => None,
        };
        let wanted = match &list {
            Some(Some(names)) if all => names.iter().cloned().collect(),
            Some(Some(names)) => self.copy.unread(names, &changes),
            Some(None) => Vec::new(),
            None => self.copy.changed(&changes),
        };
        let read = self.nodes(connection, wanted).await?;
        // Only now: of a read that failed in part, nothing is used (ZD6).
        let listed = list.is_some();
        let mut changed = self.copy.apply(list, read, Instant::now());
        if listed {
            changed |= self.copy.forget(asked);
        }
        Ok(changed)
    }

    /// Reads nodes, and arms their watches (ZD4). `None` for one that is gone.
    async fn nodes(
        &self,
        connection: &Connection,
        names: Vec<Box<str>>,
    ) -> Result<Vec<(Box<str>, Option<Record>)>, RegistryError> {
        let mut read = Vec::with_capacity(names.len());
        let mut sent: VecDeque<(Box<str>, Sent<'_>)> = VecDeque::with_capacity(WINDOW);
        let mut names = names.into_iter();
        loop {
            while sent.len() < WINDOW
                && let Some(name) = names.next()
            {
                let path = format!("{}/{name}", self.path());
                sent.push_back((name, connection.send(Body::get(&path, true))));
            }
            let Some((name, reply)) = sent.pop_front() else {
                return Ok(read);
            };
            let record = match reply.reply().await {
                Ok(reply) => {
                    let fields = reply.fields().data();
                    let (data, stat) = fields.map_err(|why| CallError::from(why).about(&name))?;
                    Some(self.copy.record(&name, data, &stat))
                }
                Err(error) if error.is(Code::NO_NODE) => None,
                // It costs itself only.
                Err(error) if error.is(Code::NO_AUTH) => {
                    Some(Err("no permission to read it".into()))
                }
                Err(error) => return Err(error.about(&format!("{}/{name}", self.path()))),
            };
            read.push((name, record));
        }
    }

    async fn reread(&mut self) -> Result<Answer, RegistryError> {
        self.connection = None;
        let connection = self.client.connected().await?;
        // What these events say is read now.
        self.listener.take();
        self.refresh(&connection, Changes::default(), true).await?;
        if let Some(at) = self.copy.look_again() {
            sleep_until(at).await;
            let mut changes = self.listener.take();
            changes.node = true;
            self.refresh(&connection, changes, false).await?;
        }
        self.reread_at = after(Instant::now(), spread(REREAD_EVERY, REREAD_EVERY));
        self.answer(connection)
    }

    /// Answers with what was read, unless the instances seem to be gone because all sessions ended in an
    /// outage. That is no doubt for minutes: their processes are back within seconds, or not at all.
    fn answer(&mut self, connection: Connection) -> Result<Answer, RegistryError> {
        let unsure = connection.up.unsure_until;
        let unsure = self.listed && unsure.is_some_and(|until| Instant::now() < until);
        let mut listing = self.copy.listing(self.doubt.clone());
        if unsure {
            let why = "the session with the servers, or the contact to them, was lost";
            if listing.instances.is_empty() && listing.doubt.is_none() {
                let why = format!("no instance is listed shortly after {why}");
                return Err(RegistryError::new(ErrorKind::Doubtful, why));
            }
            listing.doubt.get_or_insert(why.to_owned());
        }
        self.doubt = None;
        self.listed |= !listing.instances.is_empty();
        self.answered_at = Some(Instant::now());
        self.connection = Some(connection);
        Ok(Answer::Listing(listing))
    }

    async fn follow(&mut self) -> Result<Answer, RegistryError> {
        // If this future is dropped, or fails, the watches are in doubt.
        let Some(connection) = self.connection.take() else {
            return Ok(Answer::Resync);
        };
        if self.reread_at <= Instant::now() {
            return Ok(Answer::Resync);
        }
        let silent_at = Instant::now() + spread(SILENCE, SILENCE_SPREAD);
        loop {
            tokio::select! {
                biased;
                () = connection.lost() => return self.rejoin().await,
                () = self.listener.changed() => {}
                () = sleep_until_some(self.copy.look_again()) => {}
                () = sleep_until(silent_at) => return self.confirm(connection).await,
            }
            if self.answered_at.is_some_and(|at| at.elapsed() < BUSY) {
                sleep(GATHER).await;
            }
            let mut changes = self.listener.take();
            let due = self.copy.look_again();
            changes.node |= due.is_some_and(|at| at <= Instant::now());
            if self.refresh(&connection, changes, false).await? {
                return self.answer(connection);
            }
        }
    }

    /// Waits for the next connection, which is there soon if another server works (ZD8).
    async fn rejoin(&mut self) -> Result<Answer, RegistryError> {
        self.client.connected().await?;
        sleep(spread(Duration::ZERO, REJOIN_SPREAD)).await;
        Ok(Answer::Resync)
    }

    /// Asks whether the list is complete. All events before the answer have arrived before it.
    async fn confirm(&mut self, connection: Connection) -> Result<Answer, RegistryError> {
        let path = Arc::clone(self.listener.path());
        let sync = connection.send(Body::sync(&path));
        let exists = connection.send(Body::exists(&path, false));
        sync.reply().await.map_err(|error| error.about(&path))?;
        let (zxid, node) = match exists.reply().await {
            Ok(reply) => {
                let stat = reply.fields().stat();
                let stat = stat.map_err(|why| CallError::from(why).about(&path))?;
                (reply.zxid, Some(stat))
            }
            Err(CallError::Said {
                code: Code::NO_NODE,
                zxid,
            }) => (zxid, None),
            Err(error) => return Err(error.about(&path)),
        };
        let same = |stat: &Stat| (stat.czxid, stat.pzxid, stat.cversion);
        let confirmed = zxid >= self.newest.zxid
            && node.as_ref().map(same) == self.newest.node.as_ref().map(same);
        if !confirmed {
            return Ok(Answer::Resync);
        }
        self.newest.zxid = zxid;
        self.connection = Some(connection);
        Ok(Answer::Unchanged)
    }
}

/// The names of a list. Long lists are taken apart beside the threads of the program.
async fn names(reply: Reply) -> Result<(BTreeSet<Box<str>>, Stat), RegistryError> {
    let bytes = reply.len();
    let take = move || {
        let (names, stat) = reply.fields().children()?;
        // No server has names that are not UTF-8, and one that has may have others.
        let names = names
            .into_iter()
            .filter_map(|name| std::str::from_utf8(name).ok());
        let names = names.filter(|name| !name.is_empty() && !name.contains('/'));
        Ok((names.map(Box::from).collect(), stat))
    };
    let taken = decoded(bytes, take).await;
    taken.map_err(|why: Malformed| CallError::from(why).about(""))
}

impl Source for ZookeeperSource {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(self.reread())
    }

    /// The longest silence, and the time limits of the confirmation and of the next connection.
    fn stale_after(&self) -> Duration {
        STALE_AFTER.max(SILENCE + SILENCE_SPREAD + self.client.within() * 2)
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(self.follow())
    }
}

impl Drop for ZookeeperSource {
    fn drop(&mut self) {
        self.listener.end();
        let path = self.listener.path();
        let nodes = self.copy.names().map(|name| format!("{path}/{name}"));
        self.client
            .disarm(std::iter::once(path.to_string()).chain(nodes));
    }
}

fn spread(least: Duration, more: Duration) -> Duration {
    least + more.mul_f64(rand::rng().random())
}
