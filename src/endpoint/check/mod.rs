//! Active health checks: requests of this crate to the endpoints, independent of user requests.
//!
//! User requests detect most failures sooner ([`eject`](super::eject)). A check detects the failure of an
//! endpoint that gets few requests. It also shows what requests cannot: whether the process reports itself
//! as ready. Checks are off by default. [`HealthCheck`] defines what is checked and how often. [`Prober`]
//! runs the checks; the driver owns it and passes on its reports.
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
//! Each check opens and closes its own connection, because it must also show that the endpoint still
//! accepts connections. An endpoint counts as healthy until the set number of checks in a row has failed,
//! so new endpoints need not wait for their first check.

mod error;
mod exchange;
mod prober;
mod record;
mod settings;

pub use self::{
    error::CheckError,
    prober::{Prober, Report},
    settings::HealthCheck,
};
