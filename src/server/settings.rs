//! The settings of an announced server.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use super::interface::Place;
use crate::{
    error::ConfigError,
    instance::{Address, Instance, Weight},
    registry::{Announcement, Health},
};

/// What watches need to see that an instance is gone: some milliseconds on Consul and etcd, and up to a second
/// at a client that polls or reconnects.
const NOTICE: Duration = Duration::from_secs(1);

/// With the 8 s of a deregistration at most and the second above, it is below the 30 s after which
/// Kubernetes kills a process.
const GRACE: Duration = Duration::from_secs(20);

/// How a server is announced, and how it leaves. The name of a service converts into it.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::{registry::Health, server::ServerSettings};
///
/// let settings = ServerSettings::new("user-service")
///     .tag("v2")
///     .health(Health::http("/health"))
///     .notice(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "settings do nothing until a registry announces them"]
pub struct ServerSettings {
    pub(super) service: Arc<str>,
    id: Option<Arc<str>>,
    advertise: Option<Address>,
    weight: Weight,
    zone: Option<Arc<str>>,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    health: Health,
    reap_after: Option<Option<Duration>>,
    starts_passing: bool,
    pub(super) notice: Duration,
    pub(super) grace: Duration,
}

impl ServerSettings {
    /// The defaults, for an instance of this service.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            id: None,
            advertise: None,
            weight: Weight::ONE,
            zone: None,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            health: Health::Ttl(Duration::from_secs(10)),
            reap_after: None,
            starts_passing: true,
            notice: NOTICE,
            grace: GRACE,
        }
    }

    /// Sets the id of the instance. By default it is `SERVICE-HOST-PORT`, so a server that restarts on its
    /// port takes the place of its predecessor.
    pub fn id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the address that clients connect to. By default it is the one of the listener, or of an interface
    /// if that listens on all addresses; see [the module](super#the-address).
    pub fn advertise(mut self, address: impl Into<Option<Address>>) -> Self {
        self.advertise = address.into();
        self
    }

    /// Sets the share of the traffic relative to other instances, from 0 to 65 535; 1 by default. Consul takes
    /// no weight of 0.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight.into();
        self
    }

    /// Sets the zone; none by default, and none if it is blank.
    pub fn zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Adds a tag; there is none by default.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds a name and value to the metadata, which is empty by default. An equal name gets the new value.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets how the registry checks the health of the instance; a TTL of 10 s by default. For a check over
    /// HTTP or gRPC, the server answers with its [`Readiness`](super::Readiness).
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Sets after how long of bad health the registry removes the instance, as
    /// [`Announcement::reap_after`]; 10 min by default.
    pub fn reap_after(mut self, time: Option<Duration>) -> Self {
        self.reap_after = Some(time);
        self
    }

    /// Sets whether the registry lists the instance as healthy before its first check, as
    /// [`Announcement::starts_passing`]; true by default, because the server accepts connections when it is
    /// announced. Set false for a server that answers its health check with an error at first, or that waits for
    /// something else before it accepts connections.
    pub fn starts_passing(mut self, passing: bool) -> Self {
        self.starts_passing = passing;
        self
    }

    /// Sets how long the server goes on serving after it is deregistered, so that the watches of all clients
    /// have noticed; 1 s by default. Too short, and clients send requests to a server that accepts none.
    /// Clients that poll a registry need longer than their interval.
    pub fn notice(mut self, time: Duration) -> Self {
        self.notice = time;
        self
    }

    /// Sets how long the graceful shutdown of the server may take, the requests in flight and the open streams
    /// included; 20 s by default. Then the server is dropped; what it runs on tasks of its own ends with the
    /// runtime. Zero drops it at once.
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// Where the instance is reached, as far as it is known before the registry is asked.
    pub(super) fn place(
        &self,
        listening: io::Result<Option<SocketAddr>>,
    ) -> Result<Place, ConfigError> {
        if let Some(address) = &self.advertise {
            return Ok(Place::Known(address.clone()));
        }
        let invalid = |why: String| ConfigError::new("server.advertise", why);
        let listening = listening
            .map_err(|error| invalid(format!("the listener does not tell its address: {error}")))?;
        let Some(address) = listening else {
            let why = "the listener has no address that other machines can connect to: set one";
            return Err(invalid(why.to_owned()));
        };
        Place::of(address).map_err(|error| invalid(error.to_string()))
    }

    /// What the registry is told about an instance at this address.
    pub(super) fn announcement(&self, address: Address) -> Announcement {
        let id = self.id.clone().unwrap_or_else(|| {
            let (host, port) = (address.host(), address.port());
            format!("{}-{host}-{port}", self.service).into()
        });
        let mut instance = Instance::new(Arc::clone(&self.service), id, address);
        instance.weight = self.weight;
        instance.tags.clone_from(&self.tags);
        instance.metadata.clone_from(&self.metadata);
        if let Some(zone) = &self.zone {
            instance = instance.zone(Arc::clone(zone));
        }
        let announcement = Announcement::new(instance)
            .health(self.health.clone())
            .starts_passing(self.starts_passing);
        match self.reap_after {
            Some(time) => announcement.reap_after(time),
            None => announcement,
        }
    }
}

impl From<&str> for ServerSettings {
    fn from(service: &str) -> Self {
        Self::new(service)
    }
}

impl From<String> for ServerSettings {
    fn from(service: String) -> Self {
        Self::new(service)
    }
}
