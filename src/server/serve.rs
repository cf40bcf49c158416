//! Runs a server: announces it, and takes it out again in order.

use std::{
    fmt,
    future::{Future, IntoFuture, pending},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch as cell},
    time::{Instant, sleep, sleep_until, timeout_at},
};

#[cfg(feature = "_hyper")]
use super::readiness::Readiness;
use super::{
    error::{Left, ServeError, ServeErrorKind},
    handle::ServerHandle,
    interface::Place,
    progress::{Progress, ServerState},
    settings::ServerSettings,
    signals::LeaveSignals,
};
use crate::{
    backoff::after,
    error::{BoxError, ErrorKind, RegistryError},
    registry::{Registration, RegistrationEvent, Registry},
};

/// The pause before the name of the registry is resolved again. Arbitrary: short beside the time that a name
/// server takes to come back.
const RESOLVE_EVERY: Duration = Duration::from_secs(1);

/// Signals of one order: a supervisor may signal a process and its group, some milliseconds apart. A person
/// who presses Ctrl-C again takes longer to see that nothing happens.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// A server that is announced while it serves; made by [`Registry::announce`].
///
/// Nothing is registered before [`serve`](Self::serve).
#[must_use = "nothing is announced until it serves"]
pub struct AnnouncedServer {
    registry: Registry,
    settings: ServerSettings,
    place: Place,
    progress: cell::Sender<Progress>,
    signals: Option<LeaveSignals>,
}

impl AnnouncedServer {
    pub(super) fn new(
        registry: Registry,
        settings: ServerSettings,
        listening: io::Result<Option<SocketAddr>>,
    ) -> Result<Self, RegistryError> {
        let about =
            |error: RegistryError| error.about(&registry.name(), &Arc::clone(&settings.service));
        let place = settings.place(listening);
        let place = place.map_err(|error| about(error.into()))?;
        registry.can_hold(&settings.announcement(place.provisional()))?;
        let known = match &place {
            Place::Known(address) => Some(settings.announcement(address.clone())),
            Place::AnyInterface(_) => None,
        };
        let known = known.map(|announcement| announcement.instance().clone());
        let (progress, _) = cell::channel(Progress::new(known));
        Ok(Self {
            registry,
            settings,
            place,
            progress,
            signals: None,
        })
    }

    /// Returns a handle that follows the server from other tasks.
    pub fn handle(&self) -> ServerHandle {
        let (registry, service) = (self.registry.clone(), Arc::clone(&self.settings.service));
        ServerHandle::new(registry, service, self.progress.subscribe())
    }

    /// Returns the answer to health checks.
    #[cfg(feature = "_hyper")]
    pub fn readiness(&self) -> Readiness {
        self.handle().readiness()
    }

    /// Makes the server leave when this future completes, instead of at SIGTERM or SIGINT.
    pub fn leave_on(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.signals = Some(LeaveSignals::User(Some(Box::pin(signal))));
        self
    }

