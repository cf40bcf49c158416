//! The balancer: which endpoint gets a request.
//!
//! A [`Balance`] is a [`tower::Service`] over the endpoints of a [`Discover`](tower::discover::Discover).
//! tower's own needs `&mut self` and so a `Buffer` for more than one caller, picks before it sees the
//! request, knows no weights, drops for good an endpoint that failed once, waits for ever on an empty
//! set, and stands still while no request flows. Here:
//!
//! - **Clones share everything** and need no task between them and the endpoints.
//! - **The pick happens in `call`**, where the request is known: its hash key, its subset, the
//!   endpoints that an earlier attempt of it went to.
//! - **Discovery is followed while no request flows**, by a task that ends with the last balancer. Its
//!   errors and its end are published, and the last good set serves on.
//! - **State is kept by key** through every update: load, ejection, slow start, counts. An endpoint that
//!   comes back within the grace finds it again: it is as warm as it was. Another address is another
//!   process: of what was known only the counts hold for that, and it ramps. What was ordered by hand
//!   holds for the key, at whatever address and however long it was away.
//! - **What could not be sent goes on**: an endpoint that is not ready while another is, or a connection
//!   that fails before the request was sent, costs a pick and not the request.
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
//! A request takes a slot of its thread, two atomic operations to count itself, and what the policy needs:
//! some tens of nanoseconds, no allocation, and no lock that it ever waits for. A change costs time
//! linear in the endpoints, on the driver's task; a [costly](policy::Policy::is_costly) table is made on a
//! thread for blocking work.
//!
//! # Panics of user code
//! A panic of an endpoint's service, a [`Route`](topology::Route), a classifier or a policy goes on to the
//! caller of the request, as from any service of tower's. The request's place is given back, an endpoint
//! that panicked has failed, and the balancer goes on. A panic on the driver's task, as of a policy that
//! prepares or of the destructor of a service, costs one turn of it; while a policy cannot prepare, its
//! picks are made at random.

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
mod start;
pub mod topology;

pub use self::{
    builder::BalanceBuilder,
    error::{BalanceError, NoEndpoint},
    event::BalanceEvent,
    future::ResponseFuture,
    handle::{BalanceGone, BalanceHandle, BalanceStatus, EndpointInfo, EndpointState},
    layer::{BalanceLayer, PlainBalanceLayer},
    pick::request_guard::RequestGuard,
    registry::RegistryStatus,
    service::Balance,
    settings::BalanceSettings,
};
