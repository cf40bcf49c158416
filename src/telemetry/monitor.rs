//! Code of the user that is told of every attempt and every request.

use std::sync::Arc;

use super::report::{AttemptInfo, End, RequestInfo};

/// Is told of every attempt and every request of a client. Each method does nothing unless implemented.
///
/// A monitor is called on the task of the request, so it should be quick and must not block. A panic of it is
/// caught; the first one of a client is logged.
///
/// # Examples
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use tower_roster::telemetry::{AttemptInfo, End, Monitor};
///
/// #[derive(Default)]
/// struct Slow(AtomicU64);
///
/// impl Monitor for Slow {
///     fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
///         if end.elapsed.as_secs() > 1 {
///             println!("slow: {} at {}, {}", attempt.kind, attempt.endpoint.key(), end.ended);
///             self.0.fetch_add(1, Relaxed);
///         }
///     }
/// }
/// ```
pub trait Monitor: Send + Sync + 'static {
    /// An attempt is about to be sent to its endpoint.
    fn attempt_began(&self, attempt: &AttemptInfo<'_>) {
        let _ = attempt;
    }

    /// An attempt has ended: with the end of its response, with an error, or by being dropped. Called exactly
    /// once for each attempt that began.
    fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        let _ = (attempt, end);
    }

    /// A request has ended, in one of the same ways. Called exactly once for each request, also for one that
    /// reached no endpoint: a clone of the client that fails in `poll_ready`, or is dropped after it began to
    /// wait there, counts as a request with no attempt.
    ///
    /// The attempt that answered ends at about the same time, before or after.
    fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        let _ = (request, end);
    }
}

impl<M: Monitor + ?Sized> Monitor for Arc<M> {
    fn attempt_began(&self, attempt: &AttemptInfo<'_>) {
        (**self).attempt_began(attempt);
    }

    fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        (**self).attempt_ended(attempt, end);
    }

    fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        (**self).request_ended(request, end);
    }
}

/// Makes a monitor of a closure that is called at the end of each attempt.
///
/// # Examples
/// ```
/// use tower_roster::telemetry::{Telemetry, on_attempt};
///
/// let telemetry = Telemetry::new().service("user-service").monitor(on_attempt(|attempt, end| {
///     println!("{} {}: {}", attempt.kind, attempt.endpoint.key(), end.ended);
/// }));
/// ```
pub fn on_attempt<F>(tell: F) -> OnAttempt<F>
where
    F: Fn(&AttemptInfo<'_>, &End) + Send + Sync + 'static,
{
    OnAttempt(tell)
}

/// Makes a monitor of a closure that is called at the end of each request.
pub fn on_request<F>(tell: F) -> OnRequest<F>
where
    F: Fn(&RequestInfo<'_>, &End) + Send + Sync + 'static,
{
    OnRequest(tell)
}

/// A monitor that calls a closure at the end of each attempt; made by [`on_attempt`].
#[derive(Clone, Copy)]
pub struct OnAttempt<F>(F);

/// A monitor that calls a closure at the end of each request; made by [`on_request`].
#[derive(Clone, Copy)]
pub struct OnRequest<F>(F);

impl<F> Monitor for OnAttempt<F>
where
    F: Fn(&AttemptInfo<'_>, &End) + Send + Sync + 'static,
{
    fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        (self.0)(attempt, end);
    }
}

impl<F> Monitor for OnRequest<F>
where
    F: Fn(&RequestInfo<'_>, &End) + Send + Sync + 'static,
{
    fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        (self.0)(request, end);
    }
}

impl_debug!([F] OnAttempt<F>);
impl_debug!([F] OnRequest<F>);
