//! Retries a failed request when that is safe, useful, and within the budget.
//!
//! ```text
//!               failed?      repeatable?    when?           affordable?
//! result ──▶ classifier ──▶ reissue ──▶ backoff, or ──▶ budget ──▶ ready? ──▶ next attempt,
//!    │ no        │          attempts     pushback         │          │       another endpoint
//!    ▼           │          deadline                      │          │
//! returned  ◀────┴──────────── as it is, or a RetryError ─┴──────────┘
//! ```
//!
//! - **Failures**: a [`Classify`] judges the head of the response. When it gives no verdict,
//!   because only the end of the stream shows the outcome, the response is returned to the caller.
//!   It cannot be retried after that.
//! - **Repeatable requests**: idempotent requests, and any request that was certainly not sent,
//!   such as after a refused connection. A [`Reissue`] decides this and keeps the copy.
//! - **When**: after a [`Backoff`], by default up to 25 ms, then up to 50 ms and so on. If a server
//!   states how long to wait, the retry waits at least that long, and up to half as long again, but not
//!   less than its backoff; a gRPC pushback is obeyed exactly. If it forbids retries, there is none. An attempt that was not sent caused no load, so the first retry after it starts at once.
//! - **Another endpoint**: the attempts of a request share one [`Tried`], so a balancer below picks
//!   a different endpoint for each.
//! - **How many in all**: a [`RetryBudget`], by default 20 % of the requests and ten in reserve.
//!
//! A failed *response* that is not retried is returned unchanged. It is kept until its retry is
//! sent. If the service is not ready for the retry, the response is dropped, because it may hold
//! the permit of a limit that the retry waits for. A failed attempt without a response becomes a
//! [`RetryError`] that states why there was no further attempt.
//!
//! # Where it stands
//! Above a hedge, and both above the balancer: `retry(hedge(balance))`. A hedge is for slow
//! attempts, a retry for failed ones. So the hedge must see single attempts: above a retry it would
//! take a backoff for slowness, and each of its two attempts would be retried separately. Retries
//! are hedged like first attempts, because a retry may hang too. Retries and hedges draw on one
//! budget, which bounds their sum; hedges also have a share of their own. Timeouts and a limit on
//! waiting requests belong above the retry. A breaker of one endpoint belongs below the balancer.
//!
//! # What it costs
//! A request without a retry costs a copy of the request, a clone of the service, and for the
//! budget one clock read and one atomic addition; these two are most of the cost. Only the copy may
//! allocate. With a deadline or a per-try timeout, an attempt that has to wait enters a list of its
//! thread and leaves it again; it needs no timer of its own.

mod again;
mod budget;
mod error;
mod future;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(feature = "http")]
mod http;
mod kept;
mod layer;
mod ledger;
pub mod reissue;
#[cfg(feature = "http")]
mod replay;
mod service;
mod settings;
mod terms;

pub use self::{
    budget::{BudgetSettings, RetryBudget},
    error::{FailedAnswer, RetryError, Stop, TryTimeout},
    future::ResponseFuture,
    layer::RetryLayer,
    reissue::{Cloned, Hedgeable, Reissue},
    service::Retry,
    settings::RetrySettings,
};
#[cfg(feature = "http")]
pub use self::{
    http::{HttpSpare, Replay, ShareReplay},
    replay::{ReplayBody, ReplayError},
};

#[cfg(feature = "tonic")]
pub use self::grpc::{GrpcReplay, Repeatable};
#[cfg(feature = "tonic")]
pub(crate) use self::http::LIMIT;

#[cfg(doc)]
use crate::{attempt::Tried, backoff::Backoff, classify::Classify};
