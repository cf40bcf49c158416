//! Failfast: a bounded wait for a service to be ready, then errors at once until it is.
//!
//! Readiness may stay away for ever: a balancer without an endpoint, a connection that cannot be
//! made, a limit that nobody gives back to. Callers would wait, each with what it holds, and a
//! timeout around each call would let every one of them wait that long. A [`FailFast`] waits once:
//!
//! ```text
//!            pending for the whole wait
//! ┌─────────┐ ─────────────────────────▶ ┌─────────┐
//! │ waiting │                            │ failing │ poll_ready is ready, and calls fail at once
//! └─────────┘ ◀───────────────────────── └─────────┘
//!            the inner service is ready
//! ```
//!
//! Clones share that state, so that a clone per request waits no more either; which is right for what
//! they share below, such as a balancer or a limit.
//!
//! It does not wake itself. While failing, every `poll_ready` asks the inner service again, which
//! keeps the waker of whoever asked last, and the first to find it ready ends the failing for all;
//! a task that waits beside them asks again when the inner service wakes it, or when its own wait is
//! over. An inner service that makes progress only when polled therefore makes it while requests
//! come; put tower's `SpawnReady` below where it should between them too.
//!
//! Since it is ready in order to fail, it misleads everything that takes readiness for health
//! (<https://github.com/linkerd/linkerd2-proxy/pull/2091>): put it above balancers and buffers, never
//! below.
//!
//! # What it costs
//! Ready, one atomic load a call. The timer is made once per clone that ever waits.
//!
//! # Examples
//! ```
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::failfast::FailFastLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(FailFastLayer::default())
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! Customised, above a limit of tower's that is used up:
//! ```
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::failfast::{FailFastError, FailFastLayer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let failfast = FailFastLayer::builder()
//!     .wait(Duration::from_millis(200))
//!     .name("users")
//!     .build()?;
//! let mut service = ServiceBuilder::new()
//!     .layer(failfast)
//!     .concurrency_limit(1)
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//!
//! let first = service.ready().await?.call(1); // takes the only permit
//! let refused = service.clone().oneshot(2).await.unwrap_err();
//! assert!(FailFastError::find(&*refused).is_some());
//! drop(first);
//! assert_eq!(service.oneshot(3).await?, 4);
//! # Ok(())
//! # }
//! ```

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};

use super::find_in_chain;
use crate::{
    backoff,
    classify::NotSent,
    error::{BoxError, ConfigError},
};

/// Bounds the wait for a service to be ready. See the [module](self).
///
/// Services made by one layer, and its clones, share whether they fail.
#[derive(Clone, Debug)]
pub struct FailFastLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    wait: Duration,
    /// A wait was over, and no clone has found the inner service ready since. Relaxed: it publishes
    /// nothing, and each clone asks its own inner service first.
    failing: AtomicBool,
}

impl FailFastLayer {
    /// Settings to begin with: all defaults.
    pub fn builder() -> Builder {
        Builder {
            name: Arc::from(""),
            wait: Duration::from_secs(3),
        }
    }

    /// Whether calls fail at once now.
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Relaxed)
    }
}

impl Default for FailFastLayer {
    fn default() -> Self {
        Self::builder().finish()
    }
}

impl<S> Layer<S> for FailFastLayer {
    type Service = FailFast<S>;

    fn layer(&self, inner: S) -> FailFast<S> {
        FailFast::new(inner, Arc::clone(&self.shared))
    }
}

/// Settings of a failfast.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are built"]
pub struct Builder {
    name: Arc<str>,
    wait: Duration,
}

impl Builder {
    /// Names it in errors and events, usually after the service. Default: no name.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the inner service may stay unready: from 1 ms, where nobody waits for a new
    /// connection, to 365 days, where everybody does. Default: 3 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When the wait is out of its range.
    pub fn build(self) -> Result<FailFastLayer, ConfigError> {
        let most = Duration::from_secs(365 * 86_400);
        if !(Duration::from_millis(1)..=most).contains(&self.wait) {
            return Err(ConfigError::new(
                "wait",
                format!("{:?} must be from 1 ms to 365 days", self.wait),
            ));
        }
        Ok(self.finish())
    }

    /// Makes the layer of settings known to be valid.
    fn finish(self) -> FailFastLayer {
        FailFastLayer {
            shared: Arc::new(Shared {
                name: self.name,
                wait: self.wait,
                failing: AtomicBool::new(false),
            }),
        }
    }
}

