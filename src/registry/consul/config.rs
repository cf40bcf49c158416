//! The addresses, token and certificates for Consul, from code, a URL or the environment.

use std::{fmt, path::PathBuf, time::Duration};

use super::options::{Consistency, ConsulOptions};
use crate::{connect::Target, error::ConfigError, instance::Address, registry::redact::shown};

/// The source of the ACL token. Its `Debug` never shows a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Token {
    #[default]
    None,
    Literal(String),
    /// Read at the start, and again whenever Consul refuses the token.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Literal(_) => f.write_str("[hidden]"),
            Self::File(path) => path.fmt(f),
        }
    }
}

/// One address of Consul's HTTP API.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) target: Target,
    /// Scheme, authority and path prefix; `/v1/…` is appended.
    pub(super) origin: String,
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "an https address is refused")
    )]
    pub(super) secure: bool,
}

/// The paths of the certificates. They are read when the client is created.
#[derive(Clone, Debug, Default)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "used for https only")
)]
pub(super) struct Tls {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_path: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) server_name: Option<String>,
    pub(super) unverified: bool,
}

/// The agents to connect to, and the options for queries.
#[derive(Clone)]
pub struct ConsulConfig {
    pub(super) agents: Vec<Agent>,
    pub(super) token: Token,
    pub(super) basic_auth: Option<String>,
    pub(super) tls: Tls,
    pub(super) max_body: usize,
    pub(super) options: ConsulOptions,
}

impl fmt::Debug for ConsulConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulConfig")
            .field("agents", &self.agents)
            .field("token", &self.token)
            .field("basic_auth", &self.basic_auth.as_ref().map(|_| "[hidden]"))
            .field("tls", &self.tls)
            .field("max_body", &self.max_body)
            .field("options", &self.options)
            .finish()
    }
}

