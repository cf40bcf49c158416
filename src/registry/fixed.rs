//! A constant list of instances.
//!
//! It is meant for tests, for a few servers that never change, and as the last resort in an order of
//! preference. It does not check the instances, and accepts no registrations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Announcement, Answer, Backend, BoxFuture, Lease, Limit, Query, Source, redact::shown};
use crate::{
    catalog::Listing,
    error::{ConfigError, ErrorKind, RegistryError},
    instance::{Address, Instance, Weight},
};

/// A registry with a constant list of instances, the same for every service name.
#[derive(Clone, Debug)]
pub struct Fixed {
    addresses: Arc<[(Address, Weight)]>,
}

impl Fixed {
    /// Creates a list of addresses, each with a weight.
    pub fn new(addresses: impl IntoIterator<Item = (Address, Weight)>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
        }
    }

    /// Parses `host:port,host:port;weight=3,…`.
    ///
    /// # Errors
    /// When an entry is no address, has a parameter other than `weight`, or is repeated.
    pub fn parse(list: &str) -> Result<Self, ConfigError> {
        let invalid = |entry: &str, why: String| {
            ConfigError::new(
                "fixed.addresses",
                format!("entry {:?}: {why}", shown(entry)),
            )
        };
        let mut addresses = BTreeMap::new();
        for entry in list.split(',') {
            let mut parts = entry.split(';');
            let address: Address = parts
                .next()
                .unwrap_or_default()
                .parse()
                .map_err(|error| invalid(entry, format!("{error}")))?;
            let mut weight = Weight::ONE;
            for part in parts {
                weight = match part.split_once('=') {
                    Some(("weight", number)) => number
                        .parse::<u16>()
                        .map(Weight::from)
                        .map_err(|_| invalid(entry, "a weight is a number up to 65535".into()))?,
                    _ => return Err(invalid(entry, format!("{:?} is not weight=N", shown(part)))),
                };
            }
            let name = address.to_string();
            if addresses.insert(name, (address, weight)).is_some() {
                return Err(invalid(entry, "the address stands twice".into()));
            }
        }
        Ok(Self::new(addresses.into_values()))
    }
}

impl Backend for Fixed {
    fn name(&self) -> Arc<str> {
        "fixed".into()
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        let instances = self.addresses.iter().map(|(address, weight)| {
            let mut instance = Instance::new(
                Arc::clone(query.service()),
                address.to_string(),
                address.clone(),
            );
            instance.weight = *weight;
            instance
        });
        let instances = instances.filter(|i| query.matches(&i.tags));
        let instances = instances.map(Arc::new).collect();
        Ok(vec![Box::new(Once { instances })])
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let what = "nothing can be registered in a fixed list";
        Err(RegistryError::new(ErrorKind::Invalid, what))
    }
}

#[derive(Debug)]
struct Once {
    instances: Vec<Arc<Instance>>,
}

impl Source for Once {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async {
            Ok(Answer::Listing(Listing {
                instances: self.instances.clone(),
                exists: true,
                ..Listing::default()
            }))
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        // Confirms the list regularly, so that it is never reported as stale.
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok(Answer::Unchanged)
        })
    }

    fn limit(&self) -> Limit {
        Limit::NONE
    }
}
