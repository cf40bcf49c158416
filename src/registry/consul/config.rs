//! The addresses, token and certificates for Consul.

use std::{fmt, path::PathBuf};

use super::{
    agent::{AgentAddress, DefaultPorts},
    options::ConsulOptions,
};
use crate::{
    error::ConfigError,
    registry::{decoding::MOST_RECORDS, redact::shown, tls::TlsFiles},
};

/// The source of the ACL token. Its `Debug` never shows a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum TokenSource {
    #[default]
    None,
    Literal(String),
    /// Read at the start, when it has changed, and whenever Consul refuses its token.
    File(PathBuf),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Literal(_) => f.write_str("[hidden]"),
            Self::File(path) => path.fmt(f),
        }
    }
}

/// The agents to connect to, and the options for queries. [`Consul::new`](super::Consul::new) checks
/// them.
#[derive(Clone, PartialEq, Eq)]
pub struct ConsulConfig {
    pub(super) addresses: Vec<String>,
    pub(super) token: TokenSource,
    pub(super) basic_auth: Option<String>,
    pub(super) tls: TlsFiles,
    pub(super) max_body: usize,
    pub(super) max_records: usize,
    pub(super) options: ConsulOptions,
}

impl fmt::Debug for ConsulConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses may hold a password: they are not checked yet.
        let addresses = self.addresses.iter().map(|address| shown(address));
        f.debug_struct("ConsulConfig")
            .field("addresses", &addresses.collect::<Vec<_>>())
            .field("token", &self.token)
            .field("basic_auth", &self.basic_auth.as_ref().map(|_| "[hidden]"))
            .field("tls", &self.tls)
            .field("max_body", &self.max_body)
            .field("max_records", &self.max_records)
            .field("options", &self.options)
            .finish()
    }
}

impl ConsulConfig {
    /// Creates a configuration for one agent: `http://host:port`, `https://host:port`, `host:port`,
    /// `unix:///path`, or `unix+https:///path` for TLS over a socket (the certificate must be for
    /// `localhost`). It does not read the environment.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            addresses: vec![address.into()],
            token: TokenSource::None,
            basic_auth: None,
            tls: TlsFiles::default(),
            max_body: 64 << 20,
            max_records: MOST_RECORDS,
            options: ConsulOptions::default(),
        }
    }

    /// Adds an agent that watches use when the agents before it fail. Registrations always use the first
    /// agent: on a second agent, the instance would be registered twice.
    #[must_use]
    pub fn fallback(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Sets the ACL token; none by default. It replaces the file of a token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = TokenSource::Literal(token.into());
        self
    }

    /// Sets the file of the ACL token; none by default. It is read again when it has changed, at most once a
    /// second, and whenever Consul refuses the token of a request. If it is empty then, or cannot be read, the
    /// last token stays, and the error of the refused request names the reason. It replaces a token.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = TokenSource::File(path.into());
        self
    }

    /// Sets the PEM file of the certificate authorities to trust; those of the system by default. It is an
    /// error if an address does not use TLS.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Sets the client certificate and its key, both PEM files; none by default. They are an error if an
    /// address does not use TLS.
    #[must_use]
    pub fn client_cert(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.cert = Some(cert.into());
        self.tls.key = Some(key.into());
        self
    }

    /// Sets the size of the longest list, in bytes after decompression; 64 MiB by default, enough
    /// for 50 000 instances. Other responses have at most 1 MiB. Compressed lists of more than 1 MiB must
    /// not expand to more than 200 times their size.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets how many instances a response may list; at least 1, 100 000 by default. A longer list is an
    /// error, and the last good set is kept. It bounds the work that a response causes: two bytes can make
    /// an instance, which is then left out.
    #[must_use]
    pub fn max_records(mut self, records: usize) -> Self {
        self.max_records = records;
        self
    }

    /// Sets the options for queries.
    #[must_use]
    pub fn options(mut self, options: ConsulOptions) -> Self {
        self.options = options;
        self
    }

    /// The addresses, in order of preference.
    ///
    /// # Errors
    /// When an address cannot be used, or is plain and a setting is for TLS: the user expects agents that
    /// prove their identity, and the token would be sent to any.
    pub(super) fn agents(&self) -> Result<Vec<AgentAddress>, ConfigError> {
        let parse = |text: &String| AgentAddress::parse(text, false, DefaultPorts::OF_SCHEME);
        let agents: Vec<_> = self.addresses.iter().map(parse).collect::<Result<_, _>>()?;
        let plain = agents.iter().find(|agent| !agent.secure);
        if let (Some(plain), Some((field, variable))) = (plain, self.tls.first_set()) {
            let why = format!(
                "is set (perhaps by {variable}), and {} does not use TLS: write https://, or set \
                 CONSUL_HTTP_SSL=true",
                plain.url()
            );
            return Err(ConfigError::new(field, why));
        }
        Ok(agents)
    }

    /// Warns if the token or the password can be read on the way to an agent.
    pub(super) fn warn_of_plain_secrets(&self) -> Result<(), ConfigError> {
        let has_secret = self.token != TokenSource::None || self.basic_auth.is_some();
        let agents = self.agents()?;
        let open = agents
            .iter()
            .find(|agent| !agent.secure && !agent.is_local());
        if let (true, Some(agent)) = (has_secret, open) {
            warn_of_plain_secrets(&agent.url());
        }
        Ok(())
    }

    /// Whether an address uses TLS.
    pub(super) fn uses_tls(&self) -> Result<bool, ConfigError> {
        Ok(self.agents()?.iter().any(|agent| agent.secure))
    }
}

