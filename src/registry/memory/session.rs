//! Clients of a registry in the same process: watches and registrations.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rand::RngExt;
use tokio::{
    sync::watch as cell,
    time::{sleep, timeout},
};

use super::{
    Defaults, Memory, Shared,
    record::{Beat, Check, Entry, Look, Position},
    wire,
};
use crate::{
    catalog::Listing,
    error::{Error, ErrorKind},
    instance::Host,
    registry::{Announcement, Answer, Backend, BoxFuture, Health, Lease, Query, Renewal, Source},
};

/// How often an idle watch is confirmed; three times before a copy counts as stale.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);

/// How long an operation of a registration may take while the registry is paused.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The longest time between heartbeats, so that a lost registration is noticed soon; one costs a
/// lookup.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The time between heartbeats of a registration: a third of its TTL, so that two may be lost.
pub(in crate::registry) fn renew_every(entry: &Entry) -> Duration {
    entry
        .beat
        .map_or(RENEW_EVERY, |beat| (beat.ttl / 3).min(RENEW_EVERY))
}

/// Tells the registrations of one client apart: those that follow each other without a gap (an update)
/// are one, those before and after an end are two.
#[derive(Debug, Default)]
pub(in crate::registry) struct Sessions(Mutex<HashMap<Arc<str>, Weak<str>>>);

impl Sessions {
    pub(in crate::registry) fn of(&self, id: &str) -> Arc<str> {
        // The map is whole at every point where its holder could panic.
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(id).and_then(Weak::upgrade) {
            return session;
        }
        sessions.retain(|_, session| session.strong_count() > 0);
        let session: Arc<str> = format!("{:016x}", rand::rng().random::<u64>()).into();
        sessions.insert(id.into(), Arc::downgrade(&session));
        session
    }
}

/// Turns an announcement into what the registry holds.
///
/// # Errors
/// When the instance or its check cannot be held.
pub(in crate::registry) fn entry_of(
    announcement: &Announcement,
    backend: &Arc<str>,
    defaults: Defaults,
    session: Option<Arc<str>>,
) -> Result<Entry, Error> {
    let instance = announcement.instance().clone();
    let invalid = |message: String| {
        Error::new(
            ErrorKind::Invalid,
            Arc::clone(backend),
            Arc::clone(&instance.service),
            message,
        )
    };
    let longest = wire::LONGEST_NAME;
    let zone = instance.zone.as_deref().unwrap_or_default();
    if [&*instance.service, instance.id(), zone]
        .iter()
        .any(|text| text.len() > longest)
    {
        let message = format!("service, id and zone must not be longer than {longest} bytes");
        return Err(invalid(message));
    }
    // A host can be made without parsing it.
    let host = instance.address.host().to_string();
    if let Err(error) = host.parse::<Host>() {
        return Err(invalid(error.to_string()));
    }
    let check = |path: Option<String>, interval: Duration, timeout: Duration| {
        Some(Arc::new(Check {
            path,
            interval: interval.min(wire::LONGEST),
            timeout: timeout.min(wire::LONGEST),
            max_failures: defaults.max_failures,
            reap_after: announcement
                .reaped_after()
                .map(|time| time.min(wire::LONGEST)),
        }))
    };
    let (beat, check) = match announcement.health_check() {
        Health::Ttl(ttl) => {
            let beat = Beat::within((*ttl).min(wire::LONGEST), defaults.max_failures);
            (Some(beat), None)
        }
        Health::Http { .. } if cfg!(not(feature = "_hyper")) => {
            let message = "a check over HTTP needs the feature \"http\" or \"rest\"";
            return Err(invalid(message.to_owned()));
        }
        Health::Http {
            target,
            interval,
            timeout,
        } => {
            if !wire::is_path(target) || target.len() > longest {
                let message = format!(
                    "{target:?} cannot be checked: this registry requests a path of the instance, \
                     which begins with / and is at most {longest} bytes of visible ASCII"
                );
                return Err(invalid(message));
            }
            (None, check(Some(target.clone()), *interval, *timeout))
        }
        Health::Tcp { interval, timeout } => (None, check(None, *interval, *timeout)),
        Health::Grpc { .. } => {
            let message = "this registry makes no gRPC checks; use a TTL, HTTP or TCP";
            return Err(invalid(message.to_owned()));
        }
        Health::Unchecked => (None, None),
    };
    Ok(Entry {
        instance,
        beat,
        check,
        session,
    })
}

