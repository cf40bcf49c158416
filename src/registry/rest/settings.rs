//! The settings of the server.

use std::time::Duration;

#[cfg(doc)]
use super::RestServer;
use crate::{
    error::{ConfigError, check_range},
    instance::Host,
};

/// The settings of a [`RestServer`]: what its clients can make it hold, and which clients it serves.
///
/// [`docs::registry`](crate::docs::registry) has the reason for each default.
///
/// # Examples
/// ```
/// use tower_roster::registry::{memory::Memory, rest::RestServerSettings};
///
/// let server = RestServerSettings::new()
///     .host("registry.internal".parse()?)
///     .build(Memory::new())?;
/// # drop(server);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until they are built"]
pub struct RestServerSettings {
    pub(super) connections: usize,
    pub(super) connections_per_address: usize,
    pub(super) hosts: Vec<Host>,
    pub(super) bodies: usize,
    pub(super) write_within: Duration,
}

impl Default for RestServerSettings {
    fn default() -> Self {
        Self {
            connections: 8_192,
            connections_per_address: 6_144,
            hosts: Vec::new(),
            bodies: 64 << 20,
            write_within: Duration::from_secs(30),
        }
    }
}

impl RestServerSettings {
    /// The default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many connections [`serve`](RestServer::serve) holds, at least 1; 8 192 by default, and
    /// never more than the descriptors of the process allow: 128 of them, or half if there are fewer than
    /// 256, are left for checks, files and the rest of the program, where the system tells their number
    /// (Linux).
    ///
    /// At the limit, a new connection replaces the one whose last request began longest ago, of the
    /// address that has most. So a heartbeat is served however many requests wait for a change. A request
    /// that waits for a change is then answered with 503; any other is cut without an answer.
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// Sets how many of the connections one address may have, at least 1; 6 144 by default, and at most
    /// three quarters of all. On one machine, all clients have one address. An IPv6 network of 64 bits
    /// counts as one address.
    pub fn connections_per_address(mut self, most: usize) -> Self {
        self.connections_per_address = most;
        self
    }

    /// Allows requests to this host (repeat for several), beside those to the address of the listener, and
    /// to `localhost` if that is a loopback address. Clients behind a load balancer or a forwarded port need
    /// it, and probes that set a `Host` of their own.
    ///
    /// The page of another site can make a browser send requests to the registry under a name that leads
    /// to it. The name in the request then is the site's.
    pub fn host(mut self, host: Host) -> Self {
        self.hosts.push(host);
        self
    }

    /// Sets how many bytes the bodies of responses may have that are being sent, all together, at least
    /// 64 KiB; 64 MiB by default. Clients that get the same listing share its body. Beyond the limit,
    /// listings are answered with 503; a single larger one is sent.
    pub fn bodies(mut self, most: usize) -> Self {
        self.bodies = most;
        self
    }

    /// Sets how long [`serve`](RestServer::serve) lets a client take to read a response, from 10 ms to
    /// 1 h; 30 s by default. Then the connection is closed.
    pub fn write_within(mut self, time: Duration) -> Self {
        self.write_within = time;
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let per_address = self.connections_per_address;
        check_range("rest_server.connections", self.connections, 1..)?;
        check_range("rest_server.connections_per_address", per_address, 1..)?;
        check_range("rest_server.bodies", self.bodies, 64 << 10..)?;
        let times = Duration::from_millis(10)..=Duration::from_secs(3_600);
        check_range("rest_server.write_within", self.write_within, times)
    }
}
