//! One check of one endpoint, from the connection to the result.

use tokio::time::timeout;

use super::{
    error::CheckError,
    settings::{CheckKind, HealthCheck},
};
use crate::{
    connect::{Connector, Io, Target},
    instance::Address,
    probe,
};

/// Checks endpoints within a timeout.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) check: HealthCheck,
    #[cfg(feature = "tls")]
    tls: Option<std::sync::Arc<rustls::ClientConfig>>,
}

impl Exchange {
    pub(super) fn new(check: HealthCheck) -> Self {
        Self {
            #[cfg(feature = "tls")]
            tls: check.tls_config(),
            check,
        }
    }

    pub(super) async fn run(&self, address: &Address) -> Result<(), CheckError> {
        match timeout(self.check.timeout, self.ask(address)).await {
            Ok(result) => result,
            Err(_) => Err(CheckError::Timeout(self.check.timeout)),
        }
    }

    async fn ask(&self, address: &Address) -> Result<(), CheckError> {
        match &self.check.kind {
            CheckKind::Tcp => match probe::connect(address).await {
                Ok(_) => Ok(()),
                Err(error) => Err(CheckError::Connect(error.into())),
            },
            CheckKind::Http(path) => {
                let (io, host) = self.connect(address).await?;
                let status = probe::get(io, &host, path).await;
                match status.map_err(CheckError::Exchange)? {
                    status if status.is_success() => Ok(()),
                    status => Err(CheckError::Status(status)),
                }
            }
            #[cfg(feature = "http2")]
            CheckKind::Grpc(service) => {
                let (io, host) = self.connect(address).await?;
                grpc::check(io, &host, service).await
            }
            #[cfg(not(feature = "http2"))]
            CheckKind::Grpc(_) => Err(CheckError::Exchange("it needs feature http2".into())),
        }
    }

    /// Connects. Returns also the host name for the request.
    async fn connect(&self, address: &Address) -> Result<(Io, String), CheckError> {
        let host = self
            .check
            .host
            .clone()
            .unwrap_or_else(|| address.to_string());
        // The same timeout bounds the check as a whole.
        let connector = Connector::new(Target::Tcp(address.clone()), self.check.timeout);
        #[cfg(feature = "http2")]
        let connector = connector.only_http2(matches!(self.check.kind, CheckKind::Grpc(_)));
        #[cfg(feature = "tls")]
        let connector = match &self.tls {
            Some(config) => connector.tls(std::sync::Arc::clone(config)),
            None => connector,
        };
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(host.as_str())
            .path_and_query("/")
            .build()
            .map_err(|error| CheckError::Connect(error.into()))?;
        let mut connector = connector;
        let connected = tower::Service::call(&mut connector, uri).await;
        Ok((connected.map_err(CheckError::Connect)?, host))
    }
}

#[cfg(feature = "http2")]
mod grpc;
