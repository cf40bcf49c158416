//! The backend itself: paths, and what can be held.

use std::{fmt, sync::Arc};

use super::{
    client::ZkClient,
    copy::Copy,
    lease::{Held, ZookeeperLease},
    watch::ZookeeperSource,
    wire::ZookeeperAcl,
};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::{Address, Host},
    registry::{
        Announcement, Backend, Health, Lease, Query, Source,
        record::{self, RecordFormat, encode, encode_name},
    },
};

/// The longest path, in bytes. Arbitrary: ZooKeeper has no limit below that of a request, 1 MB.
const LONGEST_PATH: usize = 4 << 10;

/// The backend for a ZooKeeper ensemble.
///
/// # Examples
/// ```no_run
/// use tower_roster::{Registry, registry::zookeeper::{Zookeeper, ZookeeperSettings}};
///
/// let registry = Registry::new(Zookeeper::new(["127.0.0.1:2181".parse()?])?);
///
/// // The instances of Finagle's serversets.
/// let settings = ZookeeperSettings::from_url("zk://10.0.0.1,10.0.0.2,10.0.0.3?prefix=/discovery/prod")?;
/// let registry = Registry::new(settings.build()?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Zookeeper {
    pub(super) name: Arc<str>,
    pub(super) address: Option<Address>,
    pub(super) client: ZkClient,
    pub(super) held: Arc<Held>,
    /// What precedes the names of services: the chroot and the prefix. It is `/`, or has no `/` at its
    /// end.
    pub(super) root: Arc<str>,
    pub(super) acl: ZookeeperAcl,
    pub(super) format: RecordFormat,
}

impl Zookeeper {
    /// The path of the node whose children are the instances of a service.
    fn service_path(&self, service: &str) -> Result<String, RegistryError> {
        let root = self.root.trim_end_matches('/');
        let mut path = format!("{root}/{}", node_name(service));
        if self.format.is_dubbo() {
            path.push_str("/providers");
        }
        check_length(&path)?;
        Ok(path)
    }
}

/// Encodes a service or an id as the name of a node. ZooKeeper refuses characters that Java writes as
/// surrogates, and some others.
fn node_name(text: &str) -> String {
    let refused = |c: char| matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..);
    let mut name = String::with_capacity(text.len());
    for c in encode_name(text).chars() {
        match refused(c) {
            true => {
                let bytes = c.to_string().into_bytes();
                bytes
                    .iter()
                    .for_each(|byte| name.push_str(&format!("%{byte:02X}")));
            }
            false => name.push(c),
        }
    }
    name
}

fn check_length(path: &str) -> Result<(), RegistryError> {
    match path.len() {
        ..=LONGEST_PATH => Ok(()),
        _ => Err(invalid(format!("a path has at most {LONGEST_PATH} bytes"))),
    }
}

fn invalid(why: impl Into<Arc<str>>) -> RegistryError {
    RegistryError::new(ErrorKind::Invalid, why)
}

impl fmt::Debug for Zookeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zookeeper")
            .field("name", &self.name)
            .field("root", &self.root)
            .field("session_timeout", &self.client.session_timeout())
            .field("acl", &self.acl)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Backend for Zookeeper {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn address(&self) -> Option<Address> {
        self.address.clone()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        let path = self.service_path(query.service())?;
        let copy = Copy::new(query.clone(), self.format.clone());
        let source = ZookeeperSource::new(self.client.clone(), &path, copy);
        Ok(vec![Box::new(source)])
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        if !matches!(announcement.health_check(), Health::Ttl(_)) {
            return Err(invalid("ZooKeeper checks no instances: use a TTL"));
        }
        if self.format.is_dubbo() {
            let why = "records of Dubbo by interface are read only, and not written";
            return Err(invalid(why));
        }
        let instance = announcement.instance().clone();
        // A `Host` can be created without parsing, so it is checked here.
        let host = instance.address.host().to_string();
        host.parse::<Host>()
            .map_err(|error| invalid(error.to_string()))?;
        let mut path = self.service_path(&instance.service)?;
        path.push('/');
        path.push_str(&node_name(instance.id()));
        check_length(&path)?;
        let data = encode(&instance, unix_ms());
        let most = record::LONGEST_RECORD;
        if data.len() > most {
            let why = format!("the record has {} bytes, at most {most}", data.len());
            return Err(invalid(why));
        }
        let holder = self.held.of(&path, &self.client);
        let lease = ZookeeperLease::new(self.client.clone(), holder, instance, data, self.acl);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::decode_name;

    #[test]
    fn names_that_zookeeper_refuses_are_encoded() {
        for (text, name) in [
            ("web", "web"),
            ("a b?#", "a b?#"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            ("服务-ä", "服务-ä"),
            ("\u{1}", "%01"),
            ("🦀", "%F0%9F%A6%80"),
            ("\u{e000}\u{fffd}", "%EE%80%80%EF%BF%BD"),
        ] {
            assert_eq!(node_name(text), name);
            assert_eq!(decode_name(name), text);
        }
    }
}
