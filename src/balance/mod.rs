//! The balancer: chooses an endpoint for each request.
//!
//! A [`Balance`] is a [`tower::Service`] over the endpoints of a [`Discover`](tower::discover::Discover).
//! tower's own balancer needs `&mut self`, and so a `Buffer` for more than one caller. It picks before it
//! sees the request, has no weights, drops an endpoint for good after one failure, waits without limit on
//! an empty set, and handles no updates while no request flows. This balancer differs:
//!
//! - **Clones share all state** and need no task between them and the endpoints.
//! - **The pick happens in `call`**, where the request is known: its hash key, its subset, and the
//!   endpoints that an earlier attempt already tried.
//! - **Discovery is followed while no request flows**, by a task that ends with the last balancer. Its
//!   errors and its end are published, and the last good set continues to serve.
//! - **State is kept by key** through every update: load, ejection, slow start, counts. An endpoint that
//!   comes back within the grace finds its state again, including its progress in slow start. A new address
//!   means a new process: only the counts are kept, and slow start begins. Orders by hand are kept by key,
//!   whatever the address and however long the endpoint was away.
//! - **A request that could not be sent goes to another endpoint**: if its endpoint is not ready while
//!   another is, or if a connection fails before the request was sent. This costs a pick, and the request
//!   does not fail.
//!
//! ```text
//!                    driver (one task)                          callers (any thread)
//!  Discover ──▶ members, by key ──┐
//!  handle   ──▶ eject, weigh      ├─▶ Topology ─▶ Policy ─▶ Snapshot ─▶ slots ─▶ pick ─▶ endpoint
//!  requests ──▶ health, load      ┘   where to    prepare   immutable                     │
//!      ▲                                                                                  │
//!      └────────────────── in flight, latency, outcome: LiveEndpoint ◀────────────────────┘
//! ```
//!
//! # What it costs
//! A request takes the slot of its thread, two atomic operations to count itself, and what the policy
//! needs: some tens of nanoseconds, no allocation, and no lock that it waits for. A change costs time
//! linear in the number of endpoints, on the driver's task. A [costly](policy::Policy::is_costly) table is
//! made on a thread for blocking work.
//!
//! # Panics of user code
//! A panic in an endpoint's service, a [`Route`](topology::Route), a classifier or a policy continues to
//! the caller of the request, as with any service of tower. The place of the request is released, the panic
//! counts as a failure of an endpoint that panicked, and the balancer continues. A panic on the driver's
//! task, for example when a policy prepares or a service is dropped, costs one turn of the driver. While a
//! policy cannot prepare, picks are random.

mod builder;
mod driver;
mod error;
mod event;
mod future;
mod handle;
mod layer;
mod pick;
pub mod policy;
mod registry;
mod send;
mod service;
mod settings;
mod shared;
pub mod topology;

pub(crate) use self::shared::{BalanceHeld, BalanceShared};
pub use self::{
    builder::BalanceBuilder,
    error::{BalanceError, NoEndpoint},
    event::BalanceEvent,
    future::ResponseFuture,
    handle::{BalanceGone, BalanceHandle, BalanceStatus, EndpointInfo, EndpointState},
    layer::BalanceLayer,
    pick::request_guard::RequestGuard,
    registry::RegistryStatus,
    service::Balance,
    settings::BalanceSettings,
};
