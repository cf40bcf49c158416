//! Adaptive throttling: sends an overloaded service no more than a multiple of what it accepts.
//!
//! A breaker admits all calls or none, and while it is open it also refuses calls that would have
//! succeeded. When a service can serve *a part* of its calls, each client should send a little more
//! than that part, and drop the rest before it causes load. A [`Throttle`] does this with local
//! counts only, by the formula of [Site Reliability Engineering, *Handling Overload*]. From the
//! calls made and the calls accepted within the window follows the probability with which a call is
//! refused:
//!
//! ```text
//! p = max(0, (calls − K · accepted) / (calls + 1))
//! ```
//!
//! At most `K` times as many calls are sent as are accepted. It is a separate layer and not a mode
//! of the breaker, because it has no states to force or to probe. Use only one of the two around a
//! service.
//!
//! # What counts
//! A call counts when it is *made*, also if it is refused. It counts as accepted until a
//! [`Classify`](crate::classify::Classify) judges that it failed or found the service overloaded.
//! Then its acceptance is subtracted, even if it was made before the window. So calls that take
//! longer than the window count, and a client that still waits for its first responses refuses
//! nothing. A call that its caller cancels is subtracted entirely.
//!
//! While calls are refused, at least one call a second is admitted, so that a recovery is detected
//! at any rate of calls. From then on the admitted share doubles about every 0.43 windows (with `K`
//! = 2). Therefore the window is 5 s here and not the two minutes of the book: the recovery from
//! one admitted call in a thousand takes 22 s with 5 s, and nine minutes with two minutes.
//!
//! # What it costs
//! No lock and no allocation; one clock read per call, and one more if the call fails or is
//! cancelled. If a classifier panics, only its own call is affected, and counts as cancelled.
//!
//! # Examples
//! ```
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_roster::service::throttle::ThrottleLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(ThrottleLayer::default())
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! Customised: throttles earlier, and treats two statuses as overload.
//! ```
//! use std::time::Duration;
//! use tower_roster::{
//!     classify::{self, Verdict},
//!     service::throttle::ThrottleSettings,
//! };
//!
//! let layer = ThrottleSettings::new()
//!     .name("users")
//!     .k(1.5)
//!     .window(Duration::from_secs(3))
//!     .min_calls(50)
//!     .build()?
//!     .classify(classify::from_fn(|result: Result<&u16, &std::io::Error>| match result {
//!         Ok(503 | 429) => Verdict::OVERLOADED,
//!         Ok(_) => Verdict::SUCCESS,
//!         Err(_) => Verdict::FAILURE,
//!     }));
//! assert_eq!(layer.handle().probability(), 0.0);
//! # Ok::<_, tower_roster::ConfigError>(())
//! ```
//!
//! [Site Reliability Engineering, *Handling Overload*]: https://sre.google/sre-book/handling-overload/

mod call;
mod error;
mod handle;
mod layer;
mod service;
mod settings;
mod shared;

pub use self::{
    call::ThrottleCall, error::ThrottleError, handle::ThrottleHandle, layer::ThrottleLayer,
    service::Throttle, settings::ThrottleSettings,
};
