//! The task of a registration.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use rand::rngs::SmallRng;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch as cell},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    announcement::Announcement,
    event::{RegistrationCommand, RegistrationEvent, RegistryEvent},
};
use crate::{
    backoff::{Backoff, after, hinted},
    error::{ErrorKind, RegistryError},
    registry::{
        contract::{Backend, Lease, Renewal},
        settings::WatchSettings,
        supervise::{LONGEST_RETRY_AFTER, panicked},
        warned::Warned,
    },
    rng::small_rng,
    task::fenced,
};

/// The time limit for deregistering, all attempts included. If it fails, the check of the instance expires
/// by itself.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(5);

/// How long an open request may take to finish before the deregistration is sent. If a registration
/// arrived after the deregistration, it would bring the instance back.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The delay before a request is repeated that an older one may have overtaken: a registry that was
/// paused carries out all requests it has received at once, in any order. Arbitrary: many times the time
/// that this takes, and short for a caller that waits.
const SETTLE: Duration = Duration::from_millis(250);

/// What the task of a registration begins with, for one registry.
pub(in crate::registry) struct Prepared {
    pub(super) backend: Arc<dyn Backend>,
    lease: Box<dyn Lease>,
    backoff: Backoff,
    seed: Option<u64>,
}

impl Prepared {
    pub(in crate::registry) fn new(
        backend: Arc<dyn Backend>,
        announcement: &Announcement,
        settings: &WatchSettings,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            lease: backend.register(announcement)?,
            backend,
            backoff: settings.backoff,
            seed: settings.seed,
        })
    }
}

/// The task of a [`Registration`](super::Registration) in one registry.
pub(super) struct Keeper {
    backend: Arc<dyn Backend>,
    registry: Arc<str>,
    service: Arc<str>,
    lease: Box<dyn Lease>,
    events: broadcast::Sender<RegistryEvent>,
    stands: cell::Sender<bool>,
    backoff: Backoff,
    rng: SmallRng,
    /// Whether the next request registers; else it renews.
    due: bool,
    /// Whether a registration succeeded before, so that the next success is not the first.
    ever: bool,
    /// Whether the next registration carries the data of an update.
    updated: bool,
    updating: Option<Updating>,
    /// Whether a registration was abandoned before its response: the registry may still carry it out.
    unsettled: bool,
    warned: Warned,
}

/// An update whose result is not known yet.
struct Updating {
    reply: oneshot::Sender<Result<(), RegistryError>>,
    /// The registration before the update; it is restored if the registry refuses the new data.
    former: Box<dyn Lease>,
}

/// The reason why a wait ended.
enum Woken<T> {
    Done(T),
    /// A command arrived at this time; `None` if the last handle was dropped.
    Told(Option<RegistrationCommand>, Instant),
}

