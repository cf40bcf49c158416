//! What a client tells of its requests: to code of the user, as metrics, and as spans.
//!
//! All of it has one source, a [`Monitor`] that is told of each attempt and of each request. An *attempt* is
//! one sending to one endpoint; a *request* has one attempt or more, of these [kinds](crate::attempt::AttemptKind):
//!
//! ```text
//!              MonitoredClient                  MonitoredEndpoint
//! request ─▶ (number of the request) ─▶ … ─┬─▶ attempt 1, first ──▶ endpoint a     hangs
//!                    ▲                     └─▶ attempt 2, hedge ──▶ endpoint b     answers
//!                    └── how often it was sent, and who answered ──────┘
//! ```
//!
//! The two find each other without allocations or a look-up: the client puts the request into a place of its thread while it
//! calls and polls what is below (see [`attempt`](crate::attempt)). If another task is in between, such as that of a `tower::buffer::Buffer`,
//! attempts are reported without the number of their request.
//!
//! A report comes exactly once, when the last part of an attempt or a request is dropped: its future, or the
//! body of its response. So attempts that were dropped are reported too, with the
//! [reason](crate::attempt::Abandoned).
//!
//! A client without telemetry is of another type, which has none of this: no check, no field, no wrapper.

mod client;
mod course;
mod current;
mod discover;
mod endpoint;
#[cfg(feature = "status")]
mod latencies;
#[cfg(feature = "status")]
mod latency_counts;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "no_metrics.rs"]
mod metrics;
mod monitor;
mod report;
mod reporter;
mod reporting;
mod settings;
#[cfg(feature = "status")]
pub mod status;

#[cfg(feature = "status")]
pub use self::latencies::Latencies;
#[cfg(feature = "metrics")]
pub use self::metrics::{Cardinality, Metrics};
pub use self::{
    client::{MonitoredClient, RequestFuture, RequestReport},
    discover::MonitoredDiscover,
    endpoint::{AttemptFuture, AttemptReport, MonitoredEndpoint},
    monitor::{Monitor, OnAttempt, OnRequest, on_attempt, on_request},
    report::{AttemptInfo, End, Ended, EndpointTag, RequestInfo},
    reporting::{NoTelemetry, Reporting},
    settings::{MonitorLayer, Reports, Telemetry},
};
