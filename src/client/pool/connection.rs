//! One connection over HTTP/1: whether it can carry another request.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, timeout};

use super::super::{
    life::{LOOKS, Life},
    reread::Refusal,
    reuse::Hint,
};
use crate::error::BoxError;

/// One connection.
pub(in crate::client) struct Connection<B> {
    pub(in crate::client) sender: SendRequest<B>,
    pub(in crate::client) life: Arc<Life>,
    /// What it makes of a head that it refuses. `None` if it has the full limit, and can be upgraded.
    pub(in crate::client) refusal: Option<Refusal>,
    /// How long and how often the peer lets it be used, if it announced that.
    until: Option<Instant>,
    requests: Option<u32>,
}

/// The time, read at most once, and only if a peer announced one.
#[derive(Default)]
pub(super) struct Clock(Option<Instant>);

impl Clock {
    fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

/// A connection that is being established.
pub(in crate::client) type Connecting<B> =
    Pin<Box<dyn Future<Output = Result<Connection<B>, BoxError>> + Send>>;

impl<B> Connection<B> {
    pub(in crate::client) fn new(
        sender: SendRequest<B>,
        life: Arc<Life>,
        refusal: Option<Refusal>,
    ) -> Self {
        Self {
            sender,
            life,
            refusal,
            until: None,
            requests: None,
        }
    }

    /// Notes what the peer announced with a response. The time counts from here on, because the end
    /// of the response is not seen: after a long body the connection may end too early.
    #[inline]
    pub(in crate::client) fn note(&mut self, hint: Option<Hint>) {
        let left = self.requests.map(|requests| requests.saturating_sub(1));
        self.requests = left;
        self.until = None;
        if let Some(hint) = hint {
            self.until = hint.idle.map(|idle| Instant::now() + idle);
            // Some servers count down, and others always announce the same number. No time at all
            // means no request.
            let none = hint.idle.is_some_and(|idle| idle.is_zero()).then_some(0);
            let announced = hint.requests.into_iter().chain(none);
            self.requests = left.into_iter().chain(announced).min();
        }
    }

    /// Whether no further request must be sent on it, however soon.
    pub(super) fn is_spent(&self) -> bool {
        self.sender.is_closed() || self.requests == Some(0) || self.life.is_retired()
    }

    /// Whether no further request must be sent on it.
    pub(super) fn is_over(&self, clock: &mut Clock) -> bool {
        let late = |until| clock.now() >= until;
        self.is_spent() || self.until.is_some_and(late)
    }

    /// Whether a response is still being read from it.
    pub(super) fn is_busy(&self) -> bool {
        !self.sender.is_ready() && !self.sender.is_closed() && self.life.is_used()
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        if self.sender.is_ready() {
            self.life.end_in_order();
        }
    }
}

/// Returns a connection when it is ready, and `None` when it is closed or has been idle for too long.
pub(super) async fn until_ready<B>(
    mut connection: Connection<B>,
    tick: Option<Duration>,
) -> Option<Connection<B>> {
    let mut ticks = 0;
    while ticks < LOOKS {
        let ready = connection.sender.ready();
        let ready = match tick {
            Some(tick) => timeout(tick, ready).await,
            None => Ok(ready.await),
        };
        match ready {
            Ok(ready) => return ready.is_ok().then_some(connection),
            Err(_) if connection.is_busy() => ticks = 0,
            Err(_) => ticks += 1,
        }
    }
    None
}
