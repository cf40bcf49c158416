//! Keeps an instance registered: the guard, its heartbeat, and a graceful end.
//!
//! One task for each registration, apart from the application's load. It registers, confirms at
//! once, renews, registers again when the registry lost the instance, and never gives up: a first
//! registration that fails is tried again like any later one.
//!
//! ```text
//! register ──ok──▶ renew ──▶ wait ──▶ renew ──▶ …      stop or drop at any point
//!    ▲  │err         │Lost              │err                     │
//!    │  └─ backoff   │                  └─ backoff, renew        ▼
//!    └───────────────┘                                   finish what is open, deregister
//! ```
//!
//! To leave without a lost request: [`Registration::deregister`] first, go on serving for as long
//! as watchers need to notice, then stop accepting and finish what is in flight.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use rand::rngs::SmallRng;
use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot, watch as cell},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Backend, Lease, Renewal, Settings, supervise::fenced};
use crate::{
    backoff::{Backoff, after},
    error::{ConfigError, Error, ErrorKind},
    instance::{Host, Instance},
    rng::small_rng,
};

/// How long leaving may take in all; a registration with a check expires by itself after that.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(5);

/// How long a request that is under way when the end comes may finish. A registration that arrived
/// after the deregistration would bring the instance back.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// After how long a request is repeated that an older one may have overtaken: a registry that was
/// paused carries out all that it had received at once, in any order. Arbitrary: many times what
/// that takes, and short for somebody who waits.
const SETTLE: Duration = Duration::from_millis(250);

/// How a registry finds out whether an instance is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// This process sends heartbeats; without one for this long it is unhealthy.
    Ttl(Duration),
    /// The registry requests this path (or a whole `http://` URL) from the instance.
    Http {
        /// Starts with `/`, or is a whole URL.
        target: String,
        /// The time between checks.
        interval: Duration,
        /// How long one check may take.
        timeout: Duration,
    },
    /// The registry connects to the instance.
    Tcp {
        /// The time between checks.
        interval: Duration,
        /// How long one check may take.
        timeout: Duration,
    },
    /// The registry calls `grpc.health.v1.Health/Check` of the instance.
    Grpc {
        /// The service asked about; empty for the whole server.
        service: String,
        /// The time between checks.
        interval: Duration,
        /// How long one check may take.
        timeout: Duration,
    },
    /// Nothing is checked: the instance counts as healthy until it is deregistered.
    Unchecked,
}

