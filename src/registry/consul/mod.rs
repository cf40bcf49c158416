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
//! copy, and a copy is called stale after 30 s ([`Settings::stale_after`]).
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
//! [`Settings::stale_after`]: super::Settings::stale_after

mod config;
#[cfg(feature = "consulrs")]
mod consulrs;
mod options;
mod register;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod watch;
#[doc(hidden)]
pub mod wire;

pub use self::{
    config::Config,
    options::{Consistency, Options},
};

use std::{fmt, sync::Arc};

use self::{
    register::AgentService,
    transport::{Hyper, Transport},
    watch::HealthQuery,
};
use super::{Announcement, Backend, Lease, Query, Source};
use crate::error::{ConfigError, Error, ErrorKind};

/// A Consul agent, or several.
///
/// # Examples
/// ```no_run
/// use tower_roster::{Registry, registry::consul::{Config, Consul, Options}};
///
/// // As the `consul` command finds its agent.
/// let registry = Registry::new(Consul::new(Config::from_env()?)?);
///
/// // An agent of one's choice, two datacenters in order of preference.
/// let options = Options::default().datacenter("eu-1").datacenter("eu-2");
/// let config = Config::new("http://127.0.0.1:8500")?.options(options);
/// let registry = Registry::new(Consul::new(config)?);
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Consul {
    transport: Arc<dyn Transport>,
    options: Arc<Options>,
}

impl Consul {
    /// Prepares to talk to the agents of `config`.
    ///
    /// # Errors
    /// When a file that it names (a token, a certificate) cannot be used, or options exclude each
    /// other.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let (transport, options) = Hyper::new(config)?;
        options.validate()?;
        Ok(Self {
            transport: Arc::new(transport),
            options: Arc::new(options),
        })
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
        options: Options,
    ) -> Result<Self, ConfigError> {
        options.validate()?;
        Ok(Self {
            transport: Arc::new(self::consulrs::Consulrs::new(client)),
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

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, Error> {
        if query.service().trim().is_empty() {
            return Err(Error::new(
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
            Box::new(HealthQuery::new(transport, options, query, datacenter)) as Box<dyn Source>
        });
        Ok(sources.collect())
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, Error> {
        let (transport, options) = (Arc::clone(&self.transport), &self.options);
        AgentService::new(transport, options, announcement).map(|lease| Box::new(lease) as _)
    }
}