impl Keeper {
    pub(super) fn new(
        prepared: Prepared,
        service: &Arc<str>,
        events: broadcast::Sender<RegistryEvent>,
        stands: cell::Sender<bool>,
    ) -> Self {
        let Prepared {
            backend,
            lease,
            backoff,
            seed,
        } = prepared;
        Self {
            registry: backend.name(),
            backend,
            service: Arc::clone(service),
            lease,
            events,
            stands,
            backoff,
            rng: small_rng(seed),
            due: true,
            ever: false,
            updated: false,
            updating: None,
            unsettled: false,
            warned: Warned::default(),
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<RegistrationCommand>) {
        let mut failures = 0;
        let mut losses = 0;
        loop {
            let began = Instant::now();
            let registering = self.due;
            let (woken, finished) = {
                let step = async {
                    if registering {
                        self.lease.register().await.map(|()| Renewal::Kept)
                    } else {
                        self.lease.renew().await
                    }
                };
                let mut step = pin!(fenced(step));
                let woken = or_command(&mut step, &mut commands).await;
                // An open request finishes before the next one is sent, whatever its result.
                let finished = match &woken {
                    Woken::Told(..) => timeout(FINISH_WITHIN, step).await.is_ok(),
                    Woken::Done(_) => true,
                };
                (woken, finished)
            };
            self.unsettled |= registering && !finished;
            let outcome = match woken {
                Woken::Done(Some(outcome)) => outcome,
                Woken::Done(None) => Err(panicked()),
                Woken::Told(command, at) => {
                    if self.obey(command, at).await {
                        continue;
                    }
                    return;
                }
            };
            let next = match outcome {
                Ok(Renewal::Kept) if registering => {
                    failures = 0;
                    self.warned.succeeded();
                    match self.registered() {
                        // A Consul agent persists a check's state only with an update of that check, so
                        // the first heartbeat follows at once.
                        true => began,
                        false => Instant::now() + SETTLE,
                    }
                }
                Ok(Renewal::Kept) => {
                    if failures > 0 {
                        self.tell(RegistrationEvent::Recovered);
                    }
                    (failures, losses) = (0, 0);
                    self.warned.succeeded();
                    after(began, self.lease.renew_every())
                }
                Ok(Renewal::Lost) => {
                    self.stands.send_replace(false);
                    self.due = true;
                    // The first new registration is immediate. Later ones wait, so that a registry that
                    // always loses the instance does not get requests in a tight loop.
                    losses += 1;
                    match losses {
                        1 => began,
                        _ => after(Instant::now(), self.backoff.delay(losses, &mut self.rng)),
                    }
                }
                Err(error) => {
                    failures += 1;
                    let delay = self.failed(error, registering, failures);
                    after(Instant::now(), delay)
                }
            };
            let woken = or_command(&mut pin!(sleep_until(next)), &mut commands).await;
            if let Woken::Told(command, at) = woken
                && !self.obey(command, at).await
            {
                return;
            }
        }
    }

    /// Records a successful registration. Returns whether it is final; if not, it must be repeated.
    fn registered(&mut self) -> bool {
        let stood = self.stands.send_replace(true);
        if let Some(Updating { reply, .. }) = self.updating.take() {
            let _ = reply.send(Ok(()));
        }
        let updated = std::mem::take(&mut self.updated);
        let repeated = self.unsettled && stood && !updated;
        if !self.ever {
            self.tell(RegistrationEvent::Registered);
        } else if updated {
            self.tell(RegistrationEvent::Updated);
        } else if !stood {
            self.tell(RegistrationEvent::Reregistered);
        }
        self.ever = true;
        self.unsettled &= !repeated;
        self.due = self.unsettled;
        !self.due
    }

    /// Reports a failure. Returns the time until the next attempt.
    fn failed(&mut self, error: RegistryError, registering: bool, failures: u32) -> Duration {
        let error = self.about(error);
        let refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::Invalid);
        self.unsettled |= registering && error.kind() == ErrorKind::Timeout;
        if let Some(Updating { reply, former }) = self.updating.take() {
            if refused {
                // The heartbeats of the registration before the update must continue.
                self.lease = former;
                self.due = !*self.stands.borrow() || self.unsettled;
                self.updated = false;
            }
            let _ = reply.send(Err(error.clone()));
        }
        let own = self.backoff.delay(failures, &mut self.rng);
        let delay = match error.retry_after() {
            Some(asked) => hinted(asked.min(LONGEST_RETRY_AFTER), own, &mut self.rng),
            None => own,
        };
        let chain = error.to_chain();
        if self.warned.is_new(&error) {
            tracing::warn!(error = chain, registering, "registration is not confirmed");
        } else {
            tracing::debug!(
                error = chain,
                registering,
                failures,
                "it is not confirmed again"
            );
        }
        self.tell(if registering {
            RegistrationEvent::RegisterFailed { error }
        } else {
            RegistrationEvent::HeartbeatFailed { error }
        });
        match (registering, refused) {
            // Only a person can fix it.
            (true, true) => delay.saturating_mul(2),
            (true, false) => delay,
            // A failed heartbeat must not delay the next one beyond its usual time.
            (false, _) => delay.min(self.lease.renew_every()),
        }
    }

