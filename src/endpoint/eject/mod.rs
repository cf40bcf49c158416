//! Ejection: withholding requests from an endpoint that fails, and detecting when it has recovered.
//!
//! A registry detects a failure after tens of seconds, and some failures never: a process whose disk is
//! full still answers its health check. The requests themselves show a failure within milliseconds. Each
//! endpoint records the outcomes of its requests (`EndpointHealth`). One place decides (`Ejector`), because only it
//! knows how many endpoints are out already.
//!
//! ```text
//!  request ─▶ EndpointHealth::admit ─▶ … ─▶ EndpointHealth::record ─▶ Signal ─┐  (path of the request)
//! ────────────────────────────────────────────────────────────────│─────────────────────────────
//!  EndpointHealth::follow, the set, events ◀─ EjectStep ◀─ Ejector ◀──────────┘  (driver's task)
//!                                               ▲ tick, due, checks, by hand
//! ```
//!
//! An endpoint is ejected for one of these reasons ([`EjectCause`]): five requests in a row fail; half of
//! at least twenty requests in ten seconds fail or are refused; its responses take three times as long as
//! those of the endpoint in the middle; its active health checks fail; or by hand. Known problems of other
//! implementations, and the solutions here:
//!
//! - *Envoy and gRPC* eject for 30 s and more, and then send full traffic at once. They need 100 requests
//!   in 10 s to each of five endpoints, which a proxy sees but one client does not. Here the first ejection
//!   lasts half a second, and ends with one probe and slow start.
//! - *linkerd* has no limit: all endpoints may be out at once (linkerd2#11493). *Envoy* checked its limit
//!   before an ejection without counting it, so small sets were ejected entirely (envoy#27066). Here the
//!   limit includes each new ejection, also holds when the set shrinks, and keeps the last endpoint in.
//! - *A shared overload* makes an implementation that judges each endpoint alone eject endpoints by chance,
//!   and move their load to the others. Of 10 backends at 120 % of their capacity half were ejected that
//!   way, and half of the goodput was lost (`cargo bench --bench quality overload`). Here failures that the
//!   peers have in the same share do not eject an endpoint.
//! - *A probe that never ends* leaves resilience4j half open for ever (#2028), and linkerd accepts any late
//!   response. Here a probe has a deadline, its permit is given back when it is cancelled, and earlier
//!   requests do not count.
//! - *A health check that passes* makes Envoy restore an endpoint whose requests fail. Here it restores
//!   only an endpoint that a health check ejected.
//!
//! A request reads one word on the way in, and costs two words and one addition on the way out. There is no
//! lock, no allocation and no clock, because the driver moves the windows on.

mod cause;
mod ejector;
mod entry;
mod gate;
mod health;
mod log_sum;
mod moves;
mod recent;
mod settings;
mod share;
mod slow;
mod step;

#[cfg(all(test, not(roster_loom)))]
mod tests;

pub use self::{
    cause::{EjectCause, Restored},
    settings::Ejection,
};
pub(crate) use self::{
    ejector::Ejector,
    entry::History,
    gate::{GateState, Pass, Round},
    health::{EndpointHealth, Signal},
    recent::Recent,
    step::{EjectStep, StepKind},
};
