//! The registration of one instance: an ephemeral node, which lives as long as the session of its client.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::{
    call::{CallError, Reply},
    client::{Connection, WeakClient, ZkClient},
    listen::Listener,
    wire::{Body, Code, Stat, ZookeeperAcl},
};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
    registry::{BoxFuture, Lease, Renewal, record::RecordFormat},
    sync::lock,
};

/// The time between two looks whether the session or the own node has changed. A look sends nothing, as a
/// rule: the node is watched.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a registration looks again because the node was changed between its look and its write.
const MOST_TRIES: u32 = 4;

/// The pause between attempts to delete the node of a registration that has ended.
const ABANDON_EVERY: Duration = Duration::from_secs(1);

/// The registrations of one backend, by their paths. An update makes a new [`ZookeeperLease`] for the same
/// path.
#[derive(Default)]
pub(super) struct Held(Mutex<HashMap<Arc<str>, Weak<Holder>>>);

/// What the leases of one path share.
pub(super) struct Holder {
    path: Arc<str>,
    client: ZkClient,
    all: Weak<Held>,
    /// Whether this process made the node.
    held: Mutex<bool>,
}

impl Held {
    pub(super) fn of(self: &Arc<Self>, path: &str, client: &ZkClient) -> Arc<Holder> {
        let mut held = lock(&self.0);
        if let Some(holder) = held.get(path).and_then(Weak::upgrade) {
            return holder;
        }
        held.retain(|_, holder| holder.strong_count() > 0);
        let holder = Arc::new(Holder {
            path: path.into(),
            client: client.clone(),
            all: Arc::downgrade(self),
            held: Mutex::default(),
        });
        held.insert(Arc::clone(&holder.path), Arc::downgrade(&holder));
        holder
    }

    fn is_held(&self, path: &str) -> bool {
        let held = lock(&self.0);
        held.get(path)
            .is_some_and(|holder| holder.strong_count() > 0)
    }
}

impl Holder {
    fn set(&self, holds: bool) {
        *lock(&self.held) = holds;
    }

    fn holds(&self) -> bool {
        *lock(&self.held)
    }
}

impl Drop for Holder {
    /// A registration that could not be ended must not come back with the connection, while others keep
    /// the session (ZR7).
    fn drop(&mut self) {
        if self.holds()
            && let Ok(runtime) = Handle::try_current()
        {
            let path = Arc::clone(&self.path);
            let (client, all) = (self.client.downgrade(), self.all.clone());
            runtime.spawn(abandon(client, all, path));
        }
    }
}

/// Deletes the node of a registration that is gone, unless the session ends first.
async fn abandon(client: WeakClient, all: Weak<Held>, path: Arc<str>) {
    loop {
        {
            let (Some(client), Some(all)) = (client.upgrade(), all.upgrade()) else {
                return;
            };
            if all.is_held(&path) {
                // It was registered again.
                return;
            }
            if let Ok(connection) = client.connected().await
                && !all.is_held(&path)
                && delete_own(&client, &connection, &path).await.is_ok()
            {
                return;
            }
        }
        sleep(ABANDON_EVERY).await;
    }
}

/// Deletes a node if it is ours (ZR13).
async fn delete_own(
    client: &ZkClient,
    connection: &Connection,
    path: &str,
) -> Result<(), RegistryError> {
    for _ in 0..MOST_TRIES {
        let stat = match connection.call(Body::exists(path, false)).await {
            Ok(reply) => stat(&reply)?,
            Err(error) if error.is(Code::NO_NODE) => return Ok(()),
            Err(error) => return Err(error.about(path)),
        };
        if !is_ours(client, connection, &stat) {
            return Ok(());
        }
        match connection.call(Body::delete(path, stat.version)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is(Code::NO_NODE) || error.is(Code::BAD_VERSION) => {}
            Err(error) => return Err(error.about(path)),
        }
    }
    Err(restless())
}

fn stat(reply: &Reply) -> Result<Stat, RegistryError> {
    let stat = reply.fields().stat();
    stat.map_err(|why| CallError::from(why).about(""))
}

