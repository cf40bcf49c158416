//! The backend that sends requests to a [`RestServer`](super::RestServer).

use std::{sync::Arc, time::Duration};

use super::session::{RestLease, RestSource};
use crate::{
    connect::{Connector, Target},
    error::{ConfigError, ErrorKind, RegistryError},
    instance::Address,
    registry::{
        Announcement, Backend, Lease, Query, Source,
        http::{CONNECT_WITHIN, Http, is_local},
        memory::{Defaults, Sessions, new_record, wire::LONGEST_NAME},
        redact::shown,
    },
};

/// How long the registry may hold a request open: 20 s, two thirds of the 30 s after which a set without
/// confirmation is stale.
const WAIT: Duration = Duration::from_secs(20);

/// The largest response: about 100 000 instances.
const MAX_BODY: usize = 64 << 20;

/// How many bytes the tags of a query may have, so that it fits in a URI. Arbitrary: encoded, they have at
/// most 48 KiB.
const LONGEST_TAGS: usize = 16 << 10;

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
    http: Http,
    sessions: Sessions,
    wait: Duration,
}

impl RestClient {
    /// Creates a client for the registry at these addresses.
    ///
    /// # Errors
    /// When there is no address.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Result<Self, ConfigError> {
        let addresses: Vec<Address> = addresses.into_iter().collect();
        if addresses.is_empty() {
            return Err(ConfigError::new(
                "registry.url",
                "a rest registry needs an address",
            ));
        }
        let names: Vec<_> = addresses.iter().map(Address::to_string).collect();
        let backend: Arc<str> = format!("rest http://{}", names.join(",")).into();
        let agents = addresses.into_iter().map(|address| {
            let origin = format!("http://{address}");
            let gzip = !is_local(address.host());
            (
                origin,
                gzip,
                Connector::new(Target::Tcp(address), CONNECT_WITHIN),
            )
        });
        Ok(Self {
            http: Http::new(backend, agents, MAX_BODY),
            sessions: Sessions::default(),
            wait: WAIT,
        })
    }

    /// Creates a client from `rest://host:port`, or from `rest://host:port,host:port` for several
    /// addresses.
    ///
    /// # Errors
    /// When the URL has any other form. The message names the part.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let invalid =
            |why: String| ConfigError::new("registry.url", format!("{:?}: {why}", shown(url)));
        let rest = url
            .strip_prefix("rest://")
            .ok_or_else(|| invalid("write rest://host:port".to_owned()))?;
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
        if list.contains('@') {
            return Err(invalid("a user or password cannot be given".to_owned()));
        }
        let addresses = list.split(',').map(str::parse::<Address>);
        let addresses = addresses.collect::<Result<Vec<_>, _>>();
        Self::new(addresses.map_err(|error| invalid(error.to_string()))?)
    }

    /// Sets how long the registry may hold a request open before it confirms that nothing changed; 20 s
    /// by default, from 10 ms to 10 min (other values are clamped). Shorter waits cost more requests. A
    /// set must be confirmed within
    /// [`WatchSettings::stale_after`](crate::registry::WatchSettings::stale_after), so a longer wait
    /// needs a longer `stale_after`.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait.clamp(Duration::from_millis(10), Duration::from_secs(600));
        self
    }
}

impl Backend for RestClient {
    fn name(&self) -> Arc<str> {
        Arc::clone(self.http.backend())
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        // The registry accepts no longer names, and the whole path must fit in a URI of 64 KiB.
        let tags: usize = query.tags().iter().map(String::len).sum();
        if query.service().len() > LONGEST_NAME || tags > LONGEST_TAGS {
            let why = format!(
                "a service has at most {LONGEST_NAME} bytes, and the tags of a query {LONGEST_TAGS}"
            );
            let (backend, service) = (self.name(), Arc::clone(query.service()));
            return Err(RegistryError::new(
                ErrorKind::Invalid,
                backend,
                service,
                why,
            ));
        }
        let watcher = RestSource::new(self.http.clone(), query.clone(), self.wait);
        Ok(vec![Box::new(watcher)])
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let session = self.sessions.of(announcement.instance().id());
        // The registry applies its own defaults; these are placeholders.
        let defaults = Defaults::default();
        let record = new_record(announcement, self.http.backend(), defaults, Some(session))?;
        Ok(Box::new(RestLease::new(self.http.clone(), record)))
    }
}
