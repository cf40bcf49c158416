//! Adaptive throttling: sends an overloaded service no more than a multiple of what it accepts.
//!
//! A breaker lets all calls through or none, and while it is open it also refuses calls that would have
//! been served. Where a service can serve *a part* of its calls, each client should send a little more
//! than that part, and drop the rest before it costs the service anything. A [`Throttle`] does so by what
//! it sees alone, by the formula of [Site Reliability Engineering, *Handling
//! Overload*]: with the calls that callers made and those that were accepted within the window, a
//! call is refused with the probability
//!
//! ```text
//! p = max(0, (calls − K · accepted) / (calls + 1))
//! ```
//!
//! so that at most `K` times as many calls are sent as are accepted. It is a layer of its own rather
//! than a mode of the breaker, as it has no states to be forced into or probed from. Use the one or
//! the other around one service.
//!
//! # What counts
//! A call counts when it is *made*, also if it is refused, and counts as accepted until it turns out not
//! to be: when it fails or finds the service overloaded, as a
//! [`Classify`](crate::classify::Classify) judges, its acceptance is taken back, even if it was made
//! before the window. So calls longer than the window count, and a client whose first answers have
//! not come yet throttles nothing. A call that its caller gave up is taken out altogether.
//!
//! While calls are refused, at least one a second is let through, so that a recovery is found at any
//! rate of calls. From then on the share that is let through doubles about every 0.43 windows
//! (with `K` = 2): which is why the window is 5 s here and not the two minutes of the original. With
//! those, the way back from one call in a thousand takes nine minutes, with these 22 s.
//!
//! # What it costs
//! No lock and no allocation; one clock read a call, and one more if it fails or is cancelled.
//! A classifier that panics costs its own call, which counts as cancelled.
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
//! Customised: throttles earlier, and takes a status for overload.
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
