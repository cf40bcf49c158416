//! A hyper server that announces itself, and leaves without losing a request.
//!
//! `cargo run --example hyper_server -- consul: user-service 0.0.0.0:8080`

use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::{conn::auto::Builder, graceful::GracefulShutdown};
use tower_roster::{BoxError, registry};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let usage = "give: URL SERVICE ADDRESS";
    let [url, service, listen] = [1, 2, 3].map(|n| std::env::args().nth(n).expect(usage));

    let listener = tokio::net::TcpListener::bind(listen).await?;
    let server = registry::connect(&url)?.announce(service, &listener)?;
    let (http, graceful) = (Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    let hello =
        async |_: http::Request<Incoming>| Ok::<_, BoxError>(Response::new("hello\n".to_owned()));
    let serve = server.serve(async |mut leave| {
        while let Some(accepted) = leave.or(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            };
            let connection = http.serve_connection(TokioIo::new(stream), service_fn(hello));
            tokio::spawn(graceful.watch(connection.into_owned()));
        }
        drop(listener);
        graceful.shutdown().await;
    });
    serve.await?;
    Ok(())
}
