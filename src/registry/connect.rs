//! Creates a registry from a URL, so that programs can take it from the command line.

use super::{Registry, WatchSettings, fixed::Fixed};
use crate::error::ConfigError;

/// Creates a registry from a URL, with default settings. It sends nothing yet; each watch and
/// registration keeps retrying while the registry cannot be reached.
///
/// | URL | registry |
/// |---|---|
/// | `consul://host:port?dc=dc1` | a Consul agent; several as `host:port,host:port`; all other settings from the environment |
/// | `consul+https://host:port` | the same over TLS (feature `tls`) |
/// | `consul:` | the agent that the `consul` command uses: `CONSUL_HTTP_ADDR` and related variables |
/// | `memory:` or `memory:name` | the embedded registry of this process with that name |
/// | `rest://host:port` | an embedded registry served over HTTP |
/// | `fixed:host:port,host:port;weight=3` | these addresses |
///
/// # Errors
/// When the URL cannot be used, or the feature of its registry is not compiled in. The message names the
/// part of the URL.
pub fn connect(url: &str) -> Result<Registry, ConfigError> {
    connect_with(url, WatchSettings::default())
}

/// Creates a registry from a URL, with the given settings; see [`connect`].
///
/// # Errors
/// As [`connect`], and when a setting is out of its range.
pub fn connect_with(url: &str, settings: WatchSettings) -> Result<Registry, ConfigError> {
    let (scheme, rest) = url.split_once(':').ok_or_else(|| {
        ConfigError::new(
            "registry.url",
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
        "rest" => {
            Registry::with_settings(super::rest::RestSettings::from_url(url)?.build()?, settings)
        }
        _ => {
            let known = known_schemes().join(", ");
            let message = format!("no backend for {scheme:?} is compiled in; there are {known}");
            Err(ConfigError::new("registry.url", message))
        }
    }
}

/// Lists the schemes whose features are compiled in.
fn known_schemes() -> Vec<&'static str> {
    let schemes = [
        ("consul", cfg!(feature = "consul")),
        ("consul+http", cfg!(feature = "consul")),
        ("consul+https", cfg!(feature = "consul")),
        ("memory", cfg!(feature = "memory")),
        ("rest", cfg!(feature = "rest")),
        ("fixed", true),
    ];
    let known = schemes.into_iter().filter(|(_, known)| *known);
    known.map(|(scheme, _)| scheme).collect()
}
