//! Sends a request a second time when its answer takes unusually long, and takes the first good answer.
//!
//! Most slow answers are slow by accident: a pause of that one process, a lost packet, a queue. Elsewhere
//! the same request would be done already. So once an attempt has taken longer than 97 % of those before
//! it and three times as long as usual, a second goes to another endpoint, and whichever succeeds first
//! wins; the other is dropped, which cancels it. It costs 3 % more requests at most and cuts off much of
//! the tail: Dean and Barroso report 1,800 ms down to 74 ms at the 99.9th percentile
//! ([*The Tail at Scale*]).
//!
//! ```text
//! first  ├──────────────────────────── ─ ─ ✗ dropped
//!        ├── 97th percentile ──┤
//! second                       ├──────────▶ answer
//! ```
//!
//! - **Only what may be carried out twice**, as a retry's [`Reissue`] says.
//! - **The first success wins**, not the first answer: a failure waits for the other attempt. When both
//!   fail, an answer is handed on rather than an error, and else the first of them. A failure before the
//!   second attempt is handed on at once: that is for a retry. A later one does not count among the
//!   attempts that may run, up to once for each of those, since what is left may hang.
//! - **Another endpoint**: the attempts share one [`Tried`].
//! - **Within a share of its own**, 3 % of the attempts of the last second, so of what the service gets
//!   anyhow, whatever the number of clients. A client starts with one more, which it must earn back. A
//!   [shared budget](HedgeBuilder::shared_budget) bounds the sum of retries and hedges on top of that. An
//!   attempt for which there is nothing left asks again after each delay. A request that has waited for ten
//!   delays hangs; below a retry it may be sent again for the budget of retries alone.
//! - **The delay is measured**: a percentile over the last 15 s, of answers that succeeded and of attempts
//!   that were dropped after having taken longer than that; failures do not count, since a fast failure
//!   says nothing of how long an answer takes. Where fewer than 100 were measured nothing is hedged. It
//!   is three times the median of the last second at least. A [fixed delay](HedgeBuilder::delay) does
//!   without all that.
//!
//! # What it is for, and when it withdraws
//! Hedges are nearly free where a server cancels the work on a request that was dropped (HTTP/2 and gRPC
//! servers that do so, servers in Rust by default), or where it has room. Most servers finish what was
//! begun, and no client can see which they do: there each hedge is load. At 80 % of the capacity that is
//! no harm, near it load decides everything, as 3 % of 95 % bring queues to twice their length. Therefore
//!
//! - the share is small, and its credit is that of a second: more would be spent all at once, in the first
//!   moment in which all is slow;
//! - a *stray* slow answer leaves the median where it is, but a queue at every endpoint lifts it towards
//!   the tail. So when a service is overloaded, no attempt takes three times the median any more, and
//!   within a second nothing is hedged; when the queues are gone, hedges return by themselves. Where
//!   latencies hardly differ there is nothing to gain, and nothing is hedged either.
//!
//! `cargo bench --bench quality "near capacity"` plays both kinds of servers at 70 to 95 % of their
//! capacity, and beyond it. Where the median says little, as with a cache that answers most requests at
//! once, only the share is left to bound what hedges do to a full service. Switch hedging off where
//! servers run near capacity and finish abandoned work.
//!
//! # Where it stands
//! Below a retry: `retry(hedge(balance))`, see [`retry`](super::retry#where-it-stands). A retry is hedged
//! like a first attempt, as it may meet an endpoint that hangs, too. What that adds up to is bounded by the
//! budget that both share.
//!
//! # What it costs
//! A copy of the request, a reading of the clock or two, two atomic additions, and a place in a list of
//! the thread while the answer is waited for; nothing for a request that may not be repeated. A second
//! attempt allocates. The histograms take 1.8 KB, from the first answer on; their buckets are an eighth
//! of the latency wide, since a delay need not be more exact.
//!
//! [*The Tail at Scale*]: https://research.google/pubs/the-tail-at-scale/

mod future;
mod latency;
mod layer;
mod service;
mod shared;

pub use self::{
    future::ResponseFuture,
    layer::{HedgeBuilder, HedgeLayer},
    service::Hedge,
};

#[cfg(doc)]
use super::retry::Reissue;
#[cfg(doc)]
use crate::attempt::Tried;
