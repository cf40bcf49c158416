//! The balancer.

mod checks;
mod core;
mod driver;
mod error;
mod future;
mod guard;
mod handle;
mod layer;
pub mod policy;
mod service;
mod slots;
mod snapshot;
mod state;
pub mod topology;

pub use self::{
    error::{Error, NoEndpoint},
    future::ResponseFuture,
    guard::RequestGuard,
    handle::{EndpointInfo, EndpointState, Event, Gone, Handle, Status},
    layer::BalanceLayer,
    service::Balance,
};