impl Health {
    /// Checks a path every 10 s, with a timeout of 2 s.
    pub fn http(target: impl Into<String>) -> Self {
        Self::Http {
            target: target.into(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }

    /// Connects every 10 s, with a timeout of 2 s.
    pub fn tcp() -> Self {
        Self::Tcp {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }

    /// Calls the gRPC health service every 10 s, with a timeout of 2 s.
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::Grpc {
            service: service.into(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        match self {
            // A TTL of zero would register no check at all in Consul: healthy for ever.
            Self::Ttl(ttl) if *ttl < Duration::from_millis(100) => Err(ConfigError::new(
                "health",
                format!("a TTL of {ttl:?} is below 100 ms"),
            )),
            Self::Ttl(_) | Self::Unchecked => Ok(()),
            Self::Http { target, .. }
                if !["/", "http://", "https://"]
                    .iter()
                    .any(|start| target.starts_with(start)) =>
            {
                Err(ConfigError::new(
                    "health",
                    format!("{target:?} is neither a path nor an http URL"),
                ))
            }
            Self::Http {
                interval, timeout, ..
            }
            | Self::Tcp { interval, timeout }
            | Self::Grpc {
                interval, timeout, ..
            } => {
                if *interval < second / 100 || timeout.is_zero() {
                    return Err(ConfigError::new(
                        "health",
                        format!(
                            "interval {interval:?} is below 10 ms or timeout {timeout:?} is zero"
                        ),
                    ));
                }
                Ok(())
            }
        }
    }
}

/// An instance, and how the registry shall treat it. Made from an [`Instance`] alone, too.
#[derive(Clone, Debug)]
pub struct Announcement {
    instance: Instance,
    health: Health,
    reap_after: Option<Duration>,
}

impl Announcement {
    /// Announces `instance` with a TTL of 10 s, removed after 10 minutes without a sign of life.
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            health: Health::Ttl(Duration::from_secs(10)),
            reap_after: Some(Duration::from_secs(600)),
        }
    }

    /// Sets how the registry finds out whether it is healthy; a TTL of 10 s by default.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Sets after how long of bad health the registry forgets the instance; 10 min by default,
    /// well above any pause that a process survives. `None` keeps it. Consul's minimum is 1 min.
    #[must_use]
    pub fn reap_after(mut self, time: Option<Duration>) -> Self {
        self.reap_after = time;
        self
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How the registry finds out whether it is healthy.
    pub fn health_check(&self) -> &Health {
        &self.health
    }

    /// After how long of bad health the registry forgets it.
    pub fn reaped_after(&self) -> Option<Duration> {
        self.reap_after
    }

    pub(super) fn validate(&self, backend: &Arc<str>) -> Result<(), Error> {
        let invalid = |message: String| {
            Error::new(
                ErrorKind::Invalid,
                Arc::clone(backend),
                Arc::clone(&self.instance.service),
                message,
            )
        };
        if self.instance.service.trim().is_empty() {
            return Err(invalid("the service has no name".to_owned()));
        }
        if self.instance.id().trim().is_empty() {
            return Err(invalid("the instance has no id".to_owned()));
        }
        if let Host::Ip(ip) = self.instance.address.host() {
            if ip.is_unspecified() {
                return Err(invalid(format!(
                    "address {}: other processes cannot connect to the unspecified address",
                    self.instance.address
                )));
            }
        }
        let checked = self.health.validate();
        checked.map_err(|error| invalid(error.to_string()))
    }
}

impl From<Instance> for Announcement {
    fn from(instance: Instance) -> Self {
        Self::new(instance)
    }
}

/// What happens to a registration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The registry holds the instance for the first time.
    Registered,
    /// The registry could not be asked to register the instance.
    RegisterFailed(Error),
    /// A heartbeat, or a look whether the registration stands, failed.
    HeartbeatFailed(Error),
    /// Heartbeats arrive again.
    Recovered,
    /// The registry had lost the instance, and holds it again.
    Reregistered,
    /// The instance was updated.
    Updated,
    /// The instance was taken out.
    Deregistered,
    /// The instance could not be taken out; its check will expire.
    DeregisterFailed(Error),
}

enum Command {
    Update(Box<Announcement>, oneshot::Sender<Result<(), Error>>),
    Deregister(oneshot::Sender<Result<(), Error>>),
}

/// Keeps an instance registered for as long as it lives.
///
/// Dropping it deregisters in the background, within 5 s and while the runtime runs;
/// [`deregister`](Self::deregister) waits for that and tells how it went.
#[derive(Debug)]
pub struct Registration {
    commands: mpsc::Sender<Command>,
    events: broadcast::Receiver<Event>,
    registered: cell::Receiver<bool>,
    instance: Instance,
}

impl Registration {
    pub(super) fn spawn(
        runtime: &Handle,
        backend: Arc<dyn Backend>,
        announcement: Announcement,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let lease = backend.register(&announcement)?;
        let (commands, received) = mpsc::channel(4);
        let (sender, events) = broadcast::channel(64);
        let (stands, registered) = cell::channel(false);
        let instance = announcement.instance.clone();
        let keeper = Keeper {
            backend,
            service: Arc::clone(&instance.service),
            lease,
            events: sender,
            stands,
            backoff: settings.backoff,
            rng: small_rng(settings.seed),
            due: true,
            ever: false,
            updated: false,
            updating: None,
            unsettled: false,
        };
        runtime.spawn(keeper.run(received));
        Ok(Self {
            commands,
            events,
            registered,
            instance,
        })
    }

    /// The instance as it was last given.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Waits until the registry holds the instance.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        if registered.wait_for(|stands| *stands).await.is_err() {
            // The task is gone with its runtime: it will never be registered.
            std::future::pending().await
        }
    }

    /// Whether the registry holds the instance, as far as is known.
    pub fn is_registered(&self) -> bool {
        *self.registered.borrow()
    }

