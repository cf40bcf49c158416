//! The registration of one instance: a key that lives as long as a lease of etcd.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    client::{CallError, EtcdClient, RANGE, code, failure},
    wire::{Base64, GrantReply, KeepAliveReply, KeyValue, RangeReply, TxnReply},
};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
    registry::{BoxFuture, Lease, Renewal, record::RecordFormat, redact::Secrets},
    sync::lock,
};

/// The time between two looks at the own key, so that a key that is gone (an operator deleted it, or the
/// store was wiped) is back within about a second. A look is one read of a key without its value.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest time limit for a request of a registration: below the 5 s between two keepalives of the
/// default TTL (ER10), and below the 5 s for deregistering in all.
const WITHIN: Duration = Duration::from_secs(4);

/// The first time limit where there are several members: longer than a write takes on a busy cluster, and
/// than an election (about 1 s with etcd's defaults), after which the next attempt succeeds.
pub(super) const FIRST_WITHIN: Duration = Duration::from_millis(1_500);

/// The time limit for a request of a registration, which leaves time for another member within the TTL
/// (ER3).
pub(super) fn within(ttl: Duration) -> Duration {
    WITHIN.min(ttl / 3)
}

/// How often a registration looks again because another one came between its look and its write.
const MOST_TRIES: u32 = 3;

/// The etcd leases of the registrations of one backend. An update makes a new [`EtcdLease`] for the same
/// key, which goes on with the same lease (ER1).
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<Arc<str>, Weak<Holder>>>);

/// What keeps one key alive.
#[derive(Debug, Default)]
pub(super) struct Holder(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The lease; `None` before it is granted, and after its end.
    lease: Option<i64>,
    /// The lease before it. Its key may still be there, and is ours.
    former: Option<i64>,
    /// The last time that etcd confirmed the lease.
    confirmed: Option<Instant>,
    /// Whether this process held the key before.
    held: bool,
}

impl Held {
    pub(super) fn of(&self, key: &str) -> Arc<Holder> {
        let mut held = lock(&self.0);
        if let Some(holder) = held.get(key).and_then(Weak::upgrade) {
            return holder;
        }
        held.retain(|_, holder| holder.strong_count() > 0);
        let holder = Arc::new(Holder::default());
        held.insert(key.into(), Arc::downgrade(&holder));
        holder
    }
}

impl Holder {
    fn state(&self) -> State {
        *lock(&self.0)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.0));
    }

    fn granted(&self, lease: i64) {
        self.change(|state| {
            state.lease = Some(lease);
            state.confirmed = Some(Instant::now());
        });
    }

    /// The lease is gone, or is given up.
    fn ended(&self) {
        self.change(|state| {
            state.former = state.lease.take().or(state.former);
        });
    }
}

/// One registration.
pub(super) struct EtcdLease {
    client: EtcdClient,
    holder: Arc<Holder>,
    instance: Instance,
    key: Vec<u8>,
    value: Vec<u8>,
    ttl: Duration,
}

/// What is stored under the own key.
enum Owner {
    Nobody,
    /// Our lease, or an earlier one of this process, holds the key.
    Us {
        lease: i64,
        modified: i64,
        value: Vec<u8>,
    },
    /// A record of the same id under another lease: of a process that ended, or of one that registered
    /// the same id after us.
    SameId {
        modified: i64,
    },
    Other(String),
}

