//! The backend itself: keys, and what can be held.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    client::Cluster,
    copy::Copy,
    lease::{self, EtcdLease, Held},
    watch::EtcdSource,
};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::{Address, Host},
    registry::{
        Announcement, Backend, Health, Lease, Query, Source,
        record::{self, RecordFormat, encode, encode_name},
    },
};

/// The longest key, in bytes. Arbitrary: etcd has no limit below that of a request, 1.5 MB.
const LONGEST_KEY: usize = 4 << 10;

/// The longest record that is written, in bytes; readers accept [`LONGEST_RECORD`].
///
/// [`LONGEST_RECORD`]: record::LONGEST_RECORD
const LONGEST_VALUE: usize = record::LONGEST_RECORD;

/// The largest TTL that etcd grants.
const LARGEST_TTL: Duration = Duration::from_secs(9_000_000_000);

/// The backend for an etcd cluster.
///
/// # Examples
/// ```no_run
/// use tower_roster::{Registry, registry::etcd::{Etcd, EtcdSettings}};
///
/// let registry = Registry::new(Etcd::new(["127.0.0.1:2379".parse()?])?);
///
/// // The instances that kratos registers.
/// let settings = EtcdSettings::from_url("etcd://10.0.0.1,10.0.0.2,10.0.0.3?prefix=/microservices")?;
/// let registry = Registry::new(settings.build()?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Etcd {
    pub(super) name: Arc<str>,
    pub(super) address: Option<Address>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) held: Arc<Held>,
    pub(super) prefix: Arc<str>,
    pub(super) ttl: Duration,
    pub(super) format: RecordFormat,
}

impl Etcd {
    /// The prefix of the keys of a service. It ends in `/`: without it, the keys of `web` would include
    /// those of `webhook` (ED2).
    fn service_prefix(&self, service: &str) -> Result<String, RegistryError> {
        let prefix = format!("{}{}/", self.prefix, encode_name(service));
        match prefix.len() {
            0..LONGEST_KEY => Ok(prefix),
            _ => Err(invalid(format!("a key has at most {LONGEST_KEY} bytes"))),
        }
    }
}

fn invalid(why: impl Into<Arc<str>>) -> RegistryError {
    RegistryError::new(ErrorKind::Invalid, why)
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .field("ttl", &self.ttl)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Backend for Etcd {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn address(&self) -> Option<Address> {
        self.address.clone()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        let prefix = self.service_prefix(query.service())?.into_bytes();
        let copy = Copy::new(query.clone(), self.format.clone(), prefix);
        let source = EtcdSource::new(self.cluster.client(), copy);
        Ok(vec![Box::new(source)])
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let Health::Ttl(ttl) = announcement.health_check() else {
            return Err(invalid("etcd checks no instances: use a TTL"));
        };
        let instance = announcement.instance().clone();
        // A `Host` can be created without parsing, so it is checked here.
        let host = instance.address.host().to_string();
        host.parse::<Host>()
            .map_err(|error| invalid(error.to_string()))?;
        let mut key = self.service_prefix(&instance.service)?;
        key.push_str(&encode_name(instance.id()));
        if key.len() > LONGEST_KEY {
            return Err(invalid(format!("a key has at most {LONGEST_KEY} bytes")));
        }
        let value = encode(&instance, unix_ms());
        if value.len() > LONGEST_VALUE {
            let why = format!(
                "the record has {} bytes, at most {LONGEST_VALUE}",
                value.len()
            );
            return Err(invalid(why));
        }
        // Whole seconds, and never less than what was asked for.
        let ttl = (*ttl).max(self.ttl).min(LARGEST_TTL);
        let ttl = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        let holder = self.held.of(&key);
        let client = self.cluster.client_within(lease::within(ttl));
        let client = client.impatient(lease::FIRST_WITHIN);
        let lease = EtcdLease::new(client, holder, instance, key.into_bytes(), value, ttl);
        Ok(Box::new(lease))
    }
}

/// The time of a registration, which Java clients show.
#[expect(clippy::disallowed_types, reason = "a date is meant")]
fn unix_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
