//! Consul: instances from `/v1/health/service`, registration on the local agent.
//!
//! # Watching
//! A *blocking query* asks for everything newer than an index and is held by the agent until there is
//! something, or until its `wait` ends. Most trouble that clients of Consul had comes from four facts
//! about it, which decide the loop in `watch.rs`: an answer with an error status carries an index too,
//! and it means nothing; an index can go backwards (a restarted agent, a restored snapshot), and a
//! client that keeps the old one is deaf from then on; an early answer with the very index that was
//! asked for is the only sign of a restored snapshot; and an empty list has at least five meanings.
//!
//! An agent that is restarted between two requests is known by its connection, which ends with it:
//! the next request reads anew. What stands between and keeps its own connections, such as a proxy,
//! hides that; a restart is then noticed at the end of the `wait`.
//!
//! `wait` is 20 s here, not the usual minute or five: the answer at its end is what confirms an idle
//! copy, and a copy is called stale after 30 s ([`WatchSettings::stale_after`]).
//!
//! At the end of a wait Consul sends the whole list again. Where that is long (64 KiB) and the leader
//! answers, the watch asks for a tag that nobody has instead, and so for the index alone; the list is
//! read when that moves. Measured with 5,000 instances: 2 bytes instead of 3.8 MB, three times a minute.
//!
//! # Many services
//! Each blocking query occupies a connection, and an agent takes 200 from one address
//! (`http_max_conns_per_client`). So at most [`ConsulOptions::max_blocking`] queries of a registry block at the
//! same time, 128 by default. With more watches than that they take turns, and one warning is logged: a
//! watch that has its turn sees a change at once, any other within about 5 s, or, above 500 watches, a
//! hundredth of a second for each of them. An agent that refuses connections, by 429 or by closing them at
//! once, grants less than that: blocking queries then keep below what it granted, and after 10 minutes
//! without a refusal somewhat more are tried. Registrations have connections of their own.
//!
//! # Identity
//! A service id is unique on one agent only, so a [`Key`](crate::instance::Key) is the id and the
//! scope `datacenter/node`. The same id on three nodes is three instances.
//!
//! # Registering
//! Always on the first address of the configuration, which should be the agent of the same host. An agent that
//! lost its state answers a heartbeat in one of two ways, by version; both bring the registration
//! back. A heartbeat is sent every third of the TTL, at least once a second: it writes nothing to the
//! cluster's state and is how the loss of the agent's state is noticed.
//!
//! [`WatchSettings::stale_after`]: super::WatchSettings::stale_after

mod config;
#[cfg(feature = "consulrs")]
mod consulrs;
mod options;
mod probe;
mod register;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod turns;
mod watch;
#[doc(hidden)]
pub mod wire;

pub use self::{
    config::ConsulConfig,
    options::{Consistency, ConsulOptions},
};

use std::{fmt, sync::Arc};

use self::{
    register::AgentService,
    transport::{Hyper, Transport},
    turns::Turns,
    watch::HealthQuery,
};
use super::{Announcement, Backend, Lease, Query, Source};
use crate::error::{ConfigError, ErrorKind, RegistryError};

/// A Consul agent, or several.
///
/// # Examples
/// ```no_run
/// use tower_roster::{Registry, registry::consul::{ConsulConfig, Consul, ConsulOptions}};
///
/// // As the `consul` command finds its agent.
/// let registry = Registry::new(Consul::new(ConsulConfig::from_env()?)?);
///
/// // An agent of one's choice, two datacenters in order of preference.
/// let options = ConsulOptions::default().datacenter("eu-1").datacenter("eu-2");
/// let config = ConsulConfig::new("http://127.0.0.1:8500")?.options(options);
/// let registry = Registry::new(Consul::new(config)?);
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Consul {
    transport: Arc<dyn Transport>,
    /// For registrations, which must not wait behind watches: with connections of its own.
    leases: Arc<dyn Transport>,
    turns: Arc<Turns>,
    options: Arc<ConsulOptions>,
}

impl Consul {
    /// Prepares to talk to the agents of `config`.
    ///
    /// # Errors
    /// When a file that it names (a token, a certificate) cannot be used, or options exclude each
    /// other.
    pub fn new(config: ConsulConfig) -> Result<Self, ConfigError> {
        let (leases, _) = Hyper::new(config.clone())?;
        let (transport, options) = Hyper::new(config)?;
        Self::over(Arc::new(transport), Arc::new(leases), options)
    }

    /// Uses a `consulrs` client for the same watch and the same registration.
    ///
    /// That client has neither timeouts nor bounds; each request through it gets the deadlines of this
    /// crate, and a panic inside it costs that request only. It hides its connections, so an agent
    /// that was restarted between two requests is noticed only after a second: the first query after
    /// each change waits no longer. What cannot be fenced in: it follows redirects
    /// with the token, and reads an answer whole before its size can be judged. Its dependencies
    /// have open advisories (h2 0.3, rustls-webpki 0.101).
    ///
    /// # Errors
    /// When options exclude each other.
    #[cfg(feature = "consulrs")]
    pub fn with_client(
        client: Arc<::consulrs::client::ConsulClient>,
        options: ConsulOptions,
    ) -> Result<Self, ConfigError> {
        let transport: Arc<dyn Transport> = Arc::new(self::consulrs::Consulrs::new(client));
        Self::over(Arc::clone(&transport), transport, options)
    }
}

impl Consul {
    fn over(
        transport: Arc<dyn Transport>,
        leases: Arc<dyn Transport>,
        options: ConsulOptions,
    ) -> Result<Self, ConfigError> {
        options.validate()?;
        Ok(Self {
            turns: Arc::new(Turns::new(transport.name(), options.max_blocking)),
            transport,
            leases,
            options: Arc::new(options),
        })
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul")
            .field("agent", &self.transport.name())
            .field("options", &self.options)
            .finish()
    }
}

impl Backend for Consul {
    fn name(&self) -> Arc<str> {
        self.transport.name()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        if query.service().trim().is_empty() {
            return Err(RegistryError::new(
                ErrorKind::Invalid,
                self.name(),
                Arc::clone(query.service()),
                "the service has no name",
            ));
        }
        // Its own watch, and so its own index, for each datacenter.
        let datacenters = self.options.datacenters.iter().cloned().map(Some);
        let datacenters: Vec<_> = match self.options.datacenters.len() {
            0 => vec![None],
            _ => datacenters.collect(),
        };
        let sources = datacenters.into_iter().map(|datacenter| {
            let (transport, options) = (Arc::clone(&self.transport), Arc::clone(&self.options));
            let turns = Arc::clone(&self.turns);
            let query = HealthQuery::new(transport, turns, options, query, datacenter);
            Box::new(query) as Box<dyn Source>
        });
        Ok(sources.collect())
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let (transport, options) = (Arc::clone(&self.leases), &self.options);
        let turns = Arc::clone(&self.turns);
        AgentService::new(transport, turns, options, announcement).map(|lease| Box::new(lease) as _)
    }
}