impl EtcdLease {
    pub(super) fn new(
        client: EtcdClient,
        holder: Arc<Holder>,
        instance: Instance,
        key: Vec<u8>,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Self {
        Self {
            client,
            holder,
            instance,
            key,
            value,
            ttl,
        }
    }

    async fn announce(&mut self) -> Result<(), RegistryError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let lease = self.granted_lease().await?;
            // ER11: what is there decides whether the key may be written.
            let modified = match self.owner(true).await? {
                Owner::Nobody => 0,
                // A repetition, perhaps because the answer to the first attempt was lost.
                Owner::Us {
                    lease: held, value, ..
                } if held == lease && value == self.value => {
                    self.holder.change(|state| state.held = true);
                    return Ok(());
                }
                Owner::Us { modified, .. } => modified,
                Owner::SameId { modified } if !self.holder.state().held => modified,
                Owner::SameId { .. } => return Err(self.taken_over()),
                Owner::Other(what) => {
                    let why = format!(
                        "the key {:?} holds {what}",
                        String::from_utf8_lossy(&self.key)
                    );
                    return Err(RegistryError::new(ErrorKind::Refused, why));
                }
            };
            match self.put(lease, modified).await {
                Ok(true) => {
                    self.holder.change(|state| state.held = true);
                    return Ok(());
                }
                // Another process wrote the key since.
                Ok(false) if tries < MOST_TRIES => {}
                Ok(false) => {
                    let why = "the key changes with each attempt to write it";
                    return Err(RegistryError::new(ErrorKind::Unavailable, why));
                }
                // ER2: the lease is gone.
                Err(failed) if failed.code == code::NOT_FOUND && tries < MOST_TRIES => {
                    self.holder.ended();
                }
                Err(failed) => return Err(failed.error),
            }
        }
    }

    /// Returns the lease, and asks for one if there is none. The TTL that was granted counts, which may
    /// be longer than the one asked for (ER1).
    async fn granted_lease(&mut self) -> Result<i64, RegistryError> {
        if let Some(lease) = self.holder.state().lease {
            return Ok(lease);
        }
        let body = json!({"TTL": self.ttl.as_secs().to_string()});
        let call = self.client.call_lease("/v3/lease/grant", &body);
        let granted: GrantReply = call.await?;
        if granted.id == 0 {
            let why = "an answer to a grant has no lease";
            return Err(RegistryError::new(ErrorKind::Malformed, why));
        }
        self.holder.granted(granted.id);
        let granted = u64::try_from(granted.ttl).unwrap_or_default();
        if granted > 0 {
            self.ttl = Duration::from_secs(granted);
        }
        Ok(self.holder.state().lease.unwrap_or_default())
    }

    /// Reads who holds the key. The value is not needed to see whether we do.
    async fn owner(&mut self, with_value: bool) -> Result<Owner, RegistryError> {
        let body = json!({"key": Base64(self.key.clone()), "keys_only": !with_value});
        let reply: RangeReply = self.client.call(RANGE, &body).await?;
        let Some(kv) = reply.kvs.into_iter().next() else {
            return Ok(Owner::Nobody);
        };
        let state = self.holder.state();
        let lease = Some(kv.lease).filter(|lease| *lease != 0);
        if lease.is_some() && (lease == state.lease || lease == state.former) {
            return Ok(Owner::Us {
                lease: kv.lease,
                modified: kv.mod_revision,
                value: kv.value,
            });
        }
        Ok(if with_value {
            self.stranger(&kv)
        } else {
            Owner::SameId {
                modified: kv.mod_revision,
            }
        })
    }

    fn stranger(&self, kv: &KeyValue) -> Owner {
        let format = RecordFormat::new();
        match format.decode(&self.instance.service, "", &kv.value) {
            Ok(instance) if instance.key == self.instance.key => Owner::SameId {
                modified: kv.mod_revision,
            },
            Ok(instance) => Owner::Other(format!("the instance {}", instance.key)),
            Err(why) => Owner::Other(format!("what is no instance: {why}")),
        }
    }

    fn taken_over(&self) -> RegistryError {
        let why = format!(
            "another process has registered {} since, and this one does not take it back",
            self.instance.key
        );
        RegistryError::new(ErrorKind::Refused, why)
    }

    /// Writes the key, unless it was written since the revision that was seen. Always with the lease: a
    /// key without one stays for ever (ER9).
    async fn put(&mut self, lease: i64, seen: i64) -> Result<bool, CallError> {
        let key = Base64(self.key.clone());
        let compare = json!({
            "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": seen.to_string(),
        });
        let put = json!({"request_put": {
            "key": key, "value": Base64(self.value.clone()), "lease": lease.to_string(),
        }});
        self.txn(compare, put).await
    }

    async fn txn(&mut self, compare: Value, success: Value) -> Result<bool, CallError> {
        let body = json!({"compare": [compare], "success": [success]});
        let reply: TxnReply = self.client.call("/v3/kv/txn", &body).await?;
        Ok(reply.succeeded)
    }

    async fn renewal(&mut self) -> Result<Renewal, RegistryError> {
        let State {
            lease, confirmed, ..
        } = self.holder.state();
        let Some(lease) = lease else {
            return Ok(Renewal::Lost);
        };
        let idle = confirmed.map_or(Duration::MAX, |at| at.elapsed());
        // ER1, ER8: also the first step after a pause of this process.
        if idle >= self.ttl / 3 {
            match self.keep_alive(lease).await {
                Ok(true) => {}
                // ER2: a dead lease is no error, and has no TTL.
                Ok(false) => {
                    self.holder.ended();
                    return Ok(Renewal::Lost);
                }
                // ER4: a lease outlives a lost quorum, so it is kept. Only if its time is over and the
                // key is gone, it is replaced.
                Err(error) if idle < self.ttl => return Err(error),
                Err(error) => {
                    if let Ok(Owner::Nobody) = self.owner(false).await {
                        self.holder.ended();
                        return Ok(Renewal::Lost);
                    }
                    return Err(error);
                }
            }
        }
        // ER5: the key may be gone although the lease lives.
        Ok(match self.owner(false).await? {
            Owner::Us { lease: held, .. } if held == lease => Renewal::Kept,
            Owner::Us { .. } | Owner::Nobody => Renewal::Lost,
            Owner::SameId { .. } | Owner::Other(_) => return Err(self.taken_over()),
        })
    }

    /// Keeps the lease alive. Returns whether it lives.
    async fn keep_alive(&mut self, lease: i64) -> Result<bool, RegistryError> {
        let body = json!({"ID": lease.to_string()});
        let call = self.client.call_lease("/v3/lease/keepalive", &body);
        let reply: KeepAliveReply = call.await?;
        if let Some(said) = reply.error {
            // The request had no token.
            let failed = failure(&said, &Secrets::default());
            self.client.failed(&failed.error);
            return Err(failed.error);
        }
        let kept = reply.result.ok_or_else(|| {
            let why = "an answer to a keepalive is empty";
            RegistryError::new(ErrorKind::Malformed, why)
        })?;
        if kept.ttl > 0 {
            self.holder.granted(lease);
        }
        Ok(kept.ttl > 0)
    }

    async fn retract(&mut self) -> Result<(), RegistryError> {
        let State { lease, former, .. } = self.holder.state();
        // ER7: only what is held by our lease. A successor's key stays.
        for lease in [lease, former].into_iter().flatten() {
            let compare = json!({
                "key": Base64(self.key.clone()), "target": "LEASE", "result": "EQUAL",
                "lease": lease.to_string(),
            });
            let delete = json!({"request_delete_range": {"key": Base64(self.key.clone())}});
            self.txn(compare, delete).await?;
        }
        if let Some(lease) = lease {
            let body = json!({"ID": lease.to_string()});
            let call = self.client.call_lease::<Value>("/v3/lease/revoke", &body);
            match call.await {
                Err(failed) if failed.code != code::NOT_FOUND => return Err(failed.error),
                _ => {}
            }
            self.holder.ended();
        }
        self.holder.change(|state| state.held = false);
        Ok(())
    }
}

impl Lease for EtcdLease {
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
        (self.ttl / 3).min(LOOK_EVERY)
    }
}
