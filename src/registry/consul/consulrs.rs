//! Sends the requests through a `consulrs` client of the user.
//!
//! `consulrs` has no method for `/v1/health/service`; its own code encodes a name twice, and unwraps
//! headers. So the requests are built here, with the address and the token of its settings, and sent by
//! the HTTP client inside it. The deadlines are set here too.

use std::sync::Arc;

use consulrs::client::{Client as _, ConsulClient};
use http::{HeaderName, HeaderValue, StatusCode};
use rustify::{client::Client as _, errors::ClientError};

use super::{
    config::warn_of_plain_secrets,
    transport::{TOKEN_HEADER, Transport},
};
use crate::{
    error::{ErrorKind, RegistryError},
    registry::{
        BoxFuture,
        http::{Reply, Request, is_gzip, is_local},
        redact::{Secrets, shown},
    },
};

/// The longest accepted response, as in the default transport. It is checked after the response was
/// read.
const MAX_BODY: usize = 64 << 20;

pub(super) struct Consulrs {
    client: Arc<ConsulClient>,
    name: Arc<str>,
}

impl Consulrs {
    pub(super) fn new(client: Arc<ConsulClient>) -> Self {
        let name = format!("consul {} (consulrs)", shown(origin(&client)));
        Self {
            client,
            name: name.into(),
        }
    }

    /// Warns if the token can be read on the way to the agent.
    pub(super) fn warn_of_plain_secrets(&self) {
        let token = self.client.settings().token.as_deref().unwrap_or_default();
        let Some(("http", place)) = origin(&self.client).split_once("://") else {
            return;
        };
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        let authority = place.split('/').next().unwrap_or_default();
        let host = authority.parse::<http::uri::Authority>();
        let host = host.ok().and_then(|host| host.host().parse().ok());
        if !token.trim().is_empty() && !host.is_some_and(|host| is_local(&host)) {
            warn_of_plain_secrets(&self.name);
        }
    }

    async fn exchange(&self, request: Request) -> Result<Reply, RegistryError> {
        let fail = |kind, message: &str| RegistryError::new(kind, message);
        let mut secrets = Secrets::default();
        // The errors of the client quote its address.
        if let Some((user, _)) = origin(&self.client).rsplit_once('@') {
            let user = user.split_once("//").map_or(user, |(_, user)| user);
            user.split(':').for_each(|part| secrets.add(part));
        }
        let unusable = |error: http02::Error| {
            fail(ErrorKind::Invalid, "the request cannot be built").with_source(error)
        };
        let mut built = http02::Request::builder()
            .method(request.method.as_str())
            .uri(format!("{}{}", origin(&self.client), request.path));
        for (name, value) in &request.headers {
            built = built.header(name.as_str(), value.as_bytes());
        }
        if let Some(token) = self.client.settings().token.as_deref().map(str::trim)
            && !token.is_empty()
        {
            let mut value = http02::HeaderValue::from_str(token)
                .map_err(|_| fail(ErrorKind::Invalid, "the token cannot stand in a header"))?;
            value.set_sensitive(true);
            secrets.add(token);
            built = built.header(TOKEN_HEADER.as_str(), value);
        }
        let built = built.body(request.body.to_vec()).map_err(unusable)?;
        let sent = tokio::time::timeout(request.within, self.client.http().send(built)).await;
        let response = sent
            .map_err(|_| {
                let message = format!("no answer within {:?}", request.within);
                fail(ErrorKind::Timeout, &message)
            })?
            .map_err(|error| match error {
                ClientError::ReqwestBuildError { source } => {
                    fail(ErrorKind::Invalid, "the request cannot be built")
                        .with_source(secrets.cause(source))
                }
                ClientError::RequestError { source, .. } => {
                    fail(ErrorKind::Unreachable, "the request failed")
                        .with_source(secrets.cause(source))
                }
                ClientError::ResponseError { source } => {
                    fail(ErrorKind::Unreachable, "the answer broke off")
                        .with_source(secrets.cause(source).after_head())
                }
                other => fail(ErrorKind::Unreachable, "the request failed")
                    .with_source(secrets.cause(other)),
            })?;
        let (head, body) = response.into_parts();
        if body.len() > MAX_BODY {
            let message = format!("an answer is longer than {MAX_BODY} bytes");
            return Err(fail(ErrorKind::Malformed, &message));
        }
        let headers = head.headers.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        let headers = headers.collect();
        // The client decodes what it asked for.
        is_gzip(&headers, false)?;
        let status = StatusCode::from_u16(head.status.as_u16());
        Ok(Reply {
            status: status.map_err(|error| {
                fail(ErrorKind::Malformed, "the status is no number").with_source(error)
            })?,
            headers,
            body: body.into(),
            secrets,
            link: None,
        })
    }
}

/// Returns the address of the agent without a trailing slash.
fn origin(client: &ConsulClient) -> &str {
    client.http().base().trim_end_matches('/')
}

impl_debug!(Consulrs: |this| name = this.name);

impl Transport for Consulrs {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn send<'a>(
        &'a self,
        _agent: usize,
        request: Request,
    ) -> BoxFuture<'a, Result<Reply, RegistryError>> {
        Box::pin(self.exchange(request))
    }
}

#[cfg(test)]
mod tests {
    use consulrs::client::ConsulClientSettingsBuilder;

    use super::*;

    #[test]
    fn the_name_tells_no_password() {
        let mut settings = ConsulClientSettingsBuilder::default();
        settings.address("http://user:secret@h:8500");
        let settings = settings.build().expect("settings");
        let client = ConsulClient::new(settings).expect("a client");
        let name = Consulrs::new(Arc::new(client)).name();
        assert_eq!(&*name, "consul http://…@h:8500 (consulrs)");
    }
}