impl Backend for Memory {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.shared.name)
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, Error> {
        self.shared.tend();
        let position = self.shared.store().subscribe(query.service());
        Ok(vec![Box::new(Watcher {
            shared: Arc::clone(&self.shared),
            query: query.clone(),
            position,
            drops: self.shared.faults.drops(),
            seen: None,
        })])
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, Error> {
        let session = self.sessions.of(announcement.instance().id());
        let (name, defaults) = (&self.shared.name, self.shared.defaults);
        let entry = entry_of(announcement, name, defaults, Some(session))?;
        Ok(Box::new(Registrar {
            shared: Arc::clone(&self.shared),
            entry,
            generation: None,
        }))
    }
}

impl Shared {
    fn error(&self, kind: ErrorKind, service: &Arc<str>, message: &str) -> Error {
        Error::new(kind, Arc::clone(&self.name), Arc::clone(service), message)
    }

    async fn admit_for(&self, service: &Arc<str>) -> Result<(), Error> {
        let admitted = self.admit().await;
        admitted.map_err(|_| self.error(ErrorKind::Unavailable, service, "told to fail"))
    }
}

struct Watcher {
    shared: Arc<Shared>,
    query: Query,
    position: cell::Receiver<Position>,
    drops: cell::Receiver<u64>,
    seen: Option<Position>,
}

impl Watcher {
    fn list(&mut self) -> Answer {
        let Look {
            position,
            exists,
            records: instances,
        } = {
            // Under the lock, so that no change falls between the two.
            let store = self.shared.store();
            self.position.mark_unchanged();
            store.look(&self.query, |record| Arc::clone(&record.instance))
        };
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

impl Source for Watcher {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, Error>> {
        Box::pin(async {
            self.shared.admit_for(self.query.service()).await?;
            self.drops.mark_unchanged();
            Ok(self.list())
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, Error>> {
        Box::pin(async {
            let service = self.query.service();
            let changed = async {
                let paused = self.shared.faults.is_paused();
                self.shared.admit_for(service).await?;
                if paused {
                    // The copy may be stale, and need not stay so until it is confirmed.
                    return Ok(true);
                }
                // Neither can fail: the senders are behind `self.shared`.
                let changed = tokio::select! {
                    _ = self.position.changed() => true,
                    () = sleep(CONFIRM_EVERY) => false,
                };
                self.shared.faults.open().await;
                Ok(changed)
            };
            let changed: Result<bool, Error> = tokio::select! {
                biased;
                _ = self.drops.changed() => {
                    let message = "the watch was told to break";
                    Err(self.shared.error(ErrorKind::Unreachable, service, message))
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

struct Registrar {
    shared: Arc<Shared>,
    entry: Entry,
    generation: Option<u64>,
}

impl Registrar {
    async fn bounded<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        let service = &self.entry.instance.service;
        let bounded = async {
            self.shared.admit_for(service).await?;
            Ok(work.await)
        };
        timeout(ANSWER_WITHIN, bounded).await.unwrap_or_else(|_| {
            let message = format!("no answer within {ANSWER_WITHIN:?}");
            Err(self.shared.error(ErrorKind::Timeout, service, &message))
        })
    }
}

impl Lease for Registrar {
    fn register(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let generation = self.bounded(async {
                let (record, position) = self.shared.register(self.entry.clone());
                self.shared.saved(position).await;
                record.instance.generation
            });
            self.generation = Some(generation.await?);
            Ok(())
        })
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, Error>> {
        Box::pin(self.bounded(async { self.shared.heartbeat(self.entry.instance.id()) }))
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.bounded(async {
            // A generation that another process registered is not ours to take out.
            let id = self.entry.instance.id();
            if let Some((_, position)) = self.shared.deregister(id, self.generation) {
                self.shared.saved(position).await;
            }
        }))
    }

    fn renew_every(&self) -> Duration {
        renew_every(&self.entry)
    }
}
