//! How long a caller waits for the response to a request, however often it is sent.
//!
//! ```text
//! Deadline in the extensions ─┐
//! grpc-timeout of a call ─────┼─▶ retry: the earliest is the one deadline of all attempts
//! RetrySettings::deadline ────┘         │ puts it into the extensions of each attempt, if the
//!                                       ▼ request came with one of the first two
//!                hedge: starts none that is due later      gRPC client: `grpc-timeout` is what remains
//! ```
//! A deadline of the settings alone ends the attempts, and is not told to them: a place for it in the
//! extensions would cost an allocation for every request.
//!
//! A request without a deadline pays a look into its extensions, and a POST a look for the header.

#[cfg(feature = "http")]
pub(crate) mod grpc;
mod passed;

pub(crate) use self::passed::DeadlinePassed;

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::after;

/// The time until which a caller waits for the response to a request, by tokio's clock.
///
/// Put it into the extensions of an HTTP or gRPC request. A retry with
/// [`Replay`](crate::service::retry::Replay), and so a
/// [`Stack`](crate::client::Stack), then ends the request at this time with the error of its own
/// [deadline](crate::service::retry::RetrySettings::deadline) (tower's `Elapsed`; a
/// [`StatusLayer`](crate::client::StatusLayer) makes it `DEADLINE_EXCEEDED`), and starts no attempt
/// that could not end before. A request that comes after its deadline is not sent: `Elapsed` is then a
/// source of the error, and a breaker counts no failure. Of both deadlines the earlier counts. A `grpc-timeout` in the head of a
/// call counts as a deadline too; each attempt over
/// [`GrpcEndpoints`](crate::client::GrpcEndpoints) sends the time that remains.
///
/// Only `Replay` knows extensions: with [`Cloned`](crate::service::retry::Cloned) and
/// [`clone_if`](crate::service::retry::reissue::clone_if) it is ignored. An own
/// [`Reissue`](crate::service::retry::Reissue) implements `deadline` and `set_deadline` for it.
///
/// It bounds the time from `call` until the head of the response. It does not bound `poll_ready`, which
/// knows no request; a balancer without endpoints waits there for
/// [its own time](crate::balance::BalanceBuilder::wait).
///
/// # Examples
/// ```
/// # #[cfg(feature = "http")]
/// # fn main() {
/// use std::time::Duration;
/// use tower_roster::Deadline;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Deadline::within(Duration::from_millis(300)));
/// # }
/// # #[cfg(not(feature = "http"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// Creates a deadline at a time.
    pub const fn at(at: Instant) -> Self {
        Self(at)
    }

    /// Creates a deadline so much later than now. The longest duration never ends.
    pub fn within(time: Duration) -> Self {
        Self(after(Instant::now(), time))
    }

    /// Returns the time.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Returns the time that remains; zero once the deadline has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
