//! The status page of an example program.

use std::net::SocketAddr;

use super::client::Caller;

/// Serves the status page of a client until the program ends. Returns its URL.
#[cfg(feature = "status")]
pub async fn serve(
    address: SocketAddr,
    title: String,
    service: &str,
    caller: &Caller,
) -> Result<String, String> {
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
        service::TowerToHyperService,
    };
    use tower_roster::telemetry::status::{StatusPage, StatusSettings};

    let page = StatusPage::new();
    let page = page.service_with_latencies(
        service,
        caller.handles().clone(),
        caller.latencies().clone(),
    );
    let page = page.settings(StatusSettings::new().title(title)).build();
    let page = page.map_err(|error| error.to_string())?;
    let (listener, local) = super::server::bind(address).await?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            };
            let service = TowerToHyperService::new(page.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(format!("http://{local}/"))
}

/// Says how to get it.
#[cfg(not(feature = "status"))]
pub async fn serve(_: SocketAddr, _: String, _: &str, _: &Caller) -> Result<String, String> {
    Err("this program was built without the status page: add --features status".to_owned())
}
