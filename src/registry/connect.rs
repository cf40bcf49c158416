//! A registry from a URL, so that programs name theirs on the command line.

use std::str::FromStr;

use super::{Registry, WatchSettings, fixed::Fixed};
use crate::error::ConfigError;

/// Connects to the registry that a URL names, with default settings. Nothing is sent yet: a registry
/// that cannot be reached is tried again and again by each watch and registration.
///
/// | URL | registry |
/// |---|---|
/// | `consul://host:port?dc=dc1` | a Consul agent; several as `host:port,host:port`; the rest from the environment |
/// | `consul+https://host:port` | the same over TLS (feature `tls`) |
/// | `consul:` | as the `consul` command finds its agent: `CONSUL_HTTP_ADDR` and friends |
/// | `memory:` or `memory:name` | the embedded registry of this process with that name |
/// | `rest://host:port` | an embedded registry served over HTTP |
/// | `fixed:host:port,host:port;weight=3` | these addresses |
///
/// # Errors
/// When the URL cannot be used, or its registry's feature is not compiled in; says which part.
pub fn connect(url: &str) -> Result<Registry, ConfigError> {
    connect_with(url, WatchSettings::default())
}

/// Like [`connect`], with settings of one's own.
///
/// # Errors
/// As [`connect`], and when a setting is out of its range.
pub fn connect_with(url: &str, settings: WatchSettings) -> Result<Registry, ConfigError> {
    let (scheme, rest) = url.split_once(':').ok_or_else(|| {
        ConfigError::new(
            "registry",
            format!(
                "{url:?} has no scheme: write consul://host:port, memory:, rest://… or fixed:…"
            ),
        )
    })?;
    match scheme {
        "fixed" => Registry::with_settings(Fixed::parse(rest)?, settings),
        #[cfg(feature = "consul")]
        "consul" | "consul+http" | "consul+https" => {
            let config = super::consul::ConsulConfig::from_url(url)?;
            Registry::with_settings(super::consul::Consul::new(config)?, settings)
        }
        #[cfg(feature = "memory")]
        "memory" => Registry::with_settings(super::memory::Memory::named(rest), settings),
        #[cfg(feature = "rest")]
        "rest" => Registry::with_settings(super::rest::RestClient::from_url(url)?, settings),
        _ => {
            let known = known_schemes().join(", ");
            let message = format!("no backend for {scheme:?} is compiled in; there are {known}");
            Err(ConfigError::new("registry", message))
        }
    }
}

/// The schemes whose features are compiled in.
fn known_schemes() -> Vec<&'static str> {
    let mut known = Vec::new();
    #[cfg(feature = "consul")]
    known.extend(["consul", "consul+http", "consul+https"]);
    #[cfg(feature = "memory")]
    known.push("memory");
    #[cfg(feature = "rest")]
    known.push("rest");
    known.push("fixed");
    known
}

impl FromStr for Registry {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        connect(url)
    }
}