/// Fails calls at once after the inner service was not ready for a while; made by a
/// [`FailFastLayer`].
pub struct FailFast<S> {
    inner: S,
    shared: Arc<Shared>,
    /// When this clone found the inner service not ready first; `None` while it is.
    since: Option<Instant>,
    /// Kept from one wait to the next.
    timer: Option<Pin<Box<Sleep>>>,
    /// The last `poll_ready` was ready in order to fail.
    failing: bool,
}

impl<S> FailFast<S> {
    fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            shared,
            since: None,
            timer: None,
            failing: false,
        }
    }

    /// The service within.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Ends the failing for all, if there was any.
    fn recover(&mut self) {
        self.since = None;
        self.failing = false;
        // A load first: every clone may write here with each call.
        if self.shared.failing.load(Relaxed) && self.shared.failing.swap(false, Relaxed) {
            tracing::info!(
                name = &*self.shared.name,
                "ready again, no longer failing fast"
            );
        }
    }

    /// Whether the wait is over, for this clone or for another.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shared.failing.load(Relaxed) {
            return true;
        }
        let (now, wait) = (Instant::now(), self.shared.wait);
        // Woken at the end of its wait, a task that still waits comes soon after it. One that comes
        // much later gave up between, and begins anew.
        let kept = self.since.filter(|since| {
            let waited = now.saturating_duration_since(*since);
            waited < wait.saturating_mul(2)
        });
        let since = kept.unwrap_or(now);
        if kept.is_none() {
            self.since = Some(now);
            let end = backoff::after(now, wait);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(end),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(end))),
            }
        }
        let Some(timer) = &mut self.timer else {
            return false;
        };
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        if !self.shared.failing.swap(true, Relaxed) {
            let name = &*self.shared.name;
            tracing::warn!(name, waited = ?now.saturating_duration_since(since), "not ready, failing fast");
        }
        true
    }
}

impl<S, Request> Service<Request> for FailFast<S>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.inner.poll_ready(cx) {
            Poll::Ready(result) => {
                // An error too: it is an answer, and told at once.
                self.recover();
                Poll::Ready(result.map_err(Into::into))
            }
            Poll::Pending => {
                self.failing = self.is_over(cx);
                if self.failing {
                    // The next wait of this clone begins when the failing is over.
                    self.since = None;
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                }
            }
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ResponseFuture(if self.failing {
            Kind::Failed(Some(FailFastError {
                name: Arc::clone(&self.shared.name),
                wait: self.shared.wait,
            }))
        } else {
            Kind::Called(self.inner.call(request))
        })
    }
}

/// The clone waits on its own account, as its inner service does.
impl<S: Clone> Clone for FailFast<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S> fmt::Debug for FailFast<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailFast")
            .field("shared", &self.shared)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// A call, or its refusal.
#[pin_project]
pub struct ResponseFuture<F>(#[pin] Kind<F>);

#[pin_project(project = KindProj)]
enum Kind<F> {
    Failed(Option<FailFastError>),
    Called(#[pin] F),
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            KindProj::Failed(error) => {
                let error = error.take().expect("not polled after it was done");
                Poll::Ready(Err(error.into()))
            }
            KindProj::Called(future) => Poll::Ready(ready!(future.poll(cx)).map_err(Into::into)),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            Kind::Called(_) => f.debug_tuple("Called").finish_non_exhaustive(),
        }
    }
}

/// The inner service has not been ready for too long; the call was not sent.
///
/// Inside a stack it comes as a [`BoxError`]; [`find`](Self::find) looks for it. Answered to a client
/// of one's own, it is HTTP 503 or gRPC `UNAVAILABLE`. Sending the request elsewhere is safe whatever
/// its method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailFastError {
    name: Arc<str>,
    wait: Duration,
}

impl FailFastError {
    /// Finds it in an error or among its causes.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find_in_chain(error)
    }

    /// How long the inner service was waited for, at least, before calls began to fail.
    pub fn waited(&self) -> Duration {
        self.wait
    }
}

impl fmt::Display for FailFastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "service was not ready for {:?}", self.wait)
        } else {
            let (name, wait) = (&self.name, self.wait);
            write!(f, "service {name:?} was not ready for {wait:?}")
        }
    }
}

impl Error for FailFastError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        NotSent::SOURCE
    }
}
