//! Client-side load balancing and service discovery for `tower`.
//!
//! A registry lists the live instances of a service. This crate turns that list into a
//! `tower::discover::Discover`: a client calls a *service name*, and its requests go to live instances.
//! Their connections survive every update that does not concern them. The crate also keeps your own
//! process registered, through every failure of the registry.
//!
//! ```text
//!  registry            catalog              discover             balance              service
//!  Consul, memory, ──▶ last good set,   ──▶ Insert, Remove   ──▶ picks endpoints: ◀── retry, hedge,
//!  REST, fixed         smallest diff        (tower Discover)     policy, topology,    breaker, limit
//!                                               │                ejection                 ▲
//!                                               ▼                    │                    │
//!                                           endpoint ◀───────────────┘                 request
//! ```
//!
//! Each stage can be used without those to its right: [`discover`] feeds tower's own balancer too,
//! [`balance`] takes any `Discover`, and the layers of [`service`] wrap any service.
//!
//! # A client of a service
//! ```no_run
//! # #[cfg(feature = "http")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_roster::BoxError> {
//! use tower_roster::{client::{HttpService, ResponseExt}, registry};
//!
//! // `consul://127.0.0.1:8500`, `consul:` (as the `consul` command), `rest://…`, `memory:`.
//! let registry = registry::connect("consul:")?;
//! let client = HttpService::connect(&registry, "user-service")?;
//!
//! let response = client.get("/users/42").await?;
//! println!("{} {}", response.status(), response.text(64 * 1024).await?);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "http"))]
//! # fn main() {}
//! ```
//! `client::HttpService` is a plain type for a struct field; `client::Router` calls many services by the host of a
//! URI, and [`client::Stack`] has the settings of both.
//!
//! # A server that announces itself
//! ```no_run
//! # #[cfg(all(feature = "consul", feature = "server"))]
//! # async fn serve(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
//! use tower_roster::registry;
//!
//! let registry = registry::connect("consul:")?;
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
//! let server = registry.announce("user-service", &listener)?;
//! server.serve(|leave| axum::serve(listener, app).with_graceful_shutdown(leave)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A process that registers itself
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_roster::{Instance, registry};
//!
//! let registry = registry::connect("consul:")?;
//! let me = Instance::new("user-service", "user-1", "10.0.0.7:8080".parse()?).tag("v2");
//! let registration = registry.register(me)?; // heartbeats, and again after any loss
//! # let stopped = std::future::ready(());
//! stopped.await;
//! registration.deregister().await?; // then go on serving for a moment, then drain
//! # Ok(())
//! # }
//! ```
//!
//! # Where to read on
//! - [`registry`] explains how registries are watched, and what a [`View`](registry::View) guarantees
//!   when they fail. The backends are [`registry::consul`], [`registry::memory`] and [`registry::rest`],
//!   and with their features `registry::dns`, `registry::etcd` and `registry::zookeeper`.
//! - [`discover`] and [`endpoint`] connect to tower, [`client`] to hyper.
//! - [`balance`] is the balancer, with its [policies](balance::policy) and its
//!   [topology](balance::topology).
//! - [`client::Stack`] assembles all layers, and explains their order.
//! - `server` announces servers, and lets them leave without losing a request.
//! - [`docs`] contains the reasons for the defaults, the costs, and the changelog.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

#[macro_use]
mod debug;

mod alarm;
mod ambient;
pub mod attempt;
pub mod backoff;
pub mod balance;
pub mod catalog;
pub mod classify;
pub mod client;
#[cfg(feature = "_hyper")]
mod connect;
mod deadline;
pub mod discover;
pub mod docs;
pub mod endpoint;
pub mod error;
pub mod instance;
mod permits;
#[cfg(feature = "_hyper")]
mod probe;
pub mod registry;
mod rng;
#[cfg(feature = "server")]
pub mod server;
pub mod service;
mod sync;
mod task;
pub mod telemetry;
mod text;
mod window;

pub use self::{
    backoff::Backoff,
    deadline::Deadline,
    error::{BoxError, ConfigError, RegistryError, RequestErrorKind},
    instance::Instance,
    registry::Registry,
};

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "consul", feature = "http", feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