/// Warns that secrets are sent to this agent over plain HTTP.
pub(super) fn warn_of_plain_secrets(agent: &str) {
    tracing::warn!(agent, "credentials are sent without TLS to another host");
}

impl TlsFiles {
    /// The name of the first setting that is for TLS only, and of its variable in the environment.
    fn first_set(&self) -> Option<(&'static str, &'static str)> {
        // Not `unverified`: without TLS, nothing is verified either.
        let Self {
            ca_file,
            ca_path,
            cert,
            key,
            server_name,
            unverified: _,
        } = self;
        let set = [
            (ca_file.is_some(), "consul.ca_file", "CONSUL_CACERT"),
            (ca_path.is_some(), "consul.ca_path", "CONSUL_CAPATH"),
            (cert.is_some(), "consul.client_cert", "CONSUL_CLIENT_CERT"),
            (key.is_some(), "consul.client_key", "CONSUL_CLIENT_KEY"),
            (
                server_name.is_some(),
                "consul.tls_server_name",
                "CONSUL_TLS_SERVER_NAME",
            ),
        ];
        let first = set.into_iter().find(|(set, ..)| *set);
        first.map(|(_, field, variable)| (field, variable))
    }
}

#[cfg(feature = "tls")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_for_tls_needs_tls_at_each_address() {
        type Set = fn(ConsulConfig) -> ConsulConfig;
        let settings: [(_, Set); 2] = [
            ("consul.ca_file", |config| config.ca_file("ca.pem")),
            ("consul.client_cert", |config| {
                config.client_cert("c.pem", "k.pem")
            }),
        ];
        for (field, set) in settings {
            for (first, second) in [("https://a:1", "http://b:2"), ("http://b:2", "https://a:1")] {
                let config = set(ConsulConfig::new(first).fallback(second).token("hush"));
                let error = config.agents().unwrap_err();
                assert_eq!(error.field(), field);
                let error = error.to_string();
                assert!(error.contains("http://b:2 does not use TLS"), "{error}");
            }
            let config = set(ConsulConfig::new("https://a:1").fallback("https://b:2"));
            assert_eq!(config.agents().unwrap().len(), 2);
        }
    }
}
