//! Clients from a configuration file.
//!
//! ```text
//! file or environment ──serde──▶ Node ──▶ ClientConfig ──▶ Router::from_config
//!   TOML, JSON, …                 │ paths, unknown keys        └── Router::apply, while it runs
//! ```
//! A loader of any format may read it. The text of a format is read into a tree first, so that each error names
//! the path of a setting, and an unknown key the nearest one that is known.

mod build;
mod field;
mod live;
mod node;
mod service;
#[cfg(test)]
mod tests;
mod weigh;

pub use self::{
    field::OrNone,
    service::{
        BreakerConfig, BudgetConfig, ConnectionConfig, EjectionConfig, HealthCheckConfig,
        HedgeConfig, RetryConfig, ServiceConfig, SlowStartConfig, SplitConfig,
    },
};

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};

use self::{
    field::{Field, join, section, table, unknown},
    node::Node,
};
use crate::{client::router::Unknown, error::ConfigError};

/// The configuration of a [`Router`](super::Router): the registry, defaults, and the settings of services.
///
/// It is read by any loader for serde. Times are texts such as `"10s"` or `"1m 30s"`. A key that is no setting is an
/// error which names the nearest one, and a wrong value is named by its path, as
/// `services.user-service.retry.max_attempts`. `examples/client.toml` has all settings with their defaults.
///
/// # Examples
/// ```
/// # #[cfg(feature = "consul")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_roster::client::{Router, config::ClientConfig};
///
/// let config: ClientConfig = toml::from_str(r#"
///     registry.url = "consul://127.0.0.1:8500"
///     defaults.timeout = "5s"
///
///     [services.user-service]
///     policy = "least-requests"
///     retry.max_attempts = 2
/// "#)?;
/// let router: Router = Router::from_config(&config)?;
///
/// let error = toml::from_str::<ClientConfig>("defaults.timeut = '5s'").unwrap_err();
/// assert!(error.to_string().contains(r#"defaults.timeut: is no setting; did you mean "timeout"?"#));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "consul"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The registry that lists the services.
    pub registry: RegistryConfig,
    /// Settings of the router.
    pub router: RouterConfig,
    /// Settings of all services.
    pub defaults: ServiceConfig,
    /// Settings of services by their name, over the defaults.
    pub services: BTreeMap<String, ServiceConfig>,
}

section! {
    /// Settings of the registry and its [watches](crate::registry::WatchSettings).
    pub struct RegistryConfig {
        /// Its URL, as for [`registry::connect`](crate::registry::connect); `consul:`, the agent that the command
        /// `consul` uses.
        pub url: Option<String>,
        /// After how long without confirmation a set is reported as stale; the backend's own.
        pub stale_after: Option<Duration>,
        /// How long an instance stays in the set after it is no longer listed; `0s`.
        pub removal_grace: Option<Duration>,
        /// How long a watch continues after its last client was dropped; `0s`.
        pub linger: Option<Duration>,
    }
}

section! {
    /// Settings of the [router](super::RouterBuilder).
    pub struct RouterConfig {
        /// Of how many services without settings of their own there may be clients; 256.
        pub max_services: Option<usize>,
        /// After how long without a request a client is dropped; `5m`, or `none`.
        pub idle: Option<OrNone>,
        /// What happens with names that the registry does not know: `refuse` or `dns`; `refuse`.
        pub unknown: Option<Unknown>,
    }
}

impl field::Scalar for Unknown {
    const EXPECTED: &'static str = "\"refuse\" or \"dns\"";

    fn of(node: &Node) -> Option<Self> {
        match node {
            Node::Text(text) if text == "refuse" => Some(Self::Refuse),
            Node::Text(text) if text == "dns" => Some(Self::Dns),
            _ => None,
        }
    }
}

impl ClientConfig {
    const KEYS: &'static [&'static str] = &["registry", "router", "defaults", "services"];

    fn read(node: Node) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, node) in table(node, "configuration")? {
            match &*key {
                "registry" => config.registry = Field::read(node, &key)?,
                "router" => config.router = Field::read(node, &key)?,
                "defaults" => config.defaults = Field::read(node, &key)?,
                "services" => {
                    for (name, node) in table(node, &key)? {
                        let service = Field::read(node, &join(&key, &name))?;
                        config.services.insert(name, service);
                    }
                }
                _ => return Err(unknown("", &key, Self::KEYS)),
            }
        }
        config.check_likes()?;
        Ok(config)
    }

    /// # Errors
    /// When a service is like one that is not there, or like itself by way of others.
    fn check_likes(&self) -> Result<(), ConfigError> {
        if self.defaults.like.is_some() {
            let why = "is a setting of services only";
            return Err(ConfigError::new("defaults.like", why));
        }
        for name in self.services.keys() {
            let mut chain = vec![name.as_str()];
            let path = || format!("services.{name}.like");
            while let Some(like) = self.services[chain[chain.len() - 1]].like.as_deref() {
                if !self.services.contains_key(like) {
                    let why = format!("is {like:?}, which has no settings in services");
                    return Err(ConfigError::new(path(), why));
                }
                let round = chain.contains(&like);
                chain.push(like);
                if round {
                    let why = format!("goes round in a circle: {}", chain.join(" → "));
                    return Err(ConfigError::new(path(), why));
                }
            }
        }
        Ok(())
    }

    /// The settings of a service, with those of the services that it is like and with the defaults of the file. The
    /// case of the name makes no difference.
    pub fn service(&self, name: &str) -> ServiceConfig {
        let find = |name: &str| {
            let exact = self.services.get(name);
            exact.or_else(|| {
                let mut all = self.services.iter();
                Some(all.find(|(known, _)| known.eq_ignore_ascii_case(name))?.1)
            })
        };
        let mut settings = ServiceConfig::default();
        let mut next = find(name);
        // Bounded, although a circle is refused when a file is read: the fields are public.
        for _ in 0..=self.services.len() {
            let Some(service) = next else {
                break;
            };
            settings = settings.over(service);
            next = service.like.as_deref().and_then(find);
        }
        settings.over(&self.defaults)
    }
}

impl<'de> Deserialize<'de> for ClientConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        Self::read(node).map_err(|error| de::Error::custom(format_args!("{error}")))
    }
}