    /// Serves until the server has left, or has failed.
    ///
    /// `serve` gets the future that starts the graceful shutdown of the server, and returns the server. It is
    /// registered when that waits for the first time. So what takes time before it accepts connections, such as
    /// connecting to a database, belongs before `serve`: else clients are sent to a server that does not answer yet.
    ///
    /// At SIGTERM or SIGINT ([`leave_on`](Self::leave_on) sets another signal) it leaves: it is deregistered,
    /// which takes 8 s at most, serves for the [`notice`](ServerSettings::notice), and gets its
    /// [`grace`](ServerSettings::grace) to finish. A further signal ends that, once it is deregistered; one within
    /// a second of the last is taken for the same, because supervisors signal a process twice, by itself and
    /// by its group. These signals do not end the process any more, also after `serve` has returned.
    ///
    /// Connections that a server runs on tasks of their own, as axum, tonic and the loop below do, end with the
    /// runtime if they last longer than `grace`.
    ///
    /// # Errors
    /// When the server fails, or a further signal cuts its end short. A registry that fails is not an error:
    /// see [`Left::deregistered`] and [`ServerHandle::passing`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future drops the server, and deregisters the instance in the background, within 8 s and
    /// while the runtime runs.
    ///
    /// # Examples
    /// With tonic, over a stream of connections:
    /// ```text
    /// server.serve(|leave| tonic.serve_with_incoming_shutdown(incoming, leave)).await?;
    /// ```
    ///
    /// With hyper-util, in a loop of one's own:
    /// ```
    /// # use std::convert::Infallible;
    /// # use hyper::{body::Incoming, service::service_fn};
    /// # use hyper_util::{rt::{TokioExecutor, TokioIo}, server::{conn::auto, graceful::GracefulShutdown}};
    /// # use tower_roster::server::AnnouncedServer;
    /// # async fn run(
    /// #     server: AnnouncedServer, listener: tokio::net::TcpListener,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// # let answer = service_fn(|_: http::Request<Incoming>| async {
    /// #     Ok::<_, Infallible>(http::Response::new(String::new()))
    /// # });
    /// let http = auto::Builder::new(TokioExecutor::new());
    /// let graceful = GracefulShutdown::new();
    /// server.serve(async |mut leave| {
    ///     while let Some(accepted) = leave.or(listener.accept()).await {
    ///         let Ok((stream, _)) = accepted else {
    ///             // Out of file descriptors, perhaps: the next one would fail at once.
    ///             tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    ///             continue;
    ///         };
    ///         let connection = http.serve_connection(TokioIo::new(stream), answer);
    ///         tokio::spawn(graceful.watch(connection.into_owned()));
    ///     }
    ///     drop(listener);
    ///     graceful.shutdown().await;
    /// }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve<S>(self, serve: impl FnOnce(Leave) -> S) -> Result<Left, ServeError>
    where
        S: IntoFuture<Output: ServerEnd>,
    {
        let Self {
            registry,
            settings,
            place,
            progress,
            signals,
        } = self;
        let signals = match signals {
            Some(signals) => signals,
            None => LeaveSignals::of_process().map_err(ServeErrorKind::Signals)?,
        };
        let (finish, leave) = oneshot::channel();
        let server = pin!(serve(Leave(leave)).into_future());
        let mut running = Running {
            server,
            end: None,
            signals,
            last_signal: None,
        };
        let _ended = EndedOnDrop(&progress);

        let mut registration = None;
        let announced = announce(&registry, &settings, place, &progress, &mut registration);
        match running.until_signal(announced).await {
            Woken::Signal | Woken::Ended => {}
            Woken::Done(error) => return Err(ServeErrorKind::Registry(error).into()),
        }

        let announced = progress.borrow().state == ServerState::Announced;
        progress.send_modify(|progress| progress.state = ServerState::Leaving);
        tracing::info!(service = %settings.service, "leaving");
        let mut deregistered = Ok(());
        if let Some(registration) = registration {
            let interrupted;
            (deregistered, interrupted) = running.during(registration.deregister()).await;
            progress.send_modify(|progress| {
                progress.state = ServerState::Deregistered;
                progress.deregistered = deregistered.clone();
            });
            if interrupted {
                return Err(ServeErrorKind::Interrupted.into());
            }
            running.while_serving(settings.notice).await?;
        }

        progress.send_modify(|progress| progress.state = ServerState::Finishing);
        // An error means that the server has dropped it, so it needs none.
        let _ = finish.send(());
        let finished = running.ends_within(settings.grace).await?;
        if !finished {
            let grace = settings.grace;
            tracing::warn!(service = %settings.service, ?grace, "requests are still in flight");
        }
        if let Some(Err(error)) = running.end {
            return Err(ServeErrorKind::Server(error).into());
        }
        Ok(Left {
            announced,
            deregistered,
            finished,
        })
    }
}

impl fmt::Debug for AnnouncedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnnouncedServer")
            .field("registry", &self.registry.name())
            .field("settings", &self.settings)
            .field("place", &self.place)
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}

/// Registers the instance, and keeps track of its registration. Completes only if it is impossible.
async fn announce(
    registry: &Registry,
    settings: &ServerSettings,
    place: Place,
    progress: &cell::Sender<Progress>,
    registration: &mut Option<Registration>,
) -> RegistryError {
    let address = match place {
        Place::Known(address) => address,
        Place::AnyInterface(interfaces) => {
            let at = registry.address();
            let mut failures = 0_u32;
            loop {
                match interfaces.towards(at.as_ref()).await {
                    Ok(address) => break address,
                    Err(error) if failures == 0 => {
                        tracing::warn!(registry = %registry.name(), %error, "the registry is not found");
                    }
                    Err(_) => {}
                }
                failures += 1;
                sleep(RESOLVE_EVERY).await;
            }
        }
    };
    let announcement = settings.announcement(address);
    let instance = Arc::new(announcement.instance().clone());
    let registration = match registry.register(announcement) {
        Ok(new) => registration.insert(new),
        Err(error) => return error,
    };
    progress.send_modify(|progress| progress.instance = Some(instance));
    while let Some(event) = registration.event().await {
        match event {
            RegistrationEvent::Registered | RegistrationEvent::Reregistered => {
                progress.send_modify(|progress| {
                    progress.state = ServerState::Announced;
                    progress.refused = None;
                });
            }
            RegistrationEvent::RegisterFailed { error, .. } => {
                let refused = matches!(
                    error.kind(),
                    ErrorKind::Refused | ErrorKind::Denied | ErrorKind::Invalid
                );
                let refused = refused.then_some(error);
                progress.send_if_modified(|progress| {
                    let changed = progress.refused != refused;
                    progress.refused = refused;
                    changed
                });
            }
            _ => {}
        }
    }
    // The task of the registration ends before it is told to only with its runtime.
    pending().await
}