impl ConsulConfig {
    /// Creates a configuration for one agent: `http://host:port`, `https://host:port`, `host:port` or
    /// `unix:///path`. It does not read the environment.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(address: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            agents: vec![agent(address, false, (80, 443))?],
            token: Token::None,
            basic_auth: None,
            tls: Tls::default(),
            max_body: 64 << 20,
            options: ConsulOptions::default(),
        })
    }

    /// Creates a configuration with the agent and the credentials that the `consul` command uses.
    ///
    /// It reads `CONSUL_HTTP_ADDR` (`127.0.0.1:8500` by default), `CONSUL_HTTP_TOKEN`,
    /// `CONSUL_HTTP_TOKEN_FILE` (which has precedence over the token), `CONSUL_HTTP_AUTH`,
    /// `CONSUL_HTTP_SSL`, `CONSUL_HTTP_SSL_VERIFY`, `CONSUL_CACERT`, `CONSUL_CAPATH`,
    /// `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY`, `CONSUL_TLS_SERVER_NAME`, `CONSUL_NAMESPACE` and
    /// `CONSUL_PARTITION`.
    ///
    /// # Errors
    /// When one of them cannot be used. The error names the variable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Creates a configuration like [`from_env`](Self::from_env), from variables that a function
    /// returns.
    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let flag = |name: &str| -> Result<Option<bool>, ConfigError> {
            let Some(value) = set(name) else {
                return Ok(None);
            };
            // The values that Go's `strconv.ParseBool` accepts; the `consul` command uses it.
            match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
                _ => Err(ConfigError::new(
                    name,
                    format!("{value:?} is neither true nor false"),
                )),
            }
        };
        let secure = flag("CONSUL_HTTP_SSL")?.unwrap_or(false);
        let address = set("CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".to_owned());
        let mut config = Self::new("127.0.0.1:8500")?;
        config.agents = vec![
            agent(&address, secure, (80, 443))
                .map_err(|error| ConfigError::new("CONSUL_HTTP_ADDR", error.to_string()))?,
        ];
        config.token = match (set("CONSUL_HTTP_TOKEN_FILE"), set("CONSUL_HTTP_TOKEN")) {
            (Some(path), _) => Token::File(path.into()),
            (None, Some(token)) => Token::Literal(token),
            (None, None) => Token::None,
        };
        config.basic_auth = set("CONSUL_HTTP_AUTH");
        config.tls = Tls {
            ca_file: set("CONSUL_CACERT").map(Into::into),
            ca_path: set("CONSUL_CAPATH").map(Into::into),
            cert: set("CONSUL_CLIENT_CERT").map(Into::into),
            key: set("CONSUL_CLIENT_KEY").map(Into::into),
            server_name: set("CONSUL_TLS_SERVER_NAME"),
            unverified: flag("CONSUL_HTTP_SSL_VERIFY")? == Some(false),
        };
        config.options.namespace = set("CONSUL_NAMESPACE");
        config.options.partition = set("CONSUL_PARTITION");
        Ok(config)
    }

    /// Creates a configuration from `consul://host:port,host:port?dc=…`, `consul+https://…`, or
    /// `consul:` alone. Everything that the URL does not set is taken from the environment, as with the
    /// flags of the `consul` command.
    ///
    /// The parameters are `dc` (several, or one list with commas, in order of preference), `stale`
    /// (optionally with the largest age: `stale=10s`), `consistent`, `cached`, `near`, `filter`, `ns`,
    /// `partition`, `peer`, `passing`, `connect`, `address` (a tagged address), `wait`, `max_blocking`,
    /// `token_file`.
    ///
    /// # Errors
    /// When a part cannot be used, or a parameter is unknown. The error names it.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        Self::from_url_and_vars(url, |name| std::env::var(name).ok())
    }

    fn from_url_and_vars(
        url: &str,
        var: impl Fn(&str) -> Option<String>,
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
        if authorities.contains('@') {
            return Err(invalid(
                "credentials do not belong in a URL: use CONSUL_HTTP_TOKEN_FILE",
            ));
        }
        // If the URL has an address, the address in the environment is ignored.
        let mut config = Self::from_vars(|name| match name {
            "CONSUL_HTTP_ADDR" if explicit => None,
            "CONSUL_HTTP_SSL" if explicit || scheme != "consul" => {
                Some((scheme == "consul+https").to_string())
            }
            _ => var(name),
        })?;
        if explicit {
            let secure = scheme == "consul+https";
            let agents = authorities.split(',').map(|authority| {
                if authority.contains('/') {
                    return Err(invalid("an address has no path here"));
                }
                agent(authority, secure, (8500, 8501))
            });
            config.agents = agents.collect::<Result<_, _>>()?;
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            config.parameter(&name, &value)?;
        }
        config.options.validate()?;
        Ok(config)
    }

    fn parameter(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let options = &mut self.options;
        let field = format!("consul.{name}");
        let text = || Some(value.to_owned());
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(ConfigError::new(
                field.as_str(),
                format!("{value:?} is neither true nor false"),
            )),
        };
        let consistency = match name {
            "stale" if !matches!(value, "" | "true" | "1" | "false" | "0") => {
                Some(Consistency::Stale(duration(&field, value)?))
            }
            "stale" => switch()?.then_some(Consistency::Stale(Duration::from_secs(60))),
            "consistent" => switch()?.then_some(Consistency::Consistent),
            "cached" => switch()?.then_some(Consistency::Cached),
            _ => None,
        };
        if let Some(consistency) = consistency {
            if options.consistency != Consistency::Default {
                return Err(ConfigError::new(
                    field,
                    "only one of stale, consistent and cached can be asked for",
                ));
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
            "wait" => options.wait = duration(&field, value)?,
            "max_blocking" => {
                options.max_blocking = value
                    .parse()
                    .map_err(|_| ConfigError::new(field, format!("{value:?} is not a number")))?;
            }
            "token_file" => self.token = Token::File(value.into()),
            "token" => {
                return Err(ConfigError::new(
                    "consul.token",
                    "a token does not belong in a URL: use CONSUL_HTTP_TOKEN or token_file",
                ));
            }
            _ => {
                return Err(ConfigError::new(
                    field,
                    "unknown parameter of a consul URL (known: dc, stale, consistent, cached, near, \
                     filter, ns, partition, peer, passing, connect, address, wait, max_blocking, \
                     token_file)",
                ));
            }
        }
        Ok(())
    }

    /// Adds an agent that watches use when the agents before it fail. Registrations always use the first
    /// agent: on a second agent, the instance would be registered twice.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn fallback(mut self, address: &str) -> Result<Self, ConfigError> {
        self.agents.push(agent(address, false, (80, 443))?);
        Ok(self)
    }

    /// Sets the ACL token; none by default.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::Literal(token.into());
        self
    }

    /// Sets the file of the ACL token; none by default. It is read again whenever Consul refuses the
    /// token.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Token::File(path.into());
        self
    }

    /// Sets the PEM file of the certificate authorities to trust; those of the system by default.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Sets the client certificate and its key, both PEM files; none by default.
    #[must_use]
    pub fn client_cert(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.cert = Some(cert.into());
        self.tls.key = Some(key.into());
        self
    }

    /// Sets the size of the longest response, in bytes after decompression; 64 MiB by default, enough
    /// for 50 000 instances.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets the options for queries.
    #[must_use]
    pub fn options(mut self, options: ConsulOptions) -> Self {
        self.options = options;
        self
    }
}

