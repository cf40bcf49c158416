//! The embedded registry over HTTP: [`RestServer`] is its front, [`RestClient`] the backend that asks it.
//!
//! One process holds the registry and serves it; the others use `rest://host:port`, or speak the JSON
//! below, which any language can. It is one process all the same: read in [`memory`](super::memory)
//! what that is for, and that beyond one machine Consul, etcd or ZooKeeper is the registry. There is no
//! authentication and no TLS: put it where only friends can reach it.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /registry/register` | 200 and the instance as it is held |
//! | `POST /registry/heartbeat` | 200; 404 when unknown: register again |
//! | `DELETE /registry/{id}` (`?host=…&port=…`, `?generation=N`) | 200; 404 when unknown |
//! | `GET /registry/services/{name}` (`?index=N&epoch=E&wait=30s`, `?tag=T` any number of times) | `{"serviceName", "exists", "instances": […]}` |
//! | `GET /registry/services` | `{"services": {"name": count}}` |
//! | `GET /registry/health` | 200 while it lives |
//!
//! # A registration
//! ```json
//! {
//!   "serviceId": "user-1", "serviceName": "user-service",
//!   "host": "10.0.0.5", "port": 8080, "metadata": {"model": "large"},
//!   "heartbeatInterval": 10000,
//!   "weight": 3, "zone": "eu-1a", "tags": ["v2"], "status": "passing",
//!   "healthCheck": {"path": "/health", "interval": 10000, "timeout": 2000, "maxFailures": 3}
//! }
//! ```
//! Needed are `serviceId`, `host` and `port`. **With `serviceName`, `serviceId` is the id of the
//! instance. Without it, `serviceId` names the service** and the id is `{serviceId}-{host}-{port}`.
//! Heartbeats and `DELETE` take an id, or the name of a service with `host` and `port`; these may be
//! left out where the service has one instance.
//!
//! Times are milliseconds. Without heartbeats for `heartbeatInterval × max_failures` the instance is
//! removed, or after `ttl` where that is given; without either and without `healthCheck` the interval is
//! 10 s, and with an interval of 0 the instance stays until it is deregistered. A `healthCheck` is made
//! by the registry: a request of `path`, without one a connection; a critical instance is removed after
//! `reapAfter` (10 min by default, 0 is never). `lastHeartbeat` (Unix time), `id` and `generation` are
//! the registry's to tell and ignored in a registration. An optional `session` tells processes apart:
//! the same id with another session is another incarnation, and one that repeats itself is not.
//!
//! # Waiting for a change
//! An answer about a service carries `X-Registry-Index` and `X-Registry-Epoch`. A request with that
//! index (and epoch) is answered when the service has changed since, or after `wait` (5 min by default,
//! at most 10 min, prolonged by up to a sixteenth so that clients which began together do not come
//! back together). It is answered at once without an index, with an older one, with one that lies in
//! the future, and with another epoch: both of these mean that the registry started anew.
//!
//! # Errors
//! Every error is `{"error": "…"}` and names the field and what it accepts: 400 for what cannot be
//! understood, 404 for an unknown id or path, 405 with `Allow`, 408 for a body that takes longer than
//! 10 s, 409 for a name that stands for several instances, 413 for a body above 64 KiB, 503 while the
//! registry is told to fail.
//!
//! # Examples
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_roster::{Instance, registry::{self, memory::Memory, rest::RestServer}};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let url = format!("rest://{}", listener.local_addr()?);
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let server = RestServer::new(Memory::new()).serve(listener, async { drop(stopped.await) });
//! let server = tokio::spawn(server);
//!
//! let registry = registry::connect(&url)?;
//! let mut watch = registry.watch("user-service")?;
//! let me = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?);
//! let registration = registry.register(me)?;
//! watch.wait_for(|view| view.instances.len() == 1).await?;
//!
//! registration.deregister().await?;
//! drop((watch, stop));
//! server.await?;
//! # Ok(())
//! # }
//! ```

mod answer;
mod client;
mod input;
mod serve;
mod server;
mod session;

pub use self::{client::RestClient, server::RestServer};

/// The position of an answer, for the next request.
const INDEX: &str = "x-registry-index";
const EPOCH: &str = "x-registry-epoch";
