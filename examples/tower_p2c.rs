//! This crate's discovery under tower's own balancer: `cargo run --example tower_p2c -- consul: user-service`

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tower::{Service, ServiceExt, balance::p2c::Balance};
use tower_roster::{
    BoxError,
    classify::Http,
    client::{HttpEndpoints, ResponseExt},
    endpoint::load::PeakEwma,
    registry,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("consul:".into());
    let service = arguments.next().unwrap_or("user-service".into());

    let discover = registry::connect(&url)?
        .watch(service)?
        .discover(HttpEndpoints::<Empty<Bytes>>::new())
        .measured(PeakEwma::new())
        .classify(Http::default());
    let mut balance = Balance::new(discover);
    let request = Request::get("/").body(Empty::new())?;
    let response = balance.ready().await?.call(request).await?;
    println!(
        "{} {}",
        response.status(),
        response.text(64 * 1024).await?.trim()
    );
    Ok(())
}
