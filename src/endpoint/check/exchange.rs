//! One check of one endpoint, from the connection to the result.

use tokio::time::timeout;

use super::{
    error::CheckError,
    settings::{Checks, Kind},
};
use crate::{
    connect::{Connector, Io, Target},
    instance::Address,
    probe,
};

/// Checks an endpoint within the timeout.
pub(super) async fn run(checks: &Checks, address: &Address) -> Result<(), CheckError> {
    match timeout(checks.settings.timeout, ask(checks, address)).await {
        Ok(result) => result,
        Err(_) => Err(CheckError::Timeout(checks.settings.timeout)),
    }
}

async fn ask(checks: &Checks, address: &Address) -> Result<(), CheckError> {
    match &checks.kind {
        Kind::Tcp => match probe::connect(address).await {
            Ok(_) => Ok(()),
            Err(error) => Err(CheckError::Connect(error.into())),
        },
        Kind::Http(path) => {
            let host = host(checks, address);
            let io = connect(checks, address, &host).await?;
            let status = probe::get(io, &host, path.as_str()).await;
            match status.map_err(CheckError::Exchange)? {
                status if status.is_success() => Ok(()),
                status => Err(CheckError::Status(status)),
            }
        }
        #[cfg(feature = "http2")]
        Kind::Grpc(service) => {
            let host = host(checks, address);
            let io = connect(checks, address, &host).await?;
            grpc::check(io, &host, service).await
        }
    }
}

/// The host name of the request.
fn host(checks: &Checks, address: &Address) -> String {
    match &checks.host {
        Some(host) => host.to_string(),
        None => address.to_string(),
    }
}

async fn connect(checks: &Checks, address: &Address, host: &str) -> Result<Io, CheckError> {
    // The same timeout bounds the check as a whole.
    let connector = Connector::new(Target::Tcp(address.clone()), checks.settings.timeout);
    #[cfg(feature = "tls")]
    let connector = match &checks.tls {
        Some(config) => connector.tls(std::sync::Arc::clone(config)),
        None => connector,
    };
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query("/")
        .build()
        .map_err(|error| CheckError::Connect(error.into()))?;
    let mut connector = connector;
    let connected = tower::Service::call(&mut connector, uri).await;
    connected.map_err(CheckError::Connect)
}

#[cfg(feature = "http2")]
mod grpc;
