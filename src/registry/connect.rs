//! Creates a registry from a URL, so that programs can take it from the command line.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    Backend, Registry, WatchSettings, fixed::Fixed, pair::of_url, redact::shown, text::duration,
};
use crate::error::ConfigError;

/// Creates a registry from a URL, with default settings. It sends nothing yet; each watch and
/// registration keeps retrying while the registry cannot be reached.
///
/// | URL | registry |
/// |---|---|
/// | `consul://host:port?dc=dc1` | a Consul agent; several as `host:port,host:port`; all other settings from the environment |
/// | `consul+https://host:port` | the same over TLS (feature `tls`) |
/// | `consul:` | the agent that the `consul` command uses: `CONSUL_HTTP_ADDR` and related variables |
/// | `dns://server/{service}.svc.test:8080` | the addresses of a DNS name (feature `dns`); `dns:///…` asks the servers of `/etc/resolv.conf` |
/// | `dns+srv://server/_http._tcp.{service}.svc.test` | the SRV records of a DNS name; `dns+tcp` and `dns+srv+tcp` ask over TCP |
/// | `etcd://user:password@host:port,host:port?prefix=/services` | an etcd cluster (feature `etcd`; its settings are `EtcdSettings`) |
/// | `etcd+https://host:port` | the same over TLS (feature `tls`) |
/// | `memory:` or `memory:name` | the embedded registry of this process with that name |
/// | `rest://host:port` | an embedded registry served over HTTP |
/// | `zk://user:password@host:port,host:port/chroot?prefix=/services` | a ZooKeeper ensemble (feature `zookeeper`; its settings are `ZookeeperSettings`) |
/// | `fixed:host:port,host:port;weight=3` | these addresses |
/// | `merge:URL\|URL` | the instances of both; see [`Merge`](super::Merge) |
/// | `failover:URL\|URL` or `failover:URL\|URL\|after=10s&back_after=30s` | those of the second while the first has nothing or is gone; see [`Failover`](super::Failover) |
///
/// The parameter `stale_after`, such as `?stale_after=45s`, sets [`WatchSettings::stale_after`] for any
/// of them. Other parameters are those of the backend, and an unknown one is an error.
///
/// [`Schemes`] adds backends of one's own to this table.
///
/// # Errors
/// When the URL cannot be used, or the feature of its registry is not compiled in. The message names the
/// part of the URL.
pub fn connect(url: &str) -> Result<Registry, ConfigError> {
    Schemes::new().connect(url)
}

/// Creates a registry from a URL, with the given settings; see [`connect`].
///
/// # Errors
/// As [`connect`], and when a setting is out of its range.
pub fn connect_with(url: &str, settings: WatchSettings) -> Result<Registry, ConfigError> {
    Schemes::new().connect_with(url, settings)
}

type Make = dyn Fn(&str) -> Result<Arc<dyn Backend>, ConfigError> + Send + Sync;

/// The backends that a URL can name, by the scheme of the URL.
///
/// # Examples
/// ```
/// use tower_roster::registry::{Schemes, fixed::Fixed};
///
/// // A backend of one's own takes the place of `Fixed`.
/// let schemes = Schemes::new().with("hosts", |url: &str| {
///     Fixed::parse(url.trim_start_matches("hosts://"))
/// });
/// let registry = schemes.connect("hosts://10.0.0.1:80,10.0.0.2:80")?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "a table of schemes does nothing by itself"]
pub struct Schemes(BTreeMap<Arc<str>, Arc<Make>>);

impl Schemes {
    /// Creates the table that [`connect`] uses: the backends whose features are compiled in.
    pub fn new() -> Self {
        let schemes = Self(BTreeMap::new()).with("fixed", |url: &str| {
            Fixed::parse(url.split_once(':').map_or("", |(_, list)| list))
        });
        #[cfg(feature = "consul")]
        let schemes = ["consul", "consul+http", "consul+https"].into_iter().fold(
            schemes,
            |schemes, scheme| {
                schemes.with(scheme, |url: &str| {
                    super::consul::Consul::new(super::consul::ConsulConfig::from_url(url)?)
                })
            },
        );
        #[cfg(feature = "dns")]
        let schemes = ["dns", "dns+tcp", "dns+srv", "dns+srv+tcp"]
            .into_iter()
            .fold(schemes, |schemes, scheme| {
                schemes.with(scheme, |url: &str| {
                    super::dns::DnsSettings::from_url(url)?.build()
                })
            });
        #[cfg(feature = "etcd")]
        let schemes = ["etcd", "etcd+https"]
            .into_iter()
            .fold(schemes, |schemes, scheme| {
                schemes.with(scheme, |url: &str| {
                    super::etcd::EtcdSettings::from_url(url)?.build()
                })
            });
        #[cfg(feature = "memory")]
        let schemes = schemes.with("memory", |url: &str| {
            let name = url.split_once(':').map_or("", |(_, name)| name);
            if let Some((_, query)) = name.split_once('?') {
                let parameter = query.split(['=', '&']).next().unwrap_or_default();
                let why = format!(
                    "no parameter {parameter:?} is known; an embedded registry takes only stale_after"
                );
                return Err(ConfigError::new("registry.url", why));
            }
            Ok(super::memory::Memory::named(name))
        });
        #[cfg(feature = "rest")]
        let schemes = schemes.with("rest", |url: &str| {
            super::rest::RestSettings::from_url(url)?.build()
        });
        #[cfg(feature = "zookeeper")]
        let schemes = schemes.with("zk", |url: &str| {
            super::zookeeper::ZookeeperSettings::from_url(url)?.build()
        });
        schemes
    }

