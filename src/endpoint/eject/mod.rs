//! Ejection: withholding requests from an endpoint that fails, and finding out when it is back.
//!
//! A registry learns of a failure after tens of seconds, and of some failures never: a process whose disk
//! is full answers its health check. The requests themselves show a failure within milliseconds. Each
//! endpoint records what became of its requests (`Health`); one place decides (`Ejector`), because only it
//! knows how many endpoints are out already.
//!
//! ```text
//!  request ──▶ Health::admit ──▶ … ──▶ Health::record ──▶ Signal ──┐        (path of the request)
//! ────────────────────────────────────────────────────────────────│─────────────────────────────
//!  Health::follow, the set, events ◀── Step ◀── Ejector ◀──────────┘        (driver's task)
//!                                               ▲ tick, due, checks, by hand
//! ```
//!
//! An endpoint is ejected when five requests in a row fail, when half of at least twenty requests in
//! ten seconds fail or are refused, when its answers take three times as long as those of the endpoint in
//! the middle, when its active health checks fail, or by hand ([`EjectCause`]). The known
//! implementations, and what is done otherwise here:
//!
//! - *Envoy and gRPC* eject for 30 s and more, then send full traffic at once, and need 100 requests in
//!   10 s to each of five endpoints, which a proxy sees and one client does not. Here the first time
//!   out is half a second, and ends with one probe and slow start.
//! - *linkerd* has no limit: all endpoints may be out at once (linkerd2#11493). *Envoy* checked its
//!   limit before an ejection and not with it, so that small sets were ejected whole (envoy#27066). Here
//!   the limit holds with each ejection and when the set shrinks, and the last endpoint stays.
//! - *An overload* that all endpoints share ejects those that chance hits first, where each endpoint is
//!   judged alone, and gives their load to the others. Of 10 backends at 120 % of their capacity half went out that way,
//!   and half of the goodput (`cargo bench --bench quality overload`). Here what peers fail as much is
//!   not held against one of them.
//! - *A probe that never ends* leaves resilience4j half open for ever (#2028), and any late answer
//!   satisfies linkerd's. Here a probe has a deadline, its permit comes back when it is cancelled, and
//!   answers from before count for nothing.
//! - *A health check that passes* lets Envoy restore an endpoint whose requests fail. Here it does only
//!   where a health check ejected it.
//!
//! The cost for a request is reading one word on the way in, and on the way out two words and one
//! addition: no lock, no allocation, no clock, because the driver moves the windows on.

mod cause;
mod ejector;
mod entry;
mod gate;
mod health;
mod log_sum;
mod places;
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
    health::{Health, Signal},
    recent::Recent,
    step::{Step, StepKind},
};