    /// Carries out a command, or deregisters if no handle is left. Returns whether the task continues.
    async fn obey(&mut self, command: Option<RegistrationCommand>, at: Instant) -> bool {
        let reply = match command {
            Some(RegistrationCommand::Update(announcement, reply)) => {
                let prepare = async {
                    announcement.validate()?;
                    self.backend.register(&announcement)
                };
                let prepared = fenced(prepare).await;
                match prepared.unwrap_or_else(|| Err(panicked())) {
                    Ok(lease) => {
                        let former = std::mem::replace(&mut self.lease, lease);
                        // If earlier updates have no result yet, the first of them holds the last
                        // confirmed registration.
                        let former = match self.updating.take() {
                            Some(unfinished) => unfinished.former,
                            None => former,
                        };
                        self.updating = Some(Updating { reply, former });
                        (self.due, self.updated) = (true, true);
                    }
                    Err(error) => {
                        let _ = reply.send(Err(self.about(error)));
                    }
                }
                return true;
            }
            Some(RegistrationCommand::Deregister(reply)) => Some(reply),
            None => None,
        };
        let outcome = self.deregister(at + DEREGISTER_WITHIN).await;
        let outcome = outcome.map_err(|error| self.about(error));
        self.stands.send_replace(false);
        self.tell(match &outcome {
            Ok(()) => RegistrationEvent::Deregistered,
            Err(error) => RegistrationEvent::DeregisterFailed {
                error: error.clone(),
            },
        });
        if let Some(reply) = reply {
            let _ = reply.send(outcome);
        }
        false
    }

    fn about(&self, error: RegistryError) -> RegistryError {
        error.about(&self.registry, &self.service)
    }

    async fn deregister(&mut self, until: Instant) -> Result<(), RegistryError> {
        let mut failures = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(outcome) = timeout(left, fenced(async { self.lease.deregister().await })).await
            else {
                let late = format!("not deregistered within {DEREGISTER_WITHIN:?}");
                return Err(RegistryError::new(ErrorKind::Timeout, late));
            };
            let error = match outcome {
                Some(Ok(())) => break,
                Some(Err(error)) => error,
                None => panicked(),
            };
            failures += 1;
            let next = after(Instant::now(), self.backoff.delay(failures, &mut self.rng));
            if next >= until {
                return Err(error);
            }
            sleep_until(next).await;
        }
        if self.unsettled {
            sleep(SETTLE).await;
            let again = fenced(async { self.lease.deregister().await });
            let _ = timeout(FINISH_WITHIN, again).await;
        }
        Ok(())
    }

    fn tell(&self, event: RegistrationEvent) {
        match &event {
            RegistrationEvent::Registered => tracing::info!("registered"),
            RegistrationEvent::Reregistered => {
                tracing::info!("registered again, the registry had lost it");
            }
            RegistrationEvent::Recovered => tracing::info!("heartbeats succeed again"),
            RegistrationEvent::Updated => tracing::info!("updated"),
            RegistrationEvent::Deregistered => tracing::info!("deregistered"),
            RegistrationEvent::DeregisterFailed { error } => {
                tracing::warn!(error = %error.to_chain(), "not deregistered, its check will expire");
            }
            // Logged where the attempt failed.
            RegistrationEvent::RegisterFailed { .. }
            | RegistrationEvent::HeartbeatFailed { .. } => {}
        }
        // An error means that no receiver exists, which is allowed.
        let _ = self.events.send((Arc::clone(&self.registry), event));
    }
}

async fn or_command<F: Future + Unpin>(
    future: &mut F,
    commands: &mut mpsc::Receiver<RegistrationCommand>,
) -> Woken<F::Output> {
    tokio::select! {
        biased;
        command = commands.recv() => Woken::Told(command, Instant::now()),
        output = future => Woken::Done(output),
    }
}
