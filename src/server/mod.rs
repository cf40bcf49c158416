//! A server that announces itself: registered while it serves, and gone from all clients before it stops.
//!
//! Whoever writes this by hand gets the order wrong: a server that stops first and deregisters then loses the
//! requests of every client that has not noticed yet. The order here is:
//!
//! ```text
//! bind ─▶ accept ─▶ register ─▶ … serve … ─▶ SIGTERM ─▶ deregister ─▶ notice ─▶ graceful shutdown ─▶ end
//!                       │                        │          │            │              │
//!                       │                        │          │            │              └ at most `grace`
//!                       │                        │          └────────────┴ it still serves all that comes
//!                       │                        └ the health answer turns to 503
//!                       └ passing at once: it accepts, so no first check is waited for
//! ```
//!
//! A registry that fails never stops the server: it serves, and registers as soon as the registry answers.
//!
//! # The address
//! It is the one of the listener. A listener on all addresses (`0.0.0.0`, `[::]`) is announced with the address
//! of the interface that leads to the registry. If the registry is on this machine, as a Consul agent is, that
//! would be loopback, which no other machine can connect to; then it is the interface of the default route.
//! If there is no default route either, loopback is announced, with a warning in the log:
//! a machine that has a network without such a route needs [`ServerSettings::advertise`]. An `[::]` that takes no IPv4
//! (`IPV6_V6ONLY`), a port that is forwarded, and a Unix socket need
//! [`ServerSettings::advertise`].

mod error;
mod handle;
mod interface;
mod listener;
mod progress;
#[cfg(feature = "_hyper")]
mod readiness;
mod serve;
mod settings;
mod signals;

#[cfg(feature = "_hyper")]
pub use self::readiness::{Readiness, ReadinessBody};
pub use self::{
    error::{Left, ServeError},
    handle::ServerHandle,
    listener::Listener,
    progress::ServerState,
    serve::{AnnouncedServer, Leave, ServerEnd},
    settings::ServerSettings,
};

use crate::{error::RegistryError, registry::Registry};

impl Registry {
    /// Prepares to announce the server on a listener: [`serve`](AnnouncedServer::serve) registers it once it
    /// accepts connections, and takes it out again before it stops.
    ///
    /// The settings may be the name of the service alone.
    ///
    /// # Errors
    /// When the registry cannot hold such an instance or check, the address is not known
    /// ([`ServerSettings::advertise`]), or no tokio runtime runs. A registry that cannot be reached is not an
    /// error.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn serve(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// let registry = tower_roster::registry::connect("consul://127.0.0.1:8500")?;
    /// let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
    /// let server = registry.announce("user-service", &listener)?;
    /// server.serve(|leave| axum::serve(listener, app).with_graceful_shutdown(leave)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn announce(
        &self,
        settings: impl Into<ServerSettings>,
        listener: &(impl Listener + ?Sized),
    ) -> Result<AnnouncedServer, RegistryError> {
        AnnouncedServer::new(self.clone(), settings.into(), listener.address())
    }
}
