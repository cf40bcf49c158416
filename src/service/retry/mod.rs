//! Sends a request again that failed, where that is safe, useful, and paid for.
//!
//! ```text
//!               failed?      may it?        when?           with what?
//! answer ──▶ classifier ──▶ reissue ──▶ backoff, or ──▶ budget ──▶ ready? ──▶ next attempt,
//!    │ no        │          attempts     pushback         │          │       another endpoint
//!    ▼           │          deadline                      │          │
//! handed on ◀────┴──────────── as it is, or a RetryError ─┴──────────┘
//! ```
//!
//! - **What failed** is for a [`Classify`] to say, at the head of the answer. Where it says nothing,
//!   because the end of the stream will tell, the answer is handed on: it cannot be taken back.
//! - **What may be sent twice**: idempotent requests, and any that was certainly not sent, such as
//!   after a connection that was refused. A [`Reissue`] knows, and keeps the copy.
//! - **When**: after a [`Backoff`], by default up to 25 ms, then up to 50 ms and so on. A server that
//!   says when to come back is obeyed to the millisecond; one that says not at all too. An attempt that
//!   was not sent at all costs nobody anything: the first one after it follows at once.
//! - **Elsewhere**: the attempts of a request share one [`Tried`], so a balancer below picks another
//!   endpoint for each.
//! - **How much in all**: a [`RetryBudget`], by default 20 % of the requests and one in 10 s.
//!
//! A failing *answer* that is not retried is handed on untouched, and kept for that until its retry is
//! sent, or finds the service not ready: then it may hold the very place in a limit that everyone waits
//! for, and is let go. A failing attempt without an answer becomes a [`RetryError`] that says why it
//! was the last one.
//!
//! # Where it stands
//! Above a hedge, and both above the balancer: `retry(hedge(balance))`. A hedge is for attempts that
//! are slow, a retry for those that failed. So the hedge must see single attempts: above a retry it would
//! take a backoff for slowness, and each of its two branches would retry on its own. Retries are
//! hedged as first attempts are, since one may hang, and both draw on one budget, which bounds the sum
//! of them, though hedges have a share of their own as well. Timeouts and a limit on what is waiting belong above the retry, a breaker
//! of one endpoint below the balancer.
//!
//! # What it costs
//! Without a retry: a copy of the request, a clone of the service, and for the budget one reading of
//! the clock and one atomic addition, which are most of it. No allocation but what the copy needs. An
//! attempt that has to wait enters a list of its thread where there is a deadline or a per-try timeout,
//! and leaves it again; it needs no timer of its own.

mod budget;
mod error;
mod future;
#[cfg(feature = "http")]
mod http;
mod layer;
mod ledger;
pub mod reissue;
#[cfg(feature = "http")]
mod replay;
mod service;
mod terms;

pub use self::{
    budget::{BudgetBuilder, RetryBudget},
    error::{FailedAnswer, RetryError, Stop, TryTimeout},
    future::ResponseFuture,
    layer::{RetryBuilder, RetryLayer},
    reissue::{Cloned, Hedgeable, Reissue},
    service::Retry,
};
#[cfg(feature = "http")]
pub use self::{
    http::{HttpSpare, Replay, ShareReplay},
    replay::{ReplayBody, ReplayError},
};

#[cfg(doc)]
use crate::{attempt::Tried, backoff::Backoff, classify::Classify};
