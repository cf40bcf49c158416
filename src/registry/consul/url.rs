//! The configuration in a URL, such as `consul://host:port?dc=eu-1`.

use std::{collections::HashSet, ffi::OsString, time::Duration};

use super::{
    agent::{AgentAddress, DefaultPorts},
    config::{ConsulConfig, TokenSource},
    env::parse_flag,
    options::Consistency,
};
use crate::{
    error::ConfigError,
    registry::{redact::shown, text::duration},
};

impl ConsulConfig {
    /// Creates a configuration from `consul://host:port,host:port?dc=…`, `consul+https://…`, or
    /// `consul:` alone. Everything that the URL does not set is taken from the environment, as with the
    /// flags of the `consul` command. `consul://` uses TLS if `CONSUL_HTTP_SSL` asks for it, `consul+https`
    /// always, and `consul+http` never (it is an error with that variable, and with a `CONSUL_HTTP_ADDR`
    /// that uses TLS).
    ///
    /// The parameters are `dc` (several, or one list with commas, in order of preference), `stale`
    /// (optionally with the largest age: `stale=10s`), `consistent`, `cached`, `near`, `filter`, `ns`,
    /// `partition`, `peer`, `passing`, `connect`, `address` (a tagged address), `wait`, `max_blocking`,
    /// `token_file`.
    ///
    /// # Errors
    /// When a part cannot be used, or a parameter is unknown. The error names it.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        Self::from_url_and_vars(url, |name| std::env::var_os(name))
    }

    pub(super) fn from_url_and_vars<V: Into<OsString>>(
        url: &str,
        var: impl Fn(&str) -> Option<V>,
    ) -> Result<Self, ConfigError> {
        let invalid =
            |why: &str| ConfigError::new("registry.url", format!("{:?}: {why}", shown(url)));
        let (scheme, rest) = url.split_once(':').ok_or_else(|| invalid("no scheme"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authorities = place.strip_prefix("//").unwrap_or(place);
        let authorities = authorities.trim_end_matches('/');
        let explicit = !authorities.is_empty();
        if explicit && !place.starts_with("//") {
            return Err(invalid("write consul://host:port"));
        }
        // A password may contain `?`, and a filter may contain `@`.
        let unquoted = query
            .split('&')
            .any(|part| part.contains('@') && !part.contains('='));
        if authorities.contains('@') || unquoted {
            return Err(invalid(
                "credentials do not belong in a URL: use CONSUL_HTTP_TOKEN_FILE",
            ));
        }
        let asked_for = parse_flag("CONSUL_HTTP_SSL", &var)?;
        // The scheme and the variable can each ask for TLS, and none drops what the other asks for.
        let secure = match (scheme, asked_for) {
            ("consul+http", Some(true)) => {
                return Err(invalid(
                    "consul+http is not encrypted, and CONSUL_HTTP_SSL asks for TLS",
                ));
            }
            ("consul+https", _) => true,
            (_, asked_for) => asked_for.unwrap_or(false),
        };
        // If the URL has an address, the address in the environment is ignored.
        let mut config = Self::from_vars(|name| match name {
            "CONSUL_HTTP_ADDR" if explicit => None,
            "CONSUL_HTTP_SSL" => Some(secure.to_string().into()),
            _ => var(name).map(Into::into),
        })?;
        if scheme == "consul+http" && config.uses_tls()? {
            return Err(invalid(
                "consul+http is not encrypted, and CONSUL_HTTP_ADDR asks for TLS",
            ));
        }
        if explicit {
            let addresses = authorities.split(',').map(|authority| {
                if authority.contains('/') {
                    return Err(invalid("an address has no path here"));
                }
                let address = AgentAddress::parse(authority, secure, DefaultPorts::OF_AGENT);
                address.map(|address| address.url())
            });
            config.addresses = addresses.collect::<Result<_, _>>()?;
        }
        let mut seen = HashSet::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let meant = match &*name {
                "namespace" => "ns".into(),
                _ => name.clone(),
            };
            if name != "dc" && !seen.insert(meant) {
                let why = "is given twice, and only one of them could be used";
                return Err(ConfigError::new(format!("consul.{name}"), why));
            }
            config.parameter(&name, &value)?;
        }
        config.options.validate()?;
        Ok(config)
    }

    fn parameter(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let invalid = |why: String| ConfigError::new(format!("consul.{name}"), why);
        let options = &mut self.options;
        let text = || Some(value.to_owned());
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid(format!("{value:?} is neither true nor false"))),
        };
        let time = || {
            let wrong = || invalid(format!("{value:?} is no duration such as 500ms, 20s or 2m"));
            duration(value).ok_or_else(wrong)
        };
        let consistency = match name {
            "stale" if !matches!(value, "" | "true" | "1" | "false" | "0") => {
                Some(Consistency::Stale(time()?))
            }
            "stale" => switch()?.then_some(Consistency::Stale(Duration::from_secs(60))),
            "consistent" => switch()?.then_some(Consistency::Consistent),
            "cached" => switch()?.then_some(Consistency::Cached),
            _ => None,
        };
        if let Some(consistency) = consistency {
            if options.consistency != Consistency::Default {
                let why = "only one of stale, consistent and cached can be asked for";
                return Err(invalid(why.to_owned()));
            }
            options.consistency = consistency;
            return Ok(());
        }
        match name {
            "stale" | "consistent" | "cached" => {}
            "dc" => options
                .datacenters
                .extend(value.split(',').map(str::to_owned)),
            "near" => options.near = text(),
            "filter" => options.filter = text(),
            "ns" | "namespace" => options.namespace = text(),
            "partition" => options.partition = text(),
            "peer" => options.peer = text(),
            "passing" => options.passing = switch()?,
            "connect" => options.connect = switch()?,
            "address" => options.address = text(),
            "wait" => options.wait = time()?,
            "max_blocking" => {
                options.max_blocking = value
                    .parse()
                    .map_err(|_| invalid(format!("{value:?} is not a number")))?;
            }
            "token_file" => self.token = TokenSource::File(value.into()),
            "token" => {
                let why = "a token does not belong in a URL: use CONSUL_HTTP_TOKEN or token_file";
                return Err(invalid(why.to_owned()));
            }
            _ => {
                let why = "unknown parameter of a consul URL (known: dc, stale, consistent, cached, \
                           near, filter, ns, partition, peer, passing, connect, address, wait, \
                           max_blocking, token_file)";
                return Err(invalid(why.to_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Result<ConsulConfig, ConfigError> {
        ConsulConfig::from_url_and_vars(url, |_| None::<String>)
    }

    fn origins(config: &ConsulConfig) -> Vec<&str> {
        config.addresses.iter().map(String::as_str).collect()
    }

    #[test]
    fn urls_name_agents_and_options() {
        let config =
            url("consul://10.0.0.1:8500,agent-2?dc=eu-1,eu-2&dc=us&stale=10s&near=_agent&ns=a%20b")
                .unwrap();
        assert_eq!(
            origins(&config),
            ["http://10.0.0.1:8500", "http://agent-2:8500"]
        );
        assert_eq!(config.options.datacenters, ["eu-1", "eu-2", "us"]);
        assert_eq!(
            config.options.consistency,
            Consistency::Stale(Duration::from_secs(10))
        );
        assert_eq!(config.options.namespace.as_deref(), Some("a b"));
        assert_eq!(
            origins(&url("consul://[::1]:85").unwrap()),
            ["http://[::1]:85"]
        );
        assert_eq!(
            origins(&url("consul://[::1]").unwrap()),
            ["http://[::1]:8500"]
        );
        assert_eq!(origins(&url("consul:").unwrap()), ["http://127.0.0.1:8500"]);
    }

    #[test]
    fn unusable_urls_name_the_part() {
        for (text, part) in [
            ("consul://h:70000", "70000"),
            ("consul://h:x", "not a number"),
            ("consul://", ""),
            ("consul:h:85", "consul://host:port"),
            ("consul://u:secret@h:1", "credentials"),
            ("consul://h:1/path?token=secret", "path"),
            ("consul://h:1/path", "path"),
            ("consul://h:1?tokn=x", "tokn"),
            ("consul://h:1?token=secret", "token"),
            ("consul://h:1?stale&cached", "only one of"),
            ("consul://h:1?wait=20", "wait"),
            ("consul://h:1?wait=1h", "wait"),
            ("consul://h:1?max_blocking=0", "max_blocking"),
            ("consul://h:1?max_blocking=x", "max_blocking"),
            ("consul://h:1?wait=1s&wait=2s", "given twice"),
            ("consul://h:1?ns=a&namespace=b", "given twice"),
            ("consul://h:1?namespace=a&ns=b", "given twice"),
            ("consul://h:1?address=", "tagged_address"),
            ("consul://h:1?token_file=a&token_file=b", "given twice"),
            ("consul://h:1?dc=", "consul.datacenter"),
            ("consul://h:1?filter=", "filter"),
            ("consul://h:1?passing=maybe", "passing"),
        ] {
            match url(text) {
                Ok(_) if part.is_empty() => {}
                Ok(config) => panic!("{text} was taken as {config:?}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(
                        error.contains(part),
                        "{text}: {error} does not say {part:?}"
                    );
                    assert!(
                        !error.contains("secret"),
                        "an error must not repeat a token"
                    );
                }
            }
        }
    }

    #[test]
    fn an_address_in_the_url_goes_before_that_of_the_environment_and_keeps_its_token() {
        let config = ConsulConfig::from_url_and_vars("consul://h:1", |name| match name {
            "CONSUL_HTTP_ADDR" => Some("bad address".to_owned()),
            "CONSUL_HTTP_TOKEN" => Some("hush".to_owned()),
            _ => None,
        })
        .unwrap();
        assert_eq!(config.addresses, ["http://h:1"]);
        assert_eq!(config.token, TokenSource::Literal("hush".into()));
        let error = url("consul:secret@h:1").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_used_if_the_scheme_or_the_environment_asks_for_it() {
        let origin = |url: &str, ssl: &str, addr: Option<&str>| {
            let config = ConsulConfig::from_url_and_vars(url, |name| match name {
                "CONSUL_HTTP_SSL" => Some(ssl.to_owned()),
                "CONSUL_HTTP_ADDR" => addr.map(str::to_owned),
                _ => None,
            });
            config.map(|config| config.addresses.join(","))
        };
        for (url, ssl, addr, address) in [
            ("consul://h", "", None, "http://h:8500"),
            ("consul://h", "true", None, "https://h:8501"),
            ("consul://h", "false", None, "http://h:8500"),
            ("consul://h", "", Some("https://a"), "http://h:8500"),
            ("consul:", "true", Some("http://a:1"), "https://a:1"),
            ("consul:", "false", Some("https://a:1"), "https://a:1"),
            ("consul+https:", "false", Some("http://a:1"), "https://a:1"),
            ("consul+https://h", "false", None, "https://h:8501"),
            ("consul+http://h", "false", None, "http://h:8500"),
            #[cfg(unix)]
            ("consul+https:", "", Some("unix:///s"), "unix+https:///s"),
        ] {
            assert_eq!(
                origin(url, ssl, addr).unwrap(),
                address,
                "{url} {ssl} {addr:?}"
            );
        }
        let error = origin("consul+http://h", "true", None).unwrap_err();
        assert!(error.to_string().contains("CONSUL_HTTP_SSL"), "{error}");
        for address in ["https://a:1", "unix+https:///s"] {
            let error = origin("consul+http:", "", Some(address)).unwrap_err();
            assert!(error.to_string().contains("CONSUL_HTTP_ADDR"), "{error}");
        }
        let error = origin("consul://h", "yes", None).unwrap_err();
        assert_eq!(error.field(), "CONSUL_HTTP_SSL");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_chosen_by_the_scheme() {
        assert_eq!(
            url("consul+https://h").unwrap().addresses,
            ["https://h:8501"]
        );
    }
}
