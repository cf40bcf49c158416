//! Circuit breaker: refuses calls to a service that mostly fails, and finds out when it has recovered.
//!
//! A service that is down does not get better from being asked, and callers that wait for its errors
//! hold resources of their own. A [`Breaker`] watches what becomes of calls; when too large a share
//! of them fails, or is slow, it refuses further calls at once for a while, then lets a few through
//! as probes:
//!
//! ```text
//!               share of bad calls too high
//!   ┌──────────┐                           ┌──────────┐
//!   │  Closed  │──────────────────────────▶│   Open   │◀─┐ calls are refused
//!   └──────────┘                           └──────────┘  │
//!        ▲                         open time over │      │ a probe failed,
//!        │                                        ▼      │ or had no answer in time
//!        │       as many probes succeeded   ┌──────────┐ │
//!        └──────────────────────────────────│ HalfOpen │─┘ a few calls at a time
//!                                           └──────────┘
//! ```
//!
//! It stands above the balancer, around a whole service: within one, a failing endpoint is withheld
//! by ejection, which leaves its share to the others instead of refusing it.
//!
//! # What counts
//! A [`Classify`](crate::classify::Classify) judges; by default [`Answers`](crate::classify::Answers). Failures and overload are bad, successes good, and a call whose caller stops
//! waiting counts for nothing: it proves nothing. So a timeout belongs *below* the breaker, where it
//! is a failure. So does an error of the inner `poll_ready`: no call was made. A call counts once,
//! with its verdict; when an answer that was judged by its head breaks off later, its good mark is
//! taken back. Only a bad call opens the breaker, never a good one that completes the minimum. An answer
//! to a call from before the last change of state counts for nothing either.
//!
//! Counts are exact and slide, over the last ten seconds (or other [time](BreakerSettings::time_window)), or
//! the last [so many calls](BreakerSettings::count_window).
//!
//! # Probes
//! While half-open, only so many calls are let through at a time, and as many successes close the
//! breaker; one failure opens it again, for twice as long. A probe that is cancelled gives its permit
//! back. A probe whose answer does not begin by its [deadline](BreakerSettings::probe_deadline) has failed;
//! one whose answer has begun (a stream that only its end can judge) counts as a success then, so
//! that a service of long streams can recover. There is no timer: the next call, or the next reading of
//! the state, finds that the deadline is over, and the open time counts from the deadline.
//!
//! # Where calls are refused
//! In `call`: a probe permit reserved in `poll_ready` could stay with a clone that never uses it. While
//! calls are refused, `poll_ready` is ready without asking the inner service, which may never be ready:
//! so callers get the error at once. Therefore do not put a breaker below something that takes readiness
//! for health, such as a balancer. Readiness that
//! was taken from the inner service before is kept for the next call that is admitted, as tower
//! demands, and given back when the breaker is dropped.
//!
//! # What it costs
//! Closed, a call takes no lock and allocates nothing: one look at the state and one count. A good call
//! in a window of time reads the clock once in four calls (so up to three good calls may leave the
//! window early), a bad one always; a window of calls never does; where slow calls count, each call
//! reads it twice.
//!
//! A classifier that panics costs its own call: the panic goes on to the caller, the call counts as
//! cancelled, and nothing is poisoned.
//!
//! # Examples
//! ```
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::breaker::BreakerLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(BreakerLayer::default())
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! Customised, and set by hand:
//! ```
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::breaker::{BreakerError, BreakerSettings, BreakerState};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let layer = BreakerSettings::new()
//!     .name("users")
//!     .count_window(100)
//!     .failure_ratio(0.25)
//!     .slow_calls(Duration::from_secs(2), 0.8)
//!     .open_time(Duration::from_millis(500), Duration::from_secs(20))
//!     .build()?;
//! let breaker = layer.handle();
//! let mut service = ServiceBuilder::new()
//!     .layer(layer)
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//!
//! breaker.force_open();
//! let refused = service.ready().await?.call(1).await.unwrap_err();
//! assert!(BreakerError::find(&*refused).is_some_and(|error| error.is_open()));
//! breaker.reset();
//! assert_eq!(breaker.state(), BreakerState::Closed);
//! assert_eq!(service.ready().await?.call(1).await?, 2);
//! # Ok(())
//! # }
//! ```

mod call;
mod error;
mod handle;
mod layer;
mod machine;
#[cfg(all(test, not(roster_loom)))]
mod model;
mod service;
mod settings;
mod shared;
mod state;

pub use self::{
    call::BreakerCall,
    error::{BreakerError, Refused},
    handle::BreakerHandle,
    layer::BreakerLayer,
    service::Breaker,
    settings::BreakerSettings,
    state::{BreakerCause, BreakerState, BreakerTransition},
};
pub use crate::window::CallCounts;