fn is_ours(client: &ZkClient, connection: &Connection, stat: &Stat) -> bool {
    stat.owner == connection.up.session || (stat.owner != 0 && client.had(stat.owner))
}

fn restless() -> RegistryError {
    let why = "the node changes with each attempt to write it";
    RegistryError::new(ErrorKind::Unavailable, why)
}

/// One registration.
pub(super) struct ZookeeperLease {
    client: ZkClient,
    holder: Arc<Holder>,
    listener: Listener,
    instance: Instance,
    data: Vec<u8>,
    acl: ZookeeperAcl,
    checked: Option<Checked>,
}

/// The last time that the node was seen, and watched from then on.
#[derive(Clone, Copy)]
struct Checked {
    connection: u64,
    at: Instant,
}

/// Who holds the node.
enum Owner {
    Nobody,
    /// This session, or an earlier one of this process, which has ended (ZR3).
    Us {
        former: bool,
        version: i32,
        data: Vec<u8>,
    },
    /// A session of another process with a record of the same id: a process that ended, or one that
    /// registered the same id after us.
    SameId {
        version: i32,
    },
    Other(String),
}

impl ZookeeperLease {
    pub(super) fn new(
        client: ZkClient,
        holder: Arc<Holder>,
        instance: Instance,
        data: Vec<u8>,
        acl: ZookeeperAcl,
    ) -> Self {
        Self {
            listener: client.listen(Arc::clone(&holder.path)),
            client,
            holder,
            instance,
            data,
            acl,
            checked: None,
        }
    }

    fn path(&self) -> &str {
        &self.holder.path
    }

    async fn announce(&mut self) -> Result<(), RegistryError> {
        self.checked = None;
        for _ in 0..MOST_TRIES {
            let connection = self.client.connected().await?;
            let create = Body::create(self.path(), &self.data, self.acl, true);
            let made = match connection.call(create).await {
                Ok(_) => true,
                Err(error) if error.is(Code::NODE_EXISTS) => self.take(&connection).await?,
                Err(error) if error.is(Code::NO_NODE) => {
                    self.make_parents(&connection).await?;
                    false
                }
                Err(error) => return Err(error.about(self.path())),
            };
            if made {
                self.holder.set(true);
                return Ok(());
            }
        }
        Err(restless())
    }

    /// Writes the node that exists, if it is ours (ZR10). Returns whether that is done.
    async fn take(&self, connection: &Connection) -> Result<bool, RegistryError> {
        let version = match self.owner(connection).await? {
            Owner::Nobody => return Ok(false),
            // A repetition, perhaps because the answer to the first attempt was lost (ZR2).
            Owner::Us {
                former: false,
                data,
                ..
            } if data == self.data => return Ok(true),
            Owner::Us {
                former: false,
                version,
                ..
            } => {
                let set = Body::set(self.path(), &self.data, version);
                return self.done(connection.call(set).await.map(|_| Ok(())));
            }
            Owner::Us { version, .. } => version,
            Owner::SameId { version } if !self.holder.holds() => version,
            Owner::SameId { .. } => return Err(self.taken_over()),
            Owner::Other(what) => {
                let why = format!("the node {:?} holds {what}", self.path());
                return Err(RegistryError::new(ErrorKind::Refused, why));
            }
        };
        // ZR3: one transaction, so that no reader sees the node missing. A node that is only written
        // would go with the old session.
        let replace = Body::replace(self.path(), version, &self.data, self.acl);
        let replaced = connection.call(replace).await;
        let replaced = replaced.and_then(|reply| Ok(reply.fields().transaction()?));
        self.done(replaced)
    }

