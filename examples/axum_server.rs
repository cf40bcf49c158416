//! An axum server that announces itself, and leaves without losing a request.
//!
//! `cargo run --example axum_server -- consul: user-service 0.0.0.0:8080`

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tower_roster::{BoxError, registry, registry::Health, server::ServerSettings};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let usage = "give: URL SERVICE ADDRESS";
    let [url, service, listen] = [1, 2, 3].map(|n| std::env::args().nth(n).expect(usage));

    let listener = TcpListener::bind(listen).await?;
    let settings = ServerSettings::new(service).health(Health::http("/health"));
    let server = registry::connect(&url)?.announce(settings, &listener)?;
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route_service("/health", server.readiness());
    let serve = server.serve(|leave| axum::serve(listener, app).with_graceful_shutdown(leave));
    serve.await?;
    Ok(())
}
