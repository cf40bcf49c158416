//! The configuration of the `consul` command: environment variables.

use std::ffi::OsString;

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

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf_8_is_refused_and_never_taken_as_absent() {
        use std::os::unix::ffi::OsStringExt;

        for variable in [
            "CONSUL_HTTP_ADDR",
            "CONSUL_HTTP_TOKEN",
            "CONSUL_HTTP_TOKEN_FILE",
            "CONSUL_HTTP_AUTH",
            "CONSUL_HTTP_SSL",
            "CONSUL_HTTP_SSL_VERIFY",
            "CONSUL_CACERT",
            "CONSUL_CAPATH",
            "CONSUL_CLIENT_CERT",
            "CONSUL_CLIENT_KEY",
            "CONSUL_TLS_SERVER_NAME",
            "CONSUL_NAMESPACE",
            "CONSUL_PARTITION",
        ] {
            let var =
                |name: &str| (name == variable).then(|| OsString::from_vec(b"hush\xff".to_vec()));
            let error = ConsulConfig::from_vars(var).unwrap_err();
            assert_eq!(error.field(), variable);
            assert!(!error.to_string().contains("hush"), "{error}");
            let url = ConsulConfig::from_url_and_vars("consul:", var).unwrap_err();
            assert_eq!(url.field(), variable, "from a URL");
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
    #[tokio::test]
    async fn unverified_tls_is_one_warning_and_none_without_tls() {
        use std::{
            io::{Result, Write},
            sync::{Arc, Mutex},
        };

        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl Write for Log {
            fn write(&mut self, bytes: &[u8]) -> Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> Result<()> {
                Ok(())
            }
        }

        // With one dispatcher in the process, tracing would ask only the thread that comes to an
        // event first whether anyone wants it. That may be the thread of another test.
        let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        for (ssl, warnings) in [("true", 1), ("false", 0)] {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
            let _guard = tracing::subscriber::set_default(subscriber.finish());
            let config = ConsulConfig::from_vars(|name| match name {
                "CONSUL_HTTP_SSL" => Some(ssl),
                "CONSUL_HTTP_SSL_VERIFY" => Some("false"),
                _ => None,
            });
            super::super::Consul::new(config.unwrap()).unwrap();
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches("anyone can pose").count(), warnings, "{text}");
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
