//! The configuration of the `consul` command: environment variables.

use super::{
    agent::{AgentAddress, DefaultPorts},
    config::{ConsulConfig, TlsFiles, TokenSource},
};
use crate::error::ConfigError;

impl ConsulConfig {
    /// Creates a configuration with the agent and the credentials that the `consul` command uses.
    ///
    /// It reads `CONSUL_HTTP_ADDR` (`127.0.0.1:8500` by default), `CONSUL_HTTP_TOKEN`,
    /// `CONSUL_HTTP_TOKEN_FILE` (which has precedence over the token), `CONSUL_HTTP_AUTH`,
    /// `CONSUL_HTTP_SSL` (which turns an address of any scheme to TLS), `CONSUL_HTTP_SSL_VERIFY`,
    /// `CONSUL_CACERT` (which has precedence over the path), `CONSUL_CAPATH`, `CONSUL_CLIENT_CERT`,
    /// `CONSUL_CLIENT_KEY`, `CONSUL_TLS_SERVER_NAME`, `CONSUL_NAMESPACE` and `CONSUL_PARTITION`.
    ///
    /// Unlike the command, [`Consul::new`](super::Consul::new) refuses certificates and a server name
    /// for an address without TLS, and an empty file of a token.
    ///
    /// # Errors
    /// When one of them cannot be used. The error names the variable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Creates a configuration like [`from_env`](Self::from_env), from variables that a function
    /// returns.
    pub(super) fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let secure = parse_flag("CONSUL_HTTP_SSL", &var)?.unwrap_or(false);
        let text = set("CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".to_owned());
        let address = AgentAddress::parse(&text, secure, DefaultPorts::OF_SCHEME)
            .map_err(|error| ConfigError::new("CONSUL_HTTP_ADDR", error.to_string()))?;
        let mut config = Self::new(address.url());
        config.token = match (set("CONSUL_HTTP_TOKEN_FILE"), set("CONSUL_HTTP_TOKEN")) {
            (Some(path), _) => TokenSource::File(path.into()),
            (None, Some(token)) => TokenSource::Literal(token),
            (None, None) => TokenSource::None,
        };
        config.basic_auth = set("CONSUL_HTTP_AUTH");
        config.tls = TlsFiles {
            ca_file: set("CONSUL_CACERT").map(Into::into),
            ca_path: set("CONSUL_CAPATH").map(Into::into),
            cert: set("CONSUL_CLIENT_CERT").map(Into::into),
            key: set("CONSUL_CLIENT_KEY").map(Into::into),
            server_name: set("CONSUL_TLS_SERVER_NAME"),
            unverified: parse_flag("CONSUL_HTTP_SSL_VERIFY", &var)? == Some(false),
        };
        config.options.namespace = set("CONSUL_NAMESPACE");
        config.options.partition = set("CONSUL_PARTITION");
        Ok(config)
    }
}

/// Parses a variable with the values that Go's `strconv.ParseBool` accepts; the `consul` command uses it.
pub(super) fn parse_flag(
    name: &str,
    var: impl Fn(&str) -> Option<String>,
) -> Result<Option<bool>, ConfigError> {
    match var(name).as_deref() {
        None | Some("") => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(value) => Err(ConfigError::new(
            name,
            format!("{value:?} is neither true nor false"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &'static [(&str, &str)]) -> Result<ConsulConfig, ConfigError> {
        ConsulConfig::from_vars(|name| {
            let found = pairs.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_means_what_it_means_to_the_command() {
        let config = vars(&[
            ("CONSUL_HTTP_ADDR", "agent.internal:8600"),
            ("CONSUL_HTTP_TOKEN", "hush"),
            ("CONSUL_HTTP_AUTH", "user:hush"),
            ("CONSUL_NAMESPACE", "team"),
        ])
        .unwrap();
        assert_eq!(config.addresses, ["http://agent.internal:8600"]);
        assert_eq!(config.token, TokenSource::Literal("hush".into()));
        assert_eq!(config.options.namespace.as_deref(), Some("team"));
        assert!(
            !format!("{config:?}").contains("hush"),
            "Debug must hide secrets"
        );

        let config = vars(&[
            ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
            ("CONSUL_HTTP_TOKEN", "hush"),
            ("CONSUL_HTTP_TOKEN_FILE", "/run/token"),
        ])
        .unwrap();
        assert_eq!(config.addresses, ["unix:///run/consul.sock"]);
        assert_eq!(
            config.token,
            TokenSource::File("/run/token".into()),
            "the file goes first"
        );

        let error = vars(&[("CONSUL_HTTP_SSL", "maybe")]).unwrap_err();
        assert_eq!(error.field(), "CONSUL_HTTP_SSL");
        let error = vars(&[("CONSUL_HTTP_ADDR", "ftp://x")]).unwrap_err();
        assert_eq!(error.field(), "CONSUL_HTTP_ADDR");
    }

    #[cfg(all(unix, feature = "tls"))]
    #[test]
    fn a_socket_speaks_tls_if_the_environment_asks_for_it() {
        let config = vars(&[
            ("CONSUL_HTTP_ADDR", "unix:///x.sock"),
            ("CONSUL_HTTP_SSL", "true"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.addresses, ["unix+https:///x.sock"]);
        assert!(config.agents().unwrap()[0].secure);
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_that_is_not_compiled_in_is_an_error() {
        for address in ["unix:///x.sock", "h:1", "http://h:1"] {
            let error = ConsulConfig::from_vars(|name| match name {
                "CONSUL_HTTP_ADDR" => Some(address.to_owned()),
                "CONSUL_HTTP_SSL" => Some("true".to_owned()),
                _ => None,
            });
            assert!(error.unwrap_err().to_string().contains("feature `tls`"));
        }
    }

    #[test]
    fn certificates_without_tls_are_refused() {
        for (variable, field) in [
            ("CONSUL_CACERT", "consul.ca_file"),
            ("CONSUL_CAPATH", "consul.ca_path"),
            ("CONSUL_CLIENT_CERT", "consul.client_cert"),
            ("CONSUL_CLIENT_KEY", "consul.client_key"),
            ("CONSUL_TLS_SERVER_NAME", "consul.tls_server_name"),
        ] {
            let one = ConsulConfig::from_vars(|name| (name == variable).then(|| "x".to_owned()));
            let error = super::super::Consul::new(one.unwrap()).unwrap_err();
            assert_eq!(error.field(), field);
            assert!(error.to_string().contains(variable), "{error}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_chosen_by_a_variable() {
        let config = vars(&[("CONSUL_HTTP_SSL", "true")]).unwrap();
        assert_eq!(config.addresses, ["https://127.0.0.1:8500"]);
        let files = ConsulConfig::from_vars(|name| match name {
            "CONSUL_HTTP_SSL" => Some("1".to_owned()),
            "CONSUL_HTTP_SSL_VERIFY" => Some("false".to_owned()),
            "CONSUL_HTTP_ADDR" | "CONSUL_HTTP_TOKEN" | "CONSUL_HTTP_TOKEN_FILE" => None,
            name => Some(name.to_lowercase()),
        });
        let path = |name: &str| Some(name.into());
        let expected = TlsFiles {
            ca_file: path("consul_cacert"),
            ca_path: path("consul_capath"),
            cert: path("consul_client_cert"),
            key: path("consul_client_key"),
            server_name: Some("consul_tls_server_name".to_owned()),
            unverified: true,
        };
        assert_eq!(files.unwrap().tls, expected);
    }
}