/// Publishes the end, however it comes.
struct EndedOnDrop<'a>(&'a cell::Sender<Progress>);

impl Drop for EndedOnDrop<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|progress| {
            if matches!(
                progress.state,
                ServerState::Announced | ServerState::Leaving
            ) {
                let why = "the server was dropped before the registry confirmed that it has left";
                progress.deregistered = Err(RegistryError::new(ErrorKind::Internal, why));
            }
            progress.state = ServerState::Ended;
        });
    }
}

/// A server that runs while something else happens.
struct Running<'a, F> {
    server: Pin<&'a mut F>,
    /// How the server ended, if it has.
    end: Option<Result<(), BoxError>>,
    signals: LeaveSignals,
    /// When the last signal came that counted.
    last_signal: Option<Instant>,
}

/// What ended a wait.
enum Woken<T> {
    Done(T),
    Signal,
    Ended,
}

impl<F: Future<Output: ServerEnd>> Running<'_, F> {
    /// Polls the server first, so that it accepts connections before the step begins.
    async fn until_signal<T>(&mut self, step: impl Future<Output = T>) -> Woken<T> {
        let end = &mut self.end;
        tokio::select! {
            biased;
            output = self.server.as_mut(), if end.is_none() => {
                *end = Some(output.into_result());
                Woken::Ended
            }
            () = next_signal(&mut self.signals, &mut self.last_signal) => Woken::Signal,
            done = step => Woken::Done(done),
        }
    }

    /// Carries out a step of the leave to its end, which comes soon. The server serves meanwhile. Returns
    /// whether a signal came.
    async fn during<T>(&mut self, step: impl Future<Output = T>) -> (T, bool) {
        let mut step = pin!(step);
        let mut interrupted = false;
        loop {
            match self.until_signal(step.as_mut()).await {
                Woken::Done(done) => return (done, interrupted),
                Woken::Signal => interrupted = true,
                Woken::Ended => {}
            }
        }
    }

    /// Waits for so long, or until the server ends.
    async fn while_serving(&mut self, time: Duration) -> Result<(), ServeError> {
        let until = after(Instant::now(), time);
        if self.end.is_some() {
            return Ok(());
        }
        match self.until_signal(sleep_until(until)).await {
            Woken::Done(()) | Woken::Ended => Ok(()),
            Woken::Signal => Err(ServeErrorKind::Interrupted.into()),
        }
    }

    /// Waits for the end of the server. Returns whether it came in time.
    async fn ends_within(&mut self, time: Duration) -> Result<bool, ServeError> {
        let until = after(Instant::now(), time);
        if self.end.is_some() {
            return Ok(true);
        }
        match timeout_at(until, self.until_signal(pending::<()>())).await {
            Ok(Woken::Signal) => Err(ServeErrorKind::Interrupted.into()),
            Ok(_) => Ok(true),
            Err(_) => Ok(false),
        }
    }
}

/// Waits for a signal that is not the last one again.
///
/// # Cancel safety
/// Dropping the future loses no signal.
async fn next_signal(signals: &mut LeaveSignals, last: &mut Option<Instant>) {
    loop {
        signals.next().await;
        let now = Instant::now();
        if last.is_none_or(|last| now - last >= SAME_SIGNAL) {
            *last = Some(now);
            return;
        }
    }
}

/// Completes when the server has to stop accepting connections and to finish what is in flight; also when the
/// future that serves was dropped.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Leave(oneshot::Receiver<()>);

impl Leave {
    /// Waits for another future, such as the next connection; `None` when the server has to stop.
    ///
    /// # Cancel safety
    /// As that of the other future.
    pub async fn or<T>(&mut self, other: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self => None,
            output = other => Some(output),
        }
    }
}

impl Future for Leave {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_terminated() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// What a server returns at its end: nothing, or whether it failed.
pub trait ServerEnd: sealed::Sealed {
    /// Returns the error, if there is one.
    ///
    /// # Errors
    /// When the server failed.
    fn into_result(self) -> Result<(), BoxError>;
}

impl ServerEnd for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> ServerEnd for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

mod sealed {
    use crate::error::BoxError;

    pub trait Sealed {}
    impl Sealed for () {}
    impl<E: Into<BoxError>> Sealed for Result<(), E> {}
}
