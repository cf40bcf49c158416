//! Sends a request a second time when its response is unusually slow, and uses the first good
//! response.
//!
//! Most slow responses have a local cause: a pause of one process, a lost packet, a queue. Another
//! endpoint would have responded already. So when an attempt has taken longer than 97 % of the
//! attempts before it, and three times the median, a second attempt goes to another endpoint. The
//! first attempt that succeeds wins. The other is dropped, which cancels it. This costs at most 3 %
//! more requests and removes much of the tail: Dean and Barroso report 1,800 ms down to 74 ms at
//! the 99.9th percentile ([*The Tail at Scale*]).
//!
//! ```text
//! first  ├──────────────────────────── ─ ─ ✗ dropped
//!        ├── 97th percentile ──┤
//! second                       ├──────────▶ response
//! ```
//!
//! - **Only repeatable requests**, as the [`Reissue`] of a retry decides.
//! - **The first success wins**, not the first response: a failure waits for the other attempt.
//!   When both fail, a response is returned rather than an error, else the first error. A failure
//!   before the second attempt is returned at once, because that is for a retry. A later failure
//!   may be replaced by a further attempt, at most once for each allowed attempt, because the
//!   attempt that is left may hang.
//! - **Another endpoint**: the attempts share one [`Tried`].
//! - **A share of its own**: 3 % of the attempts of the last second. So hedges are a share of the
//!   load that the service gets anyway, whatever the number of clients. A client starts with one
//!   more hedge, which only unused deposits refill. A [shared budget](HedgeLayer::shared_budget)
//!   bounds the sum of retries and hedges in addition. A request that finds the share used up tries
//!   again after each delay. A request that has waited for ten delays hangs; below a retry, it may
//!   then be hedged from the budget of retries alone.
//! - **The delay is measured**: a percentile over the last 15 s. Samples are responses that
//!   succeeded, and attempts that were dropped after they had taken longer than the percentile.
//!   Failures do not count, because a fast failure gives no information about the latency of a
//!   response. With fewer than 100 samples, no request is hedged. The delay is at least three times
//!   the median of the last second. A [fixed delay](HedgeSettings::delay) replaces all of this.
//!
//! # Load near capacity
//! Hedges cost almost nothing when a server cancels the work on a dropped request (HTTP/2 and gRPC
//! servers that do so, servers in Rust by default), or when it has spare capacity. Most servers
//! finish the work, and no client can see which servers do. There, each hedge is load. At 80 % of
//! the capacity this does no harm. Near the capacity it does: at 95 %, 3 % more load makes queues
//! twice as long. Therefore
//!
//! - the share is small, and it is counted over one second: a larger credit would be spent all at
//!   once, as soon as all responses become slow;
//! - the delay is a multiple of the median. A *single* slow response does not change the median,
//!   but queues at every endpoint raise it towards the tail. So when a service is overloaded, no
//!   attempt takes three times the median any more, and within a second no request is hedged. When
//!   the queues are gone, hedging starts again by itself. When latencies hardly differ, hedges
//!   would gain nothing, and none are sent either.
//!
//! `cargo bench --bench quality "near capacity"` simulates both kinds of servers at 70 to 95 % of
//! their capacity, and beyond it. When the median says little, as with a cache that answers most
//! requests at once, only the share bounds the hedges to an overloaded service. Disable hedging if
//! servers run near capacity and finish cancelled work.
//!
//! # Where it stands
//! Below a retry: `retry(hedge(balance))`, see [`retry`](super::retry#where-it-stands). A retry is
//! hedged like a first attempt, because it may reach an endpoint that hangs, too. The budget that
//! both share bounds the sum.
//!
//! # What it costs
//! A copy of the request, one or two clock reads, two atomic additions, and an entry in a list of
//! the thread during the wait; nothing for a request that may not be repeated. A second attempt
//! allocates. The histograms take 1.8 KB, from the first sample on. Their buckets are an eighth of
//! the latency wide, which is exact enough for a delay.
//!
//! [*The Tail at Scale*]: https://research.google/pubs/the-tail-at-scale/

mod future;
mod latency;
mod layer;
mod plan;
mod service;
mod settings;
mod shared;

pub use self::{
    future::ResponseFuture, layer::HedgeLayer, service::Hedge, settings::HedgeSettings,
};

#[cfg(doc)]
use super::retry::Reissue;
#[cfg(doc)]
use crate::attempt::Tried;
