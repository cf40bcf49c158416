//! The backend for Consul: it reads instances from `/v1/health/service`, and registers on the local
//! agent.
//!
//! # Watching
//! A *blocking query* requests everything newer than an index. The agent holds it until there is
//! something newer, or until its `wait` ends. Most faults of Consul clients come from four properties of
//! blocking queries; the watch handles each of them:
//!
//! - A response with an error status has an index too. It means nothing.
//! - An index can go backwards (a restarted agent, a restored snapshot). A client that keeps the old
//!   index gets no more changes.
//! - An early response with the requested index itself is the only sign of a restored snapshot.
//! - An empty list has at least five meanings.
//!
//! An agent that was restarted between two requests is detected by its connection, which ends with it;
//! the next request then reads without an index. A proxy keeps its own connections and hides the
//! restart, which is then detected at the end of the `wait`.
//!
//! `wait` is 20 s by default, not the usual one or five minutes: the response at its end confirms an
//! idle set, and a set is stale after 30 s without confirmation ([`WatchSettings::stale_after`]).
//!
//! At the end of a wait Consul sends the whole list again. If the list is long (64 KiB) and the leader
//! serves it, the watch sends a *probe* instead: the same query with a filter that one instance of the
//! list satisfies. The list is read when the index changes or that instance is missing, and otherwise every
//! five minutes. With 5,000 instances, a probe replaces 3.8 MB by less than a kilobyte, three times a minute.
//! If a token loses its rights to a part of a long list only, that shows when the list is read: at the next
//! change, or after five minutes.
//!
//! # Many services
//! Each blocking query occupies a connection, and an agent accepts 200 from one address
//! (`http_max_conns_per_client`). So at most [`ConsulOptions::max_blocking`] queries of a registry block
//! at the same time, 128 by default. More watches than that take turns, and one warning is logged. A
//! watch whose query blocks sees a change at once, any other within about 5 s. Above 500 watches it is a
//! hundredth of a second for each watch.
//!
//! An agent that refuses connections, with 429 or by closing them at once, accepts fewer than that.
//! Blocking queries then stay below the number it accepted, and after 10 minutes without a refusal an
//! eighth more is tried. Registrations have their own connections.
//!
//! # Identity
//! A service id is unique on one agent only, so a [`Key`](crate::instance::Key) consists of the id and
//! the scope `datacenter/node`. The same id on three nodes is three instances.
//!
//! Consul's catalog does not distinguish names and ids by case: a query for `web` finds the service `Web`,
//! and two instances of one node whose ids differ in case only replace each other. The instances of a watch
//! have the name that was asked for.
//!
//! A service name and an id must be able to stand in a path : no empty segments, no segments `.` and `..`, printable
//! characters only. [`Registry::watch`](super::Registry::watch) and
//! [`Registry::register`](super::Registry::register) refuse all others.
//!
//! # Registering
//! Registrations always use the first address of the configuration, which should be the agent of the
//! same host. An agent that lost its state responds to a heartbeat in one of two ways, depending on its
//! version; after either, the instance is registered again. A heartbeat is sent every third of the TTL,
//! and at least once a second. It writes nothing to the cluster's state; it detects that the agent lost
//! its state.
//!
//! [`WatchSettings::stale_after`]: super::WatchSettings::stale_after

mod agent;
mod client;
mod config;
#[cfg(feature = "consulrs")]
mod consulrs;
mod env;
mod options;
mod path;
mod probe;
mod register;
mod reply;
mod request;
mod token;
mod transport;
mod turns;
mod url;
mod watch;
#[doc(hidden)]
pub mod wire;

pub use self::{
    config::ConsulConfig,
    options::{Consistency, ConsulOptions},
};

use std::sync::Arc;

use self::{
    register::AgentService,
    request::{HealthRequest, LONGEST_PATH},
    transport::{Hyper, Transport},
    turns::Turns,
    watch::HealthQuery,
};
use super::{Announcement, Backend, Lease, Query, Source, decoding::MOST_RECORDS};
use crate::{
    error::{ConfigError, ErrorKind, RegistryError, check_range},
    instance::Address,
};

