//! Sends requests to agents, over hyper or through the user's client.

use std::{
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex},
};

use http::{HeaderName, HeaderValue, header};

use super::{
    agent::AgentAddress,
    config::{ConsulConfig, TokenSource},
    options::ConsulOptions,
};
#[cfg(feature = "tls")]
use crate::registry::tls::client_config;
use crate::{
    connect::{Connector, Target},
    error::{ConfigError, RegistryError},
    registry::{
        BoxFuture,
        http::{self as registry_http, RegistryHttp, Reply, Request},
    },
    sync::lock,
};

pub(super) const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-consul-token");

/// Sends requests to agents.
pub(super) trait Transport: fmt::Debug + Send + Sync {
    /// Returns the backend's name for errors.
    fn name(&self) -> Arc<str>;

    /// Sends a request to the agent at index `agent`, modulo their number. It takes at most
    /// `request.within`, or twice that if the token was replaced. Dropping the future ends the request.
    fn send<'a>(
        &'a self,
        agent: usize,
        request: Request,
    ) -> BoxFuture<'a, Result<Reply, RegistryError>>;
}

/// The default transport.
pub(super) struct Hyper {
    name: Arc<str>,
    http: RegistryHttp,
    token: Credentials,
    basic_auth: Option<HeaderValue>,
}

/// The current token, and its source.
struct Credentials {
    source: TokenSource,
    now: Mutex<Option<HeaderValue>>,
}

impl Hyper {
    pub(super) fn new(config: ConsulConfig) -> Result<(Self, ConsulOptions), ConfigError> {
        let agents = config.agents()?;
        let urls: Vec<_> = agents.iter().map(AgentAddress::url).collect();
        #[cfg(feature = "tls")]
        let tls = if agents.iter().any(|agent| agent.secure) {
            let http2 = cfg!(feature = "http2");
            Some(client_config("consul", &config.tls, http2)?)
        } else {
            None
        };
        let agents = agents.iter().map(|agent| {
            let connector = Connector::new(agent.target.clone(), registry_http::CONNECT_WITHIN);
            let connector = connector.linked();
            #[cfg(feature = "tls")]
            let connector = match &tls {
                Some(tls) if agent.secure => {
                    let connector = connector.tls(Arc::clone(tls));
                    connector.server_name(config.tls.server_name.clone())
                }
                _ => connector,
            };
            let local = match &agent.target {
                Target::Tcp(address) => registry_http::is_local(address.host()),
                #[cfg(unix)]
                Target::Unix(_) => true,
            };
            // Gzip makes responses twenty times smaller; the time for it pays off on a network only.
            (agent.origin.clone(), !local, connector)
        });
        let agents: Vec<_> = agents.collect();
        let token = Credentials {
            now: Mutex::new(read(&config.token)?),
            source: config.token,
        };
        let basic_auth = config.basic_auth.map(|auth| basic(&auth)).transpose()?;
        let transport = Self {
            name: format!("consul {}", urls.join(",")).into(),
            http: RegistryHttp::new(agents, config.max_body),
            token,
            basic_auth,
        };
        Ok((transport, config.options))
    }
}

impl_debug!(Hyper: |this| agents = this.http);

impl Transport for Hyper {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn send<'a>(
        &'a self,
        agent: usize,
        request: Request,
    ) -> BoxFuture<'a, Result<Reply, RegistryError>> {
        Box::pin(async move {
            let signed = self.sign(request.clone());
            let reply = self.http.send(agent, signed).await?;
            if matches!(reply.status.as_u16(), 401 | 403) && self.token.refresh() {
                return self.http.send(agent, self.sign(request)).await;
            }
            Ok(reply)
        })
    }
}

impl Hyper {
    fn sign(&self, mut request: Request) -> Request {
        if let Some(auth) = &self.basic_auth {
            request.headers.push((header::AUTHORIZATION, auth.clone()));
        }
        if let Some(token) = self.token.now() {
            request.headers.push((TOKEN_HEADER, token));
        }
        request
    }
}

impl Credentials {
    fn now(&self) -> Option<HeaderValue> {
        lock(&self.now).clone()
    }

    /// Reads the token's file again. If that fails, the current token stays. Returns whether the token
    /// has changed.
    fn refresh(&self) -> bool {
        if !matches!(self.source, TokenSource::File(_)) {
            return false;
        }
        match read(&self.source) {
            Ok(token) => {
                let mut now = lock(&self.now);
                let changed = *now != token;
                *now = token;
                changed
            }
            Err(error) => {
                tracing::warn!(%error, "keeping the token that was refused");
                false
            }
        }
    }
}

/// Reads a token. It blocks, because the file is small and local.
fn read(token: &TokenSource) -> Result<Option<HeaderValue>, ConfigError> {
    let (field, text) = match token {
        TokenSource::None => return Ok(None),
        TokenSource::Literal(text) => ("consul.token", text.clone()),
        TokenSource::File(path) => ("consul.token_file", read_file("consul.token_file", path)?),
    };
    let text = text.trim();
    if text.is_empty() {
        // Without a token, requests would have the rights of an anonymous client.
        return Err(ConfigError::new(field, "the token is empty"));
    }
    hidden(field, text).map(Some)
}

fn read_file(field: &str, path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path)
        .map_err(|error| ConfigError::new(field, format!("cannot read {path:?}: {error}")))
}

fn basic(auth: &str) -> Result<HeaderValue, ConfigError> {
    use base64::Engine as _;
    // A user without a password, as the command accepts it.
    let colon = if auth.contains(':') { "" } else { ":" };
    let code = base64::engine::general_purpose::STANDARD.encode(format!("{auth}{colon}"));
    hidden("consul.basic_auth", &format!("Basic {code}"))
}

/// Creates a header whose value is never logged.
fn hidden(field: &str, text: &str) -> Result<HeaderValue, ConfigError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ConfigError::new(field, "holds characters that cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