/// Parses one address like the `consul` command.
fn agent(text: &str, secure: bool, ports: (u16, u16)) -> Result<Agent, ConfigError> {
    let invalid =
        |why: String| ConfigError::new("consul.address", format!("{:?}: {why}", shown(text)));
    if let Some(path) = text.strip_prefix("unix://") {
        #[cfg(unix)]
        if path.starts_with('/') {
            return Ok(Agent {
                target: Target::Unix(path.into()),
                origin: "http://localhost".to_owned(),
                secure: false,
            });
        }
        return Err(invalid(format!("{path:?} is no absolute path of a socket")));
    }
    let (secure, rest) = match text.split_once("://") {
        Some(("http", rest)) => (secure, rest),
        Some(("https", rest)) => (true, rest),
        Some(("tcp", rest)) => (secure, rest),
        Some((scheme, _)) => return Err(invalid(format!("the scheme {scheme:?} is unknown"))),
        None => (secure, text),
    };
    if secure && cfg!(not(feature = "tls")) {
        return Err(invalid(
            "TLS needs the feature `tls` of this crate".to_owned(),
        ));
    }
    // The address becomes part of the backend's name, which every message contains, so it must not
    // contain secrets.
    if rest.contains('@') {
        let why = "credentials do not belong in an address: use CONSUL_HTTP_AUTH";
        return Err(invalid(why.to_owned()));
    }
    if rest.contains(['?', '#']) {
        return Err(invalid("an address has no parameters".to_owned()));
    }
    let (authority, prefix) = match rest.find('/') {
        Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
        None => (rest, ""),
    };
    let port = if secure { ports.1 } else { ports.0 };
    let has_port = match authority.rfind(':') {
        Some(at) => !authority[at..].contains(']'),
        None => false,
    };
    let address = if has_port {
        authority.parse::<Address>()
    } else {
        format!("{authority}:{port}").parse()
    };
    let address = address.map_err(|error| invalid(error.to_string()))?;
    let scheme = if secure { "https" } else { "http" };
    Ok(Agent {
        origin: format!("{scheme}://{address}{prefix}"),
        target: Target::Tcp(address),
        secure,
    })
}

