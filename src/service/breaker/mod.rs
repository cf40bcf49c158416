//! Circuit breaker: refuses calls to a service that mostly fails, and detects when it has
//! recovered.
//!
//! Calls to a service that is down do not help it, and callers that wait for its errors hold
//! resources. A [`Breaker`] counts the results of calls. When too large a share of them fails, or
//! is slow, it refuses further calls at once for a while. Then it lets a few through as probes:
//!
//! ```text
//!               share of bad calls too high
//!   ┌──────────┐                           ┌──────────┐
//!   │  Closed  │──────────────────────────▶│   Open   │◀─┐ calls are refused
//!   └──────────┘                           └──────────┘  │
//!        ▲                         open time over │      │ a probe failed,
//!        │                                        ▼      │ or had no response in time
//!        │       as many probes succeeded   ┌──────────┐ │
//!        └──────────────────────────────────│ HalfOpen │─┘ a few calls at a time
//!                                           └──────────┘
//! ```
//!
//! It stands above the balancer, around a whole service. For a single failing endpoint use ejection
//! in the balancer, which moves the endpoint's share to the others instead of refusing calls.
//!
//! # What counts
//! A [`Classify`](crate::classify::Classify) judges calls; by default
//! [`Answers`](crate::classify::Answers). Failures and overload are bad, successes are good. A call
//! that its caller cancels is not counted, because its result is unknown. So a timeout belongs
//! *below* the breaker, where it is a failure. An error of the inner `poll_ready` is not counted
//! either, because no call was made. A call counts once, with its verdict. When a response that was
//! judged by its head breaks off later, the call is recounted as bad. Only a bad call opens the
//! breaker, never a good call that completes the minimum. A response to a call from before the last
//! transition is not counted.
//!
//! Counts are exact. The window slides, over the last ten seconds (or another
//! [time](BreakerSettings::time_window)), or over a [number of
//! calls](BreakerSettings::count_window).
//!
//! # Probes
//! While half-open, the breaker admits a limited number of calls at a time. The same number of
//! successes closes it; one failure opens it again, for twice as long. A cancelled probe returns
//! its permit. A probe without the head of a response by its
//! [deadline](BreakerSettings::probe_deadline) has failed. A probe whose response has begun by then
//! (a stream that only its end can judge) counts as a success, so that a service of long streams
//! can recover. There is no timer: the next call, or the next read of the state, detects that the
//! deadline is over. The open time is counted from the deadline.
//!
//! # Where calls are refused
//! In `call`: a probe permit reserved in `poll_ready` could stay with a clone that never uses it.
//! While calls are refused, `poll_ready` is ready without polling the inner service, which may
//! never be ready. So callers get the error at once. Therefore do not put a breaker below a layer
//! that takes readiness for health, such as a balancer. Readiness that the inner service reported
//! before is kept for the next admitted call, as tower's contract requires, and given back when the
//! breaker is dropped.
//!
//! # What it costs
//! A call through a closed breaker takes no lock and allocates nothing: it reads the state once and
//! counts once. In a window of time, one in four good calls reads the clock (so up to three good
//! calls may leave the window early), and every bad call does. In a window of calls, no call reads
//! it. When slow calls count, each call reads it twice.
//!
//! A panic of the classifier goes on to the caller of that call. The call counts as cancelled, and
//! the breaker stays usable.
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