    /// Waits for the next event; `None` when there will be none. A reader that is 64 events late
    /// misses the oldest.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Registers other data (weight, tags, address, check) under the same service and id.
    ///
    /// # Errors
    /// When service or id differ or the registry refuses the data, and then what stood before
    /// stands; or when the registry failed, and then it is tried again in the background.
    pub async fn update(&mut self, announcement: impl Into<Announcement>) -> Result<(), Error> {
        let announcement = announcement.into();
        let new = announcement.instance.clone();
        if new.service != self.instance.service || new.key != self.instance.key {
            return Err(Error::new(
                ErrorKind::Invalid,
                "registration",
                Arc::clone(&self.instance.service),
                format!(
                    "an update cannot turn {} of {:?} into {} of {:?}",
                    self.instance.key, self.instance.service, new.key, new.service
                ),
            ));
        }
        let (reply, result) = oneshot::channel();
        let command = Command::Update(Box::new(announcement), reply);
        let sent = self.commands.send(command).await.is_ok();
        let outcome = if sent { result.await.ok() } else { None };
        let outcome = outcome.unwrap_or_else(|| Err(self.ended()));
        if outcome.is_ok() {
            self.instance = new;
        }
        outcome
    }

    /// Stops the heartbeat and takes the instance out, within 5 s.
    ///
    /// # Errors
    /// When the registry could not be told in that time; the instance's check then expires.
    pub async fn deregister(self) -> Result<(), Error> {
        let (reply, result) = oneshot::channel();
        let sent = self.commands.send(Command::Deregister(reply)).await.is_ok();
        let outcome = if sent { result.await.ok() } else { None };
        outcome.unwrap_or_else(|| Err(self.ended()))
    }

    fn ended(&self) -> Error {
        Error::new(
            ErrorKind::Internal,
            "registration",
            Arc::clone(&self.instance.service),
            "its task has ended with its runtime",
        )
    }
}

/// The task behind a [`Registration`].
struct Keeper {
    backend: Arc<dyn Backend>,
    service: Arc<str>,
    lease: Box<dyn Lease>,
    events: broadcast::Sender<Event>,
    stands: cell::Sender<bool>,
    backoff: Backoff,
    rng: SmallRng,
    /// Whether to register next, else to renew.
    due: bool,
    /// Whether it was registered before, so that the next success is a repetition.
    ever: bool,
    /// Whether what is registered next was given by an update.
    updated: bool,
    updating: Option<Updating>,
    /// Whether a registration was given up before it was answered: it may still be carried out.
    unsettled: bool,
}

/// An update without a result so far.
struct Updating {
    reply: oneshot::Sender<Result<(), Error>>,
    /// What stood before, for when the registry refuses the new data.
    former: Box<dyn Lease>,
}

