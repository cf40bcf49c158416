//! The backend that sends requests to a [`RestServer`](super::RestServer).

use std::{sync::Arc, time::Duration};

use super::session::{RestLease, RestSource};
use crate::{
    connect::{Connector, Target},
    error::{ConfigError, ErrorKind, RegistryError, check_range},
    instance::Address,
    registry::{
        Announcement, Backend, Lease, Query, Source,
        decoding::MOST_RECORDS,
        http::{CONNECT_WITHIN, RegistryHttp, is_local},
        memory::{Defaults, Sessions, new_record, wire::LONGEST_NAME},
        redact::shown,
    },
};

/// How long the registry may hold a request open: 20 s, two thirds of the 30 s after which a set without
/// confirmation is stale.
const WAIT: Duration = Duration::from_secs(20);

/// The largest response: about 100 000 instances.
const MAX_BODY: usize = 64 << 20;

/// How many bytes the tags of a query may have, so that the registry accepts the head of the request:
/// encoded, they have at most 12 KiB.
const LONGEST_TAGS: usize = 4 << 10;

/// The backend for a registry that a [`RestServer`](super::RestServer) serves.
///
/// With several addresses, a failed request is followed by a request to the next address. They must all
/// lead to one registry, because embedded registries do not share their state.
///
/// # Examples
/// ```
/// use tower_roster::{Registry, registry::rest::RestClient};
///
/// let registry = Registry::new(RestClient::new(["127.0.0.1:8500".parse()?])?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RestClient {
    name: Arc<str>,
    address: Option<Address>,
    http: RegistryHttp,
    sessions: Sessions,
    wait: Duration,
    max_records: usize,
}

impl RestClient {
    /// Creates a client for the registry at these addresses, with default settings.
    ///
    /// # Errors
    /// When there is no address.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Result<Self, ConfigError> {
        RestSettings::new(addresses).build()
    }
}

/// The settings of a [`RestClient`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until they are built"]
pub struct RestSettings {
    addresses: Vec<Address>,
    wait: Duration,
    max_records: usize,
}

impl RestSettings {
    /// The defaults, for the registry at these addresses, of which there must be at least one.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            wait: WAIT,
            max_records: MOST_RECORDS,
        }
    }

    /// Takes the addresses from `rest://host:port`, or from `rest://host:port,host:port` for several.
    ///
    /// # Errors
    /// When the URL has any other form. The message names the part.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let invalid =
            |why: String| ConfigError::new("registry.url", format!("{:?}: {why}", shown(url)));
        let rest = url
            .strip_prefix("rest://")
            .ok_or_else(|| invalid("write rest://host:port".to_owned()))?;
        // First, because what follows a `/` or a `?` may be a part of a password.
        if rest.contains('@') {
            return Err(invalid("a user or password cannot be given".to_owned()));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (list, path) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some((name, _)) = form_urlencoded::parse(query.as_bytes()).next() {
            return Err(invalid(format!(
                "no parameter {name:?} is known; a rest registry takes none"
            )));
        }
        if !path.is_empty() {
            return Err(invalid(format!("a path, {path:?}, cannot be given")));
        }
        let addresses = list.split(',').map(str::parse::<Address>);
        let addresses = addresses.collect::<Result<Vec<_>, _>>();
        Ok(Self::new(
            addresses.map_err(|error| invalid(error.to_string()))?,
        ))
    }

    /// Sets how long the registry may hold a request open before it confirms that nothing changed, from
    /// 10 ms to 10 min; 20 s by default. Shorter waits cost more requests. An idle set counts as
    /// confirmed for as long as a wait takes, unless
    /// [`WatchSettings::stale_after`](crate::registry::WatchSettings::stale_after) is set.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets how many instances a response may list; at least 1, 100 000 by default. A longer list is an
    /// error, and the last good set is kept. It bounds the work that a response causes: two bytes can make
    /// an instance, which is then left out.
    pub fn max_records(mut self, records: usize) -> Self {
        self.max_records = records;
        self
    }

    /// Makes the client.
    ///
    /// # Errors
    /// When there is no address, or a setting is out of its range.
    pub fn build(&self) -> Result<RestClient, ConfigError> {
        if self.addresses.is_empty() {
            return Err(ConfigError::new("rest.addresses", "there is none"));
        }
        let waits = Duration::from_millis(10)..=Duration::from_secs(600);
        check_range("rest.wait", self.wait, waits)?;
        check_range("rest.max_records", self.max_records, 1..)?;
        let names: Vec<_> = self.addresses.iter().map(Address::to_string).collect();
        let agents = self.addresses.iter().map(|address| {
            let connector = Connector::new(Target::Tcp(address.clone()), CONNECT_WITHIN);
            let gzip = !is_local(address.host());
            (format!("http://{address}"), gzip, connector)
        });
        Ok(RestClient {
            name: format!("rest http://{}", names.join(",")).into(),
            address: self.addresses.first().cloned(),
            http: RegistryHttp::new(agents, MAX_BODY),
            sessions: Sessions::default(),
            wait: self.wait,
            max_records: self.max_records,
        })
    }
}

impl Backend for RestClient {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn address(&self) -> Option<Address> {
        self.address.clone()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        // The registry accepts no longer names, and the whole path must fit in a URI of 64 KiB.
        let tags: usize = query.tags().iter().map(String::len).sum();
        if query.service().len() > LONGEST_NAME || tags > LONGEST_TAGS {
            let why = format!(
                "a service has at most {LONGEST_NAME} bytes, and the tags of a query {LONGEST_TAGS}"
            );
            return Err(RegistryError::new(ErrorKind::Invalid, why));
        }
        let watcher = RestSource::new(
            self.http.clone(),
            query.clone(),
            self.wait,
            self.max_records,
        );
        Ok(vec![Box::new(watcher)])
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let session = self.sessions.of(announcement.instance().id());
        // The registry applies its own defaults; these are placeholders.
        let defaults = Defaults::default();
        let record = new_record(announcement, defaults, Some(session))?;
        Ok(Box::new(RestLease::new(self.http.clone(), record)))
    }
}