/// The backend for one or several Consul agents.
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
/// let config = ConsulConfig::new("http://127.0.0.1:8500").options(options);
/// let registry = Registry::new(Consul::new(config)?);
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Consul {
    transport: Arc<dyn Transport>,
    /// For registrations, with its own connections, so that they do not wait behind watches.
    leases: Arc<dyn Transport>,
    turns: Arc<Turns>,
    options: Arc<ConsulOptions>,
    max_records: usize,
}

impl Consul {
    /// Creates a backend for the agents of `config`. It sends nothing yet.
    ///
    /// # Errors
    /// When a file that the configuration names (a token, a certificate) cannot be used, or an option
    /// cannot be used.
    pub fn new(config: ConsulConfig) -> Result<Self, ConfigError> {
        if config.tls.unverified && config.uses_tls()? {
            tracing::warn!("CONSUL_HTTP_SSL_VERIFY is false: anyone can pose as Consul");
        }
        config.warn_of_plain_secrets()?;
        check_range("consul.max_records", config.max_records, 1..)?;
        let max_records = config.max_records;
        let (leases, _) = Hyper::new(config.clone())?;
        let (transport, options) = Hyper::new(config)?;
        let consul = Self::over(Arc::new(transport), Arc::new(leases), options)?;
        Ok(Self {
            max_records,
            ..consul
        })
    }

    /// Creates a backend that sends the same requests through a `consulrs` client.
    ///
    /// That client has neither timeouts nor size limits. Each request through it gets the deadlines of
    /// this crate, and a panic inside it affects that request only. It hides its connections, so an
    /// agent that was restarted between two requests is detected only after a second: the first query
    /// after each change waits no longer than that.
    ///
    /// Three problems of the client remain: it follows redirects with the token, it reads a whole
    /// response before the size is checked, and its dependencies have open advisories (h2 0.3,
    /// rustls-webpki 0.101).
    ///
    /// # Errors
    /// When an option cannot be used.
    #[cfg(feature = "consulrs")]
    pub fn with_client(
        client: Arc<::consulrs::client::ConsulClient>,
        options: ConsulOptions,
    ) -> Result<Self, ConfigError> {
        let transport = self::consulrs::Consulrs::new(client);
        transport.warn_of_plain_secrets();
        let transport: Arc<dyn Transport> = Arc::new(transport);
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
            max_records: MOST_RECORDS,
        })
    }
}

impl_debug!(Consul: |this| agent = this.transport.name(), options = this.options);

impl Backend for Consul {
    fn name(&self) -> Arc<str> {
        self.transport.name()
    }

    fn address(&self) -> Option<Address> {
        self.leases.address()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        let invalid = |why: String| RegistryError::new(ErrorKind::Invalid, why);
        path::check(query.service()).map_err(|why| invalid(format!("its name {why}")))?;
        // Each datacenter has its own source, and so its own index.
        let datacenters = self.options.datacenters.iter().cloned().map(Some);
        let datacenters: Vec<_> = match self.options.datacenters.len() {
            0 => vec![None],
            _ => datacenters.collect(),
        };
        let sources = datacenters.into_iter().map(|datacenter| {
            let request = HealthRequest::new(Arc::clone(&self.options), query, datacenter);
            let length = request.longest();
            if length > LONGEST_PATH {
                return Err(invalid(format!(
                    "the query has {length} bytes with its tags and filter, and at most \
                     {LONGEST_PATH} fit in a request"
                )));
            }
            let (transport, turns) = (Arc::clone(&self.transport), Arc::clone(&self.turns));
            let query = HealthQuery::new(transport, turns, request, self.max_records);
            Ok(Box::new(query) as Box<dyn Source>)
        });
        sources.collect()
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let (transport, options) = (Arc::clone(&self.leases), &self.options);
        let turns = Arc::clone(&self.turns);
        AgentService::new(transport, turns, options, announcement).map(|lease| Box::new(lease) as _)
    }
}
