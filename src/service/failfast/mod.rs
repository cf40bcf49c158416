//! Failfast: a bounded wait until a service is ready; then calls fail at once until it is ready.
//!
//! A service may never become ready: a balancer without an endpoint, a connection that cannot be
//! made, a limit whose permits are never returned. Callers would wait, each holding resources. A
//! timeout around each call would still make each of them wait that long. A [`FailFast`] waits
//! once:
//!
//! ```text
//!            pending for the whole wait
//! ┌─────────┐ ─────────────────────────▶ ┌─────────┐
//! │ waiting │                            │ failing │ poll_ready is ready, and calls fail at once
//! └─────────┘ ◀───────────────────────── └─────────┘
//!            the inner service is ready
//! ```
//!
//! Clones share that state, so a clone for each request does not wait either. This is right when
//! the clones of the inner service share the cause, as those of a balancer or a limit do.
//!
//! While failing, each `poll_ready` polls the inner service again, which keeps the waker of the
//! last caller. The first caller that finds it ready ends the failing state for all clones. A task
//! that waits beside them polls again when the inner service wakes it, or when its own wait is
//! over. If the inner service makes progress only when it is polled, it does so only while requests
//! come. Put tower's `SpawnReady` below it if it should make progress between requests.
//!
//! While failing, `poll_ready` is ready although calls fail. This misleads every layer that takes
//! readiness for health (<https://github.com/linkerd/linkerd2-proxy/pull/2091>). So put it above
//! balancers and buffers, never below.
//!
//! # What it costs
//! While the inner service is ready, one atomic load per call. A clone makes its timer the first
//! time that it waits.
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
//! Customised, above a tower limit that is used up:
//! ```
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::failfast::{FailFastError, FailFastSettings};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let failfast = FailFastSettings::new()
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

mod error;
mod layer;
mod service;
mod settings;
mod shared;

pub use self::{
    error::FailFastError, layer::FailFastLayer, service::FailFast, settings::FailFastSettings,
};