    /// Whether the node is written; it may have changed since it was looked at.
    fn done(&self, written: Result<Result<(), Code>, CallError>) -> Result<bool, RegistryError> {
        let code = match written {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(code)) | Err(CallError::Said { code, .. }) => code,
            Err(error) => return Err(error.about(self.path())),
        };
        match code {
            Code::NO_NODE | Code::BAD_VERSION | Code::NODE_EXISTS => Ok(false),
            _ => Err(CallError::Said { code, zxid: 0 }.about(self.path())),
        }
    }

    async fn owner(&self, connection: &Connection) -> Result<Owner, RegistryError> {
        let reply = match connection.call(Body::get(self.path(), false)).await {
            Ok(reply) => reply,
            Err(error) if error.is(Code::NO_NODE) => return Ok(Owner::Nobody),
            Err(error) => return Err(error.about(self.path())),
        };
        let fields = reply.fields().data();
        let (data, stat) = fields.map_err(|why| CallError::from(why).about(self.path()))?;
        let version = stat.version;
        if is_ours(&self.client, connection, &stat) {
            return Ok(Owner::Us {
                former: stat.owner != connection.up.session,
                version,
                data: data.to_vec(),
            });
        }
        if stat.owner == 0 {
            let what = "a record that no process holds, so that somebody meant it to stay";
            return Ok(Owner::Other(what.to_owned()));
        }
        let decoded = RecordFormat::new().decode(&self.instance.service, "", data);
        Ok(match decoded {
            Ok(instance) if instance.key == self.instance.key => Owner::SameId { version },
            Ok(instance) => Owner::Other(format!("the instance {}", instance.key)),
            Err(why) => Owner::Other(format!("what is no instance: {why}")),
        })
    }

    fn taken_over(&self) -> RegistryError {
        let why = format!(
            "another process has registered {} since, and this one does not take it back",
            self.instance.key
        );
        RegistryError::new(ErrorKind::Refused, why)
    }

    /// Makes the nodes above, never as containers, which servers delete when they are empty (ZR14).
    async fn make_parents(&self, connection: &Connection) -> Result<(), RegistryError> {
        let path = self.path();
        let last = path.rfind('/').unwrap_or_default();
        for (end, _) in path.match_indices('/').skip(1) {
            let parent = &path[..end];
            // Whoever may write the node of a service may delete its instances. The nodes above are for
            // all services, of other users too.
            let acl = if end == last {
                self.acl
            } else {
                ZookeeperAcl::Open
            };
            let create = Body::create(parent, b"", acl, false);
            match connection.call(create).await {
                Ok(_) => {}
                // Who may not write a node above may write the last one, perhaps.
                Err(error) if error.is(Code::NODE_EXISTS) || error.is(Code::NO_AUTH) => {}
                Err(error) => return Err(error.about(parent)),
            }
        }
        Ok(())
    }

    async fn renewal(&mut self) -> Result<Renewal, RegistryError> {
        let connection = self.client.connected().await?;
        let changed = self.listener.take().node;
        let known = self.checked.is_some_and(|checked| {
            // ZR11: also looked at from time to time, in case an event is ever missed.
            checked.connection == connection.up.number
                && checked.at.elapsed() < connection.up.timeout / 3
        });
        if known && !changed {
            return Ok(Renewal::Kept);
        }
        self.checked = None;
        let at = Instant::now();
        let stat = match connection.call(Body::exists(self.path(), true)).await {
            Ok(reply) => stat(&reply)?,
            // ZR4: an operator deleted it, or the servers lost it.
            Err(error) if error.is(Code::NO_NODE) => return Ok(Renewal::Lost),
            Err(error) => return Err(error.about(self.path())),
        };
        if stat.owner == connection.up.session {
            self.checked = Some(Checked {
                connection: connection.up.number,
                at,
            });
            return Ok(Renewal::Kept);
        }
        // Of a session that has ended: the node goes with it, unless it is taken over (ZR3).
        match is_ours(&self.client, &connection, &stat) {
            true => Ok(Renewal::Lost),
            false => Err(self.taken_over()),
        }
    }

    async fn retract(&mut self) -> Result<(), RegistryError> {
        let connection = self.client.connected().await?;
        delete_own(&self.client, &connection, self.path()).await?;
        self.holder.set(false);
        Ok(())
    }
}

impl Lease for ZookeeperLease {
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.announce())
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>> {
        Box::pin(self.renewal())
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.retract())
    }

    fn renew_every(&self) -> Duration {
        LOOK_EVERY
    }
}

impl Drop for ZookeeperLease {
    fn drop(&mut self) {
        self.listener.end();
        self.client.disarm([self.path().to_owned()]);
    }
}