/// How a wait ended.
enum Woken<T> {
    Done(T),
    /// Since when there is a command, or no handle any more.
    Told(Option<Command>, Instant),
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
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
                // Let what is under way arrive, whatever comes of it, before the next request.
                let finished = match &woken {
                    Woken::Told(..) => timeout(FINISH_WITHIN, step).await.is_ok(),
                    Woken::Done(_) => true,
                };
                (woken, finished)
            };
            self.unsettled |= registering && !finished;
            let outcome = match woken {
                Woken::Done(Some(outcome)) => outcome,
                Woken::Done(None) => Err(self.panicked()),
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
                    match self.registered() {
                        // Only updates of a check are persisted by an agent: confirm at once.
                        true => began,
                        false => Instant::now() + SETTLE,
                    }
                }
                Ok(Renewal::Kept) => {
                    if failures > 0 {
                        self.tell(Event::Recovered);
                    }
                    (failures, losses) = (0, 0);
                    after(began, self.lease.renew_every())
                }
                Ok(Renewal::Lost) => {
                    self.stands.send_replace(false);
                    self.due = true;
                    // The first repetition is immediate; a registry that loses the instance each
                    // time is not asked in a loop.
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
            if let Woken::Told(command, at) = woken {
                if !self.obey(command, at).await {
                    return;
                }
            }
        }
    }

    /// Notes a success. Returns whether that settles it, else it is to be repeated.
    fn registered(&mut self) -> bool {
        let stood = self.stands.send_replace(true);
        if let Some(Updating { reply, .. }) = self.updating.take() {
            let _ = reply.send(Ok(()));
        }
        let updated = std::mem::take(&mut self.updated);
        let repeated = self.unsettled && stood && !updated;
        if !self.ever {
            self.tell(Event::Registered);
        } else if updated {
            self.tell(Event::Updated);
        } else if !stood {
            self.tell(Event::Reregistered);
        }
        self.ever = true;
        self.unsettled &= !repeated;
        self.due = self.unsettled;
        !self.due
    }

    /// Reports a failure and returns the time until the next attempt.
    fn failed(&mut self, error: Error, registering: bool, failures: u32) -> Duration {
        let refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::Invalid);
        self.unsettled |= registering && error.kind() == ErrorKind::Timeout;
        if let Some(Updating { reply, former }) = self.updating.take() {
            if refused {
                // The beats of what stands must go on.
                self.lease = former;
                self.due = !*self.stands.borrow() || self.unsettled;
                self.updated = false;
            }
            let _ = reply.send(Err(error.clone()));
        }
        let delay = self.backoff.delay(failures, &mut self.rng);
        tracing::warn!(
            error = %error.to_chain(), failures, registering, "registration is not confirmed"
        );
        self.tell(if registering {
            Event::RegisterFailed(error)
        } else {
            Event::HeartbeatFailed(error)
        });
        match (registering, refused) {
            // Only people can mend it.
            (true, true) => delay.saturating_mul(2),
            (true, false) => delay,
            // A heartbeat that failed must not make the next one late.
            (false, _) => delay.min(self.lease.renew_every()),
        }
    }

    /// Carries out a command, or the end of all handles. Returns whether the registration goes on.
    async fn obey(&mut self, command: Option<Command>, at: Instant) -> bool {
        let reply = match command {
            Some(Command::Update(announcement, reply)) => {
                let prepare = async {
                    announcement.validate(&self.backend.name())?;
                    self.backend.register(&announcement)
                };
                let prepared = fenced(prepare).await;
                match prepared.unwrap_or_else(|| Err(self.panicked())) {
                    Ok(lease) => {
                        let former = std::mem::replace(&mut self.lease, lease);
                        // Of updates that nobody awaited, the first knows what stands.
                        let former = match self.updating.take() {
                            Some(unfinished) => unfinished.former,
                            None => former,
                        };
                        self.updating = Some(Updating { reply, former });
                        (self.due, self.updated) = (true, true);
                    }
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
                return true;
            }
            Some(Command::Deregister(reply)) => Some(reply),
            None => None,
        };
        let outcome = self.deregister(at + DEREGISTER_WITHIN).await;
        self.stands.send_replace(false);
        self.tell(match &outcome {
            Ok(()) => Event::Deregistered,
            Err(error) => Event::DeregisterFailed(error.clone()),
        });
        if let Some(reply) = reply {
            let _ = reply.send(outcome);
        }
        false
    }

    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(
            kind,
            self.backend.name(),
            Arc::clone(&self.service),
            message,
        )
    }

    fn panicked(&self) -> Error {
        self.error(ErrorKind::Internal, "the backend panicked")
    }

    async fn deregister(&mut self, until: Instant) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(outcome) = timeout(left, fenced(async { self.lease.deregister().await })).await
            else {
                let late = format!("not deregistered within {DEREGISTER_WITHIN:?}");
                return Err(self.error(ErrorKind::Timeout, late));
            };
            let error = match outcome {
                Some(Ok(())) => break,
                Some(Err(error)) => error,
                None => self.panicked(),
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

    fn tell(&self, event: Event) {
        tracing::debug!(service = %self.service, ?event, "registration");
        // Nobody need listen.
        let _ = self.events.send(event);
    }
}

async fn or_command<F: Future + Unpin>(
    future: &mut F,
    commands: &mut mpsc::Receiver<Command>,
) -> Woken<F::Output> {
    tokio::select! {
        biased;
        command = commands.recv() => Woken::Told(command, Instant::now()),
        output = future => Woken::Done(output),
    }
}
