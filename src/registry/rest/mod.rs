//! The embedded registry over HTTP: [`RestServer`] serves it, and [`RestClient`] is the backend that
//! sends requests to it.
//!
//! One process holds the registry and serves it. Others use `rest://host:port`, or send the JSON
//! described below, in any language. All the state is in that one process: [`memory`](super::memory)
//! states its purpose, and that beyond one machine the registry should be Consul, etcd or ZooKeeper.
//! There is no authentication and no TLS: make it reachable for trusted clients only.
//! [`docs::registry`](crate::docs::registry) has its limits, and what registering means.
//!
//! | request | response |
//! |---|---|
//! | `PUT /registry/register` | 200 and the instance as stored; with a state file also `"saved"`: whether the file has it, within 2 s |
//! | `POST /registry/heartbeat` | 200; 404 for an unknown instance, which must register again |
//! | `DELETE /registry/{id}` (`?host=…&port=…`, `?generation=N`) | 200; 404 for an unknown instance |
//! | `GET /registry/services/{name}` (`?index=N&epoch=E&wait=30s`, `?tag=T` any number of times) | `{"serviceName", "exists", "instances": […]}` |
//! | `GET /registry/services` | `{"services": {"name": count}}` |
//! | `GET /registry/health` | 200 while the process runs |
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
//! `serviceId`, `host` and `port` are required. **With `serviceName`, `serviceId` is the id of the
//! instance. Without it, `serviceId` is the name of the service**, and the id is
//! `{serviceId}-{host}-{port}`. Heartbeats and `DELETE` take an id, or the name of a service with `host`
//! and `port`. Host and port may be omitted if the service has one instance. Names, ids and zones have no
//! control characters, and an instance has at most 64 different tags.
//!
//! All times are in milliseconds:
//!
//! - Without heartbeats for `heartbeatInterval × max_failures` the instance is removed. If `ttl` is set,
//!   it is removed after that time instead. With an interval of 0 it stays until it is deregistered. The
//!   interval is 10 s if neither of the two nor `healthCheck` is set.
//! - The registry makes the `healthCheck` itself: it requests `path`, or opens a connection if there is
//!   no path, from every 1 s on and with a `timeout` of at most 60 s. It removes a critical instance after
//!   `reapAfter` (10 min by default, 0 for never). By default, `host` must be the address from which the
//!   registration comes, or any of the machine if it comes over loopback.
//! - The registry sets `lastHeartbeat` (Unix time), `id` and `generation`; a registration's values are
//!   ignored.
//! - An optional `session` identifies the process. The same id with another session is a new
//!   incarnation; with the same session it is a repetition.
//!
//! # Waiting for a change
//! A response about a service has the headers `X-Registry-Index` and `X-Registry-Epoch`. A request with
//! that index (and epoch) gets its response when the service has changed since, or after `wait`: 5 min
//! by default, at most 10 min. The wait is prolonged by up to a sixteenth, so that clients which sent
//! requests together do not repeat them together. The response comes at once if the request has no
//! index, an older index, an index in the future, or another epoch. The last two mean that the registry
//! has restarted.
//!
//! A listing can be 1 s old in its `lastHeartbeat`: clients share it.
//!
//! # Headers
//! `PUT` and `POST` need `Content-Type: application/json`. Every request needs one `Host`, which is the
//! address of the listener, `localhost` on loopback, or a [set host](RestServerSettings::host). A foreign
//! `Origin` is refused. So the page of another site cannot use the registry through a browser.
//!
//! # Errors
//! Every error is `{"error": "…"}`, and names the field and the accepted values: 400 for an invalid
//! request, 403 for a foreign host or origin, 404 for an unknown id or path, 405 with `Allow`, 408 for a body
//! that takes longer than 10 s, 409 for a name with several instances, 413 for a body above 64 KiB, 415 for a
//! body that is not declared as JSON, 431 for a head above 16 KiB, 503 with `Retry-After` at a limit of what
//! is served at once, 507 when the registry is full.
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
mod caller;
mod client;
mod input;
mod listings;
mod parked;
mod serve;
mod server;
mod session;
mod settings;
mod slots;
mod writes;

pub use self::{
    client::{RestClient, RestSettings},
    server::RestServer,
    settings::RestServerSettings,
};

/// The headers with the position of a response; the next request repeats it.
const INDEX: &str = "x-registry-index";
const EPOCH: &str = "x-registry-epoch";
