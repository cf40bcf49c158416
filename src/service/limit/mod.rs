//! A concurrency limit that adapts to latency and overload.
//!
//! If a service gets more calls at a time than it can work on, they queue in the service, and every
//! response is late. The right number of calls is not known in advance, and it changes. An
//! [`AdaptiveLimit`] estimates it. While the latency is as usual, the limit grows. When the latency
//! rises, calls are queueing, and the limit shrinks. When the service reports overload, the limit
//! shrinks at once.
//!
//! ```text
//!              usual latency (average of about a minute)
//! gradient = ─────────────────────────────────────────── × tolerance      within 0.5 and 1
//!              latency now (average of the last 100 ms)
//!
//! limit   ←  80 % · limit  +  20 % · (limit · gradient + 4)
//! limit   ←  90 % · limit                                    when overloaded
//! ```
//!
//! The first rule is Gradient2 of Netflix's [concurrency-limits], with its smoothing and its
//! allowance of 4 for a queue. It is applied once for each 100 ms with at least ten responses
//! instead of for each response, so that it depends on time and not on the rate of calls. The
//! second rule is the multiplicative decrease of AIMD, at most once in 100 ms. Gradient2 lacks it:
//! a service that refuses calls fast has a low latency. The limit does not grow while less than
//! half of it is used, because then the latency gives no information about it.
//!
//! In Gradient2 the latency of a lasting queue becomes the usual latency, and the limit grows for
//! as long as the overload lasts. Here a higher latency becomes the usual one only while the limit
//! is not used up. While the limit is used up, half of it is admitted for 300 ms in every 30 s (or
//! for three times the latency, if that is longer), and the latency in that time becomes the usual
//! one. This distinguishes a queue from a service that has become slower.
//!
//! # What counts
//! The latency of a call ends at the head of the response. It counts if a
//! [`Classify`](crate::classify::Classify) judges the call a success. The latency of a failure
//! counts only if it is above the usual one, so a fast failure never lowers the average. A
//! cancelled call is not counted. A permit is held until the response is complete, as far as the
//! classifier observes it, and is returned however the call ends.
//!
//! # Waiting or shedding
//! `poll_ready` waits for a permit, first come, first served, like tower's own limit, so that
//! tower's other layers compose. Put tower's `LoadShed` directly above to refuse calls that do not
//! get a permit at once, or [`failfast`](super::failfast) to refuse them after a bounded wait. A
//! permit taken in `poll_ready` is kept for the next call and given back when the service is
//! dropped.
//!
//! For a fixed limit, use tower's `ConcurrencyLimitLayer`, or `GlobalConcurrencyLimitLayer` for one
//! limit around several services. For a limit on the time until the head of a response, use tower's
//! `TimeoutLayer`. This crate has no layers of its own for these.
//!
//! # What it costs
//! A call takes a permit of tokio's semaphore and reads the clock twice. It allocates only if it
//! waits. A call that finds the estimate locked skips its sample instead of waiting.
//!
//! # Examples
//! ```
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::limit::AdaptiveLimitLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(AdaptiveLimitLayer::default())
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! Customised, and refusing the calls above the limit:
//! ```
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::limit::LimitSettings;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let limit = LimitSettings::new()
//!     .initial(50)
//!     .range(10, 500)
//!     .tolerance(2.0)
//!     .build()?;
//! let handle = limit.handle();
//! let service = ServiceBuilder::new()
//!     .load_shed()
//!     .layer(limit)
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//! assert_eq!(service.oneshot(1).await?, 2);
//! assert_eq!(handle.limit(), 50);
//! # Ok(())
//! # }
//! ```
//!
//! [concurrency-limits]: https://github.com/Netflix/concurrency-limits

mod call;
mod gradient;
mod handle;
mod layer;
mod service;
mod settings;
mod shared;

pub use self::{
    call::LimitCall, handle::LimitHandle, layer::AdaptiveLimitLayer, service::AdaptiveLimit,
    settings::LimitSettings,
};
