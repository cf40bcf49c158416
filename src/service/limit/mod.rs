//! A limit of concurrency that adapts to latency and overload.
//!
//! More calls at a time than a service can work on wait in a queue of the service, and make every answer
//! late. The right number is not known beforehand, and it changes. An [`AdaptiveLimit`] looks for it:
//! while latency stays what it usually is, the limit grows; when latency rises, calls are queueing, and
//! the limit shrinks; when the service says that it is overloaded, it shrinks at once.
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
//! The first is Gradient2 of Netflix's [concurrency-limits], with its smoothing and its room of 4 for
//! a queue, here once for each 100 ms with at least ten answers instead of for each answer, so that
//! it reacts to time and not to the rate of calls; the second is the multiplicative decrease of AIMD,
//! at most once in that time, and what Gradient2 lacks: a service that refuses fast looks fast. The
//! limit does not grow while less than half of it is used, as it would mean nothing.
//!
//! In Gradient2 a queue that lasts becomes usual, and lets the limit creep up for as long as the
//! overload lasts. Here a higher latency becomes usual by itself only while the limit is not used up;
//! while it is, half of it is let through for 300 ms in every 30 s (or three times the latency, if
//! that is longer), and the latency then becomes the usual one. So a queue is distinguished from a service
//! that has become slower.
//!
//! # What counts
//! Latency is that of the head of an answer, where a [`Classify`](crate::classify::Classify) says
//! that it succeeded. A failure counts as slow as it was, if that was slower than usual, and never as
//! fast. A cancelled call counts for nothing. A permit is held until the answer is complete, as far
//! as the classifier observes it, and comes back however the call ends.
//!
//! # Waiting or shedding
//! `poll_ready` waits for a permit, first come, first served, as tower's own limit does, so that
//! tower's other layers compose: put its `LoadShed` directly above to refuse what does not get one
//! at once, or [`failfast`](super::failfast) to refuse after a bounded wait. A permit taken in
//! `poll_ready` is kept for the next call and given back when the service is dropped.
//!
//! For a limit that is known, use tower's `ConcurrencyLimitLayer`, or `GlobalConcurrencyLimitLayer`
//! for one limit around several services. It is right as it is, and so is its `TimeoutLayer` for the
//! time until the head of an answer: this crate has no others.
//!
//! # What it costs
//! A call takes a permit of tokio's semaphore, two clock reads, and no allocation unless it waits.
//! A call that finds the estimate locked leaves its sample out instead of waiting.
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
//! Customised, and shedding what is above the limit:
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
mod permits;
mod service;
mod settings;
mod shared;

pub use self::{
    call::LimitCall, handle::LimitHandle, layer::AdaptiveLimitLayer, service::AdaptiveLimit,
    settings::LimitSettings,
};
