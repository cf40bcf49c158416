//! The backend for clients in the same process: watches and registrations.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::watch as cell,
    time::{sleep, timeout},
};

use super::{
    Memory,
    entry::renew_every,
    record::{Lookup, NewRecord, Position, Record},
    shared::MemoryShared,
};
use crate::{
    catalog::Listing,
    error::{ErrorKind, RegistryError},
    registry::{Announcement, Answer, Backend, BoxFuture, Lease, Query, Renewal, Source},
};

/// The interval at which an idle watch is confirmed: three times in the 30 s after which a set is stale.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);

/// The time limit for an operation of a registration while the registry is paused.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Backend for Memory {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.shared.name)
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        self.shared.tend();
        let position = self.shared.store().services.subscribe(query.service());
        Ok(vec![Box::new(MemorySource {
            shared: Arc::clone(&self.shared),
            query: query.clone(),
            position,
            drops: self.shared.faults.drops(),
            seen: None,
        })])
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let session = self.sessions.of(announcement.instance().id());
        let record = self.admitted(announcement, Some(session))?;
        Ok(Box::new(MemoryLease {
            shared: Arc::clone(&self.shared),
            record,
            generation: None,
        }))
    }
}

impl MemoryShared {
    /// Registers, or says which limit is reached.
    pub(super) fn put(&self, new: NewRecord) -> Result<(Record, Position), RegistryError> {
        self.register(new)
            .map_err(|full| RegistryError::new(ErrorKind::Unavailable, self.limits.full(full)))
    }

    async fn admit(&self) -> Result<(), RegistryError> {
        let admitted = self.faults.admit().await;
        admitted.map_err(|_| RegistryError::new(ErrorKind::Unavailable, "told to fail"))
    }
}

struct MemorySource {
    shared: Arc<MemoryShared>,
    query: Query,
    position: cell::Receiver<Position>,
    drops: cell::Receiver<u64>,
    seen: Option<Position>,
}

impl MemorySource {
    fn list(&mut self) -> Answer {
        let Lookup {
            position,
            exists,
            records: mut instances,
        } = {
            // Both under one lock, so that no change is missed between them.
            let store = self.shared.store();
            self.position.mark_unchanged();
            store.look(self.query.service(), |record| Arc::clone(&record.instance))
        };
        let matches = self.query.matcher();
        instances.retain(|instance| matches(&instance.tags));
        let forgot = self.seen.is_some_and(|seen| seen.epoch != position.epoch);
        self.seen = Some(position);
        Answer::Listing(Listing {
            doubt: (forgot && instances.is_empty())
                .then(|| "the registry started anew and lists nothing".to_owned()),
            exists,
            instances,
            rejected: Vec::new(),
        })
    }
}

impl Source for MemorySource {
    fn expires(&self) -> bool {
        // It is in this process: heartbeats that it missed were not sent.
        false
    }

    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async {
            self.shared.admit().await?;
            self.drops.mark_unchanged();
            Ok(self.list())
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async {
            let changed = async {
                let paused = self.shared.faults.is_paused();
                self.shared.admit().await?;
                if paused {
                    // The set may be stale after a pause, so it is read again at once.
                    return Ok(true);
                }
                // Neither can fail: `self.shared` owns the senders.
                let changed = tokio::select! {
                    _ = self.position.changed() => true,
                    () = sleep(CONFIRM_EVERY) => false,
                };
                self.shared.faults.open().await;
                Ok(changed)
            };
            let changed: Result<bool, RegistryError> = tokio::select! {
                biased;
                _ = self.drops.changed() => {
                    let message = "the watch was told to break";
                    Err(RegistryError::new(ErrorKind::Unreachable, message))
                }
                changed = changed => changed,
            };
            match changed? {
                true => Ok(self.list()),
                false => Ok(Answer::Unchanged),
            }
        })
    }
}

struct MemoryLease {
    shared: Arc<MemoryShared>,
    record: NewRecord,
    generation: Option<u64>,
}

impl MemoryLease {
    async fn bounded<T>(&self, work: impl Future<Output = T>) -> Result<T, RegistryError> {
        let bounded = async {
            self.shared.admit().await?;
            Ok(work.await)
        };
        timeout(ANSWER_WITHIN, bounded).await.unwrap_or_else(|_| {
            let message = format!("no answer within {ANSWER_WITHIN:?}");
            Err(RegistryError::new(ErrorKind::Timeout, message))
        })
    }
}

impl Lease for MemoryLease {
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let generation = self.bounded(async {
                let (record, position) = self.shared.put(self.record.clone())?;
                self.shared.saved(position).await;
                Ok::<_, RegistryError>(record.instance.generation)
            });
            self.generation = Some(generation.await??);
            Ok(())
        })
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>> {
        Box::pin(self.bounded(async { self.shared.heartbeat(self.record.instance.id()) }))
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.bounded(async {
            // Without the generation, it could remove a registration by another process.
            let id = self.record.instance.id();
            if let Some((_, position)) = self.shared.deregister(id, self.generation) {
                self.shared.saved(position).await;
            }
        }))
    }

    fn renew_every(&self) -> Duration {
        renew_every(&self.record)
    }
}
