//! The configuration of the `consul` command: environment variables.

use std::ffi::OsString;

use super::{
    agent::{AgentAddress, DefaultPorts},
    config::{ConsulConfig, TokenSource},
};
use crate::{error::ConfigError, registry::tls::TlsFiles};

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
    /// When one of them cannot be used, also because its value is not UTF-8. The error names the variable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// Creates a configuration like [`from_env`](Self::from_env), from variables that a function
    /// returns.
    pub(super) fn from_vars<V: Into<OsString>>(
        var: impl Fn(&str) -> Option<V>,
    ) -> Result<Self, ConfigError> {
        let set = |name: &str| text(name, &var);
        let path = |name: &str| Ok(set(name)?.map(Into::into));
        let secure = parse_flag("CONSUL_HTTP_SSL", &var)?.unwrap_or(false);
        let address = set("CONSUL_HTTP_ADDR")?;
        let address = address.as_deref().unwrap_or("127.0.0.1:8500");
        let address = AgentAddress::parse(address, secure, DefaultPorts::OF_SCHEME)
            .map_err(|error| ConfigError::new("CONSUL_HTTP_ADDR", error.to_string()))?;
        let mut config = Self::new(address.url());
        config.token = match (set("CONSUL_HTTP_TOKEN_FILE")?, set("CONSUL_HTTP_TOKEN")?) {
            (Some(path), _) => TokenSource::File(path.into()),
            (None, Some(token)) => TokenSource::Literal(token),
            (None, None) => TokenSource::None,
        };
        config.basic_auth = set("CONSUL_HTTP_AUTH")?;
        config.tls = TlsFiles {
            ca_file: path("CONSUL_CACERT")?,
            ca_path: path("CONSUL_CAPATH")?,
            cert: path("CONSUL_CLIENT_CERT")?,
            key: path("CONSUL_CLIENT_KEY")?,
            server_name: set("CONSUL_TLS_SERVER_NAME")?,
            unverified: parse_flag("CONSUL_HTTP_SSL_VERIFY", &var)? == Some(false),
        };
        config.options.namespace = set("CONSUL_NAMESPACE")?;
        config.options.partition = set("CONSUL_PARTITION")?;
        Ok(config)
    }
}

/// Reads a variable; an empty one counts as not set. A value that is not UTF-8 is an error and not absent:
/// without it, requests would be anonymous, or trust other authorities.
fn text<V: Into<OsString>>(
    name: &str,
    var: impl Fn(&str) -> Option<V>,
) -> Result<Option<String>, ConfigError> {
    let Some(value) = var(name) else {
        return Ok(None);
    };
    match value.into().into_string() {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        // The value may be a secret.
        Err(_) => Err(ConfigError::new(name, "its value is not UTF-8")),
    }
}

/// Parses a variable with the values that Go's `strconv.ParseBool` accepts; the `consul` command uses it.
pub(super) fn parse_flag<V: Into<OsString>>(
    name: &str,
    var: impl Fn(&str) -> Option<V>,
) -> Result<Option<bool>, ConfigError> {
    match text(name, var)?.as_deref() {
        None => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(value) => Err(ConfigError::new(
            name,
            format!("{value:?} is neither true nor false"),
        )),
    }
}

#[cfg(test)]
mod tests;
