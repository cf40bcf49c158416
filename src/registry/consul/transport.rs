//! Sends requests to agents, over hyper or through the user's client.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, header};

use super::{
    agent::AgentAddress,
    config::ConsulConfig,
    options::ConsulOptions,
    token::{Credentials, hidden},
};
#[cfg(feature = "tls")]
use crate::registry::tls::client_config;
use crate::{
    connect::{Connector, Target},
    error::{ConfigError, ErrorKind, RegistryError},
    instance::Address,
    registry::{
        BoxFuture,
        http::{self as registry_http, RegistryHttp, Reply, Request},
    },
};

pub(super) const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-consul-token");

/// Sends requests to agents.
pub(super) trait Transport: fmt::Debug + Send + Sync {
    /// Returns the backend's name for errors.
    fn name(&self) -> Arc<str>;

    /// Returns the address of the first agent, if it is known and no Unix socket.
    fn address(&self) -> Option<Address> {
        None
    }

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
    address: Option<Address>,
    http: RegistryHttp,
    token: Credentials,
    basic_auth: Option<HeaderValue>,
}

impl Hyper {
    pub(super) fn new(config: ConsulConfig) -> Result<(Self, ConsulOptions), ConfigError> {
        let agents = config.agents()?;
        let address = agents.first().and_then(|agent| match &agent.target {
            Target::Tcp(address) => Some(address.clone()),
            #[cfg(unix)]
            Target::Unix(_) => None,
        });
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
            // Gzip makes responses twenty times smaller; the time for it pays off on a network only.
            (agent.origin.clone(), !agent.is_local(), connector)
        });
        let agents: Vec<_> = agents.collect();
        let token = Credentials::new(config.token)?;
        let basic_auth = config.basic_auth.map(|auth| basic(&auth)).transpose()?;
        let transport = Self {
            name: format!("consul {}", urls.join(",")).into(),
            address,
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

    fn address(&self) -> Option<Address> {
        self.address.clone()
    }

    fn send<'a>(
        &'a self,
        agent: usize,
        request: Request,
    ) -> BoxFuture<'a, Result<Reply, RegistryError>> {
        Box::pin(async move {
            let token = self.token.current();
            let signed = self.sign(request.clone(), token.clone());
            let reply = self.http.send(agent, signed).await?;
            if !matches!(reply.status.as_u16(), 401 | 403) {
                return Ok(reply);
            }
            match self.token.after_refusal(token.as_ref()) {
                Ok(None) => Ok(reply),
                Ok(other) => self.http.send(agent, self.sign(request, other)).await,
                Err(error) => {
                    let message = format!("answered {}, and there is no other token", reply.status);
                    Err(RegistryError::new(ErrorKind::Denied, message).with_source(error))
                }
            }
        })
    }
}

impl Hyper {
    fn sign(&self, mut request: Request, token: Option<HeaderValue>) -> Request {
        if let Some(auth) = &self.basic_auth {
            request.headers.push((header::AUTHORIZATION, auth.clone()));
        }
        if let Some(token) = token {
            request.headers.push((TOKEN_HEADER, token));
        }
        request
    }
}

fn basic(auth: &str) -> Result<HeaderValue, ConfigError> {
    use base64::Engine as _;
    // A user without a password, as the command accepts it.
    let colon = if auth.contains(':') { "" } else { ":" };
    let code = base64::engine::general_purpose::STANDARD.encode(format!("{auth}{colon}"));
    hidden("consul.basic_auth", &format!("Basic {code}"))
}