/// Parses a duration with a unit, as in Consul's own parameters.
fn duration(field: &str, text: &str) -> Result<Duration, ConfigError> {
    let invalid = || {
        ConfigError::new(
            field,
            format!("{text:?} is no duration such as 500ms, 20s or 2m"),
        )
    };
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(invalid)?;
    let number: f64 = text[..at].parse().map_err(|_| invalid())?;
    let unit = match &text[at..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(invalid()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Result<ConsulConfig, ConfigError> {
        ConsulConfig::from_url_and_vars(url, |_| None)
    }

    fn origins(config: &ConsulConfig) -> Vec<&str> {
        config
            .agents
            .iter()
            .map(|agent| agent.origin.as_str())
            .collect()
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
            ("consul://h:1?dc=", "dc"),
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
    fn an_address_with_a_secret_is_refused_without_telling_it() {
        for address in [
            "http://user:secret@h:8500",
            "user:secret@h",
            "http://h:8500/prefix?token=secret",
            "http://h:8500/#secret",
            "ftp://user:secret@h",
        ] {
            let error = ConsulConfig::new(address).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{address}: {error}");
        }
        let error = url("consul:secret@h:1").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn the_environment_means_what_it_means_to_the_command() {
        let vars = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = pairs.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let config = ConsulConfig::from_vars(vars(&[
            ("CONSUL_HTTP_ADDR", "agent.internal:8600"),
            ("CONSUL_HTTP_TOKEN", "hush"),
            ("CONSUL_HTTP_AUTH", "user:hush"),
            ("CONSUL_NAMESPACE", "team"),
        ]))
        .unwrap();
        assert_eq!(origins(&config), ["http://agent.internal:8600"]);
        assert_eq!(config.token, Token::Literal("hush".into()));
        assert_eq!(config.options.namespace.as_deref(), Some("team"));
        assert!(
            !format!("{config:?}").contains("hush"),
            "Debug must hide secrets"
        );

        let config = ConsulConfig::from_vars(vars(&[
            ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
            ("CONSUL_HTTP_TOKEN", "hush"),
            ("CONSUL_HTTP_TOKEN_FILE", "/run/token"),
        ]))
        .unwrap();
        assert!(
            matches!(&config.agents[0].target, Target::Unix(path) if path.ends_with("consul.sock"))
        );
        assert_eq!(
            config.token,
            Token::File("/run/token".into()),
            "the file goes first"
        );

        let error = ConsulConfig::from_vars(vars(&[("CONSUL_HTTP_SSL", "maybe")])).unwrap_err();
        assert_eq!(error.field(), "CONSUL_HTTP_SSL");
        let error = ConsulConfig::from_vars(vars(&[("CONSUL_HTTP_ADDR", "ftp://x")])).unwrap_err();
        assert_eq!(error.field(), "CONSUL_HTTP_ADDR");

        // A URL with an address has precedence over the address in the environment; the token still
        // applies.
        let env = vars(&[
            ("CONSUL_HTTP_ADDR", "bad address"),
            ("CONSUL_HTTP_TOKEN", "hush"),
        ]);
        let config = ConsulConfig::from_url_and_vars("consul://h:1", env).unwrap();
        assert_eq!(origins(&config), ["http://h:1"]);
        assert_eq!(config.token, Token::Literal("hush".into()));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_chosen_by_scheme_or_variable() {
        let ssl = |name: &str| (name == "CONSUL_HTTP_SSL").then(|| "true".to_owned());
        assert_eq!(
            origins(&ConsulConfig::from_vars(ssl).unwrap()),
            ["https://127.0.0.1:8500"]
        );
        assert_eq!(
            origins(&url("consul+https://h").unwrap()),
            ["https://h:8501"]
        );
        let files = ConsulConfig::from_vars(|name| match name {
            "CONSUL_HTTP_SSL" => Some("1".to_owned()),
            "CONSUL_HTTP_SSL_VERIFY" => Some("false".to_owned()),
            "CONSUL_HTTP_ADDR" | "CONSUL_HTTP_TOKEN" | "CONSUL_HTTP_TOKEN_FILE" => None,
            name => Some(name.to_lowercase()),
        });
        let tls = files.unwrap().tls;
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        assert_eq!(text(&tls.ca_file).as_deref(), Some("consul_cacert"));
        assert_eq!(text(&tls.ca_path).as_deref(), Some("consul_capath"));
        assert_eq!(text(&tls.cert).as_deref(), Some("consul_client_cert"));
        assert_eq!(text(&tls.key).as_deref(), Some("consul_client_key"));
        assert_eq!(tls.server_name.as_deref(), Some("consul_tls_server_name"));
        assert!(tls.unverified);
        let config = ConsulConfig::new("https://h/consul/").unwrap();
        assert_eq!(origins(&config), ["https://h:443/consul"]);
    }
}