    /// Adds a backend, or replaces the one of that scheme. `make` gets the whole URL, without the
    /// parameter `stale_after`. The schemes `merge` and `failover` cannot be replaced.
    pub fn with<B: Backend>(
        mut self,
        scheme: impl Into<Arc<str>>,
        make: impl Fn(&str) -> Result<B, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        let make = move |url: &str| make(url).map(|backend| Arc::new(backend) as Arc<dyn Backend>);
        self.0.insert(scheme.into(), Arc::new(make));
        self
    }

    /// Creates a registry from a URL, with default settings.
    ///
    /// # Errors
    /// When the URL cannot be used, or no backend has its scheme.
    pub fn connect(&self, url: &str) -> Result<Registry, ConfigError> {
        self.connect_with(url, WatchSettings::default())
    }

    /// Creates a registry from a URL, with the given settings. What the URL sets goes before.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and when a setting is out of its range.
    pub fn connect_with(
        &self,
        url: &str,
        settings: WatchSettings,
    ) -> Result<Registry, ConfigError> {
        if let Some(registry) = of_url(url, |half| self.connect_with(half, settings.clone())) {
            return registry;
        }
        let (url, settings) = take_settings(url, settings)?;
        let Some((scheme, _)) = url.split_once(':') else {
            let why = format!(
                "{:?} has no scheme: write consul://host:port, memory:, rest://… or fixed:…",
                shown(&url)
            );
            return Err(ConfigError::new("registry.url", why));
        };
        let Some(make) = self.0.get(scheme) else {
            let known = self.0.keys().map(|scheme| &**scheme);
            let known: Vec<_> = known.chain(["failover", "merge"]).collect();
            let known = known.join(", ");
            // Of an address without a scheme, this may be a user or a token.
            let scheme = match url.contains('@') {
                true => "what precedes the colon".to_owned(),
                false => format!("{scheme:?}"),
            };
            let message = format!("no backend for {scheme} is compiled in; there are {known}");
            return Err(ConfigError::new("registry.url", message));
        };
        settings.validate()?;
        Ok(Registry::assemble(make(&url)?, settings))
    }
}

impl Default for Schemes {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Schemes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Takes the settings of watches out of a URL.
fn take_settings(
    url: &str,
    mut settings: WatchSettings,
) -> Result<(String, WatchSettings), ConfigError> {
    let Some((place, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), settings));
    };
    let mut given = None;
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some(("stale_after", age)) => {
                let invalid = |why: String| ConfigError::new("watch.stale_after", why);
                if given.replace(()).is_some() {
                    return Err(invalid("is given twice".to_owned()));
                }
                let wrong = || invalid(format!("{age:?} is no duration such as 500ms, 20s or 2m"));
                settings = settings.stale_after(duration(age).ok_or_else(wrong)?);
            }
            _ => rest.push(parameter),
        }
    }
    let url = match rest.is_empty() {
        true => place.to_owned(),
        false => format!("{place}?{}", rest.join("&")),
    };
    Ok((url, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_url_with_a_secret_does_not_tell_it() {
        for url in [
            "fixed:user:SECRET@h:1",
            "fixed:SECRET@h:1;weight=2",
            "fixed:h:1,SECRET@:2",
            "fixed:h:1;SECRET@x",
            "SECRET",
            "SECRET@h",
            "SECRET:x@h:1",
            "user:SECRET@h:1",
            "//user:SECRET@h:1",
            "user:SECRET@h://x",
            "http://user:SECRET@h:1",
            "unix://user:SECRET@x",
            "rest://user:SECRET@h:1",
            "rest://user:x/SECRET@h:1",
            "rest://user:x?SECRET@h:1",
            "rest://h:1?token=SECRET",
            "rest://SECRET@h",
            "consul://user:SECRET@h:1",
            "consul://user:x/SECRET@h:1",
            "consul://user:x?SECRET@h:1",
            "consul://user:x#SECRET@h:1",
            "consul:user:SECRET@h:1",
            "consul:SECRET@h",
            "consul://h:1?token=SECRET",
            "consul://unix://user:SECRET@x",
        ] {
            let Err(error) = connect(url) else {
                panic!("{url} is accepted");
            };
            let (text, debug) = (error.to_string(), format!("{error:?}"));
            // A word without a colon may be a name that was mistyped.
            let expected = url == "SECRET";
            assert_eq!(text.contains("SECRET"), expected, "{url}: {text}");
            assert_eq!(debug.contains("SECRET"), expected, "{url}: {debug}");
        }
    }
}
