//! Active health checks: asking endpoints whether they are well, whatever requests say.
//!
//! Requests find most failures sooner ([`eject`](super::eject)). A check finds that of an endpoint
//! which gets few requests, and it asks what requests cannot: whether the process itself says that it
//! is ready. So checks are off unless set. [`HealthCheck`] says what to ask and how often, [`Prober`]
//! asks; the driver owns it and hands on what it reports.
//!
//! ```text
//!                 due                       answer, error or timeout          Ejector::check_failed
//!  schedule ─────────────▶ running check ─────────────────────────▶ Report ──▶       or
//!     ▲      (at most so    (a task each)                             │        Ejector::check_passed
//!     └────── many at once) ◀──── again after the interval, jittered ─┘
//! ```
//!
//! | check | passes when |
//! |---|---|
//! | [`HealthCheck::tcp`] | the endpoint accepts a connection |
//! | [`HealthCheck::http`] | it answers with a status from 200 to 299; redirects are not followed |
//! | [`HealthCheck::grpc`] | `grpc.health.v1.Health/Check` answers `SERVING` |
//!
//! Each check makes a connection of its own and closes it: that the endpoint still accepts connections
//! is part of the question. An endpoint counts as healthy until its checks have failed so many times in
//! a row, so that new endpoints need not wait for their first check.

mod error;
mod exchange;
mod prober;
mod record;
mod settings;

pub use self::{
    error::CheckError,
    prober::{Prober, Report},
    settings::{Checks, HealthCheck},
};
